"""Make commands whose options are known when they are called: `dnnflow --help` imports no model for them."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import typer
from typer.core import TyperCommand


def lazy(build: Callable[[], Callable[..., None]]) -> type[TyperCommand]:
    """Return the class of a command that is the function that `build` makes when it is called.

    The function that the class is given to has only the command's name and help.
    """

    class LazyCommand(TyperCommand):
        @cached_property
        def made(self) -> Any:
            app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            app.command(help=self.help)(build())
            return typer.main.get_command(app)

        def make_context(self, *given: Any, **more: Any) -> Any:
            return self.made.make_context(*given, **more)

    return LazyCommand
