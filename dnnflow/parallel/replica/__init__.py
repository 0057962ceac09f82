"""Do what a replica does on its worker: batches in, pushes out, until no row is left."""
