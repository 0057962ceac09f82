"""Keep runs, designs and trials in SQLite or PostgreSQL.

Start at `store`. Nothing here draws, trains or asks a cluster.
"""
