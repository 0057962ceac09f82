"""Read the command line: build a run, listen, print. Holds no rules."""
