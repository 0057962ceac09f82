"""Say which replica trains on which rows, and give it their batches."""
