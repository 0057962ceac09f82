"""Health check of a container: `python -m dnnflow.serve.health URL` ends with 0 if the URL answers 200."""

import sys

from dnnflow.serve.processes import answers

if __name__ == "__main__":
    sys.exit(0 if answers(sys.argv[1]) else 1)
