"""`python -m dnnflow` is the command line."""

from dnnflow.cli import main

main()
