"""Write and open datasets: zarr arrays, schema and fitted preprocessing, identified by content.

Start at `ingest` (from a table) and `dataset` (from disk). No design, no engine.
"""
