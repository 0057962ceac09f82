"""Train one model on many workers with a parameter server.

Rooms from the ground up: `spec`, `model`, `rows`, `server`, `channel`, `replica`, `driver`.
`docs/parallel.md` has the formulas.
"""
