"""`python -m dnnflow` is the command line."""

from dnnflow.cli.main import main

main()
