"""Hold the weights and apply what is pushed: state, rules and optimizers. No network, no Dask."""
