"""Hold the parameters of a parallel training: the only list of them. No TensorFlow, no Dask."""
