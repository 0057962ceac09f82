"""Run the parts of a benchmark that are asked for."""

import argparse
import importlib
from collections.abc import Mapping

Parts = Mapping[str, tuple[str, tuple[str, ...]]]
"""Module of each part, and the options that it takes."""


def parser_of(text: str | None, parts: Parts) -> argparse.ArgumentParser:
    """Return a parser whose option `--part` chooses; others are added to it."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=parts, nargs="+", default=list(parts))
    return parser


def run(parts: Parts, options: argparse.Namespace) -> None:
    """Measure the parts that were chosen."""
    for part in options.part:
        module, names = parts[part]
        importlib.import_module(module).measure(**{name: getattr(options, name) for name in names})
