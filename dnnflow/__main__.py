"""Begin the command line, of `dnnflow` and of `python -m dnnflow`."""

import sys

from dnnflow.errors import INTERRUPTED, INTERRUPTED_CODE


def main() -> None:
    """Run the command line; Ctrl-C is a sentence even while it is being imported."""
    try:
        from dnnflow.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write(f"dnnflow: error: {INTERRUPTED}\n")
        sys.exit(INTERRUPTED_CODE)
    run()


if __name__ == "__main__":
    main()
