"""Train designs: the interface of engines, what all of them share, and the registry that finds them.

Start at `seam` (the interface) and `records` (what a training leaves behind). Each engine is a room below, or
one file here. No cluster, no store.
"""
