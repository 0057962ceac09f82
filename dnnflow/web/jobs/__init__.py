"""Have runs done elsewhere: by a supervised child of this machine, or by a Prefect server."""
