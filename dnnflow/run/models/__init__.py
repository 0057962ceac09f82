"""Models that are handed out: read, applied to new rows, exported."""
