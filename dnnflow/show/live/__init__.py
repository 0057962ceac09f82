"""Draw a run while it goes on, as a page of the Dask dashboard."""
