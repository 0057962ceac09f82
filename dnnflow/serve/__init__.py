"""Start the server processes that serve flows, and the health check of containers.

Prefect is never imported: its processes are started by command.
"""
