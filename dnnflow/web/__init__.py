"""Answer a browser and REST clients: build runs, listen, show.

Rooms from the ground up: `contract`, `guard`, `uploads`, `jobs`, `answers`, `api`, `pages`. TensorFlow,
Dask and Prefect are never imported by the server's process.
"""
