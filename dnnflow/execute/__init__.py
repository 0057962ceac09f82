"""Run trials somewhere: in this process, or on a Dask cluster.

Start at `executor` (the interface), `dask` and `local`. `worker` is the preload of every worker. Nothing here
knows the results store.
"""
