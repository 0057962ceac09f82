"""Draw numbers: reports, terminal, lines for people. Imported by doors only."""
