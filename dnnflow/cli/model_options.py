"""Make options of the command line from the fields of a pydantic model, and the model from what was given."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from dnnflow.errors import InputError
from dnnflow.parameters import choices_of, display_of, plain_type, rule_broken


class ModelOptions:
    """Options that set the fields of a model's sections, each with its docstring as help.

    Parameters
    ----------
    model
        Its fields are sections, whose fields become options.
    sections
        Those that are set, in the order of their options.
    arguments
        Name → dotted path of a field that is given by its place.
    left_out
        Dotted paths of fields that the command line cannot say.
    defaults
        Dotted path → value, where the command has one of its own.
    """

    def __init__(
        self, model: type[BaseModel], sections: Sequence[str], *, arguments: Mapping[str, str],
        left_out: Sequence[str] = (), defaults: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self._model, self._sections, self._arguments = model, sections, arguments
        self._left_out, self._defaults = {*left_out, *arguments.values()}, defaults or {}

    @cached_property
    def fields(self) -> dict[str, tuple[str, FieldInfo]]:
        """Name of each parameter of the command → the dotted path of its field, and the field."""
        paths = dict(self._arguments)
        for section in self._sections:
            for name in _section(self._model, section).model_fields:
                if (path := f"{section}.{name}") not in self._left_out:
                    paths[path.replace(".", "_")] = path
        return {name: (path, _field(self._model, path)) for name, path in paths.items()}

    def parameters(self) -> Iterator[Parameter]:
        """Yield the parameters of the command, for its signature."""
        for name, (path, field) in self.fields.items():
            help_ = _help(field)
            if name in self._arguments:
                yield _parameter(name, str, typer.Argument(help=help_), Parameter.empty)
                continue
            kind, default = _kind(field), self._default(path, field)
            info = typer.Option(_spelling(path, field), help=help_, metavar=display_of(field).metavar or None)
            if default is Parameter.empty:
                yield _parameter(name, kind, info, default)
            elif kind is bool:
                yield _parameter(name, bool, info, False)
            elif default in (None, ()):
                yield _parameter(name, kind | None, info, None)
            else:
                yield _parameter(name, kind, info, str(default) if kind is str else default)

    def command(self, call: Callable[..., None]) -> Callable[..., None]:
        """Return a function whose signature lists the options, for typer.

        Parameters
        ----------
        call
            Its first parameter takes what was given to the options; the others are options of its own.
        """
        _, *own = signature(call).parameters.values()

        def command(**given: Any) -> None:
            call(given, **{one.name: given.pop(one.name) for one in own})

        command.__signature__ = Signature([*self.parameters(), *own])  # type: ignore[attr-defined]
        command.__annotations__ = {}
        return command

    def read(self, given: Mapping[str, Any], **more: Any) -> Any:
        """Return the model that the values of a command's parameters describe.

        Parameters
        ----------
        more
            What else the model takes; sections are laid under what options say.

        Raises
        ------
        InputError
            Naming the option, its rule and the value.
        """
        plain = {name: dict(part) if isinstance(part, Mapping) else part for name, part in more.items()}
        for name, (path, field) in self.fields.items():
            value, (section, key) = given[name], path.split(".")
            default = self._default(path, field)
            if _kind(field) is bool:
                value = value != default
            if value is not None and (path in self._defaults or value != default):
                plain.setdefault(section, {})[key] = value
        try:
            return self._model.model_validate(plain)
        except ValidationError as error:
            raise InputError(self._in_words(error)) from None

    def _default(self, path: str, field: FieldInfo) -> Any:
        own = Parameter.empty if field.is_required() else field.get_default(call_default_factory=True)
        return self._defaults.get(path, own)

    def _in_words(self, error: ValidationError) -> str:
        section, *inside = (str(part) for part in error.errors()[0]["loc"])
        path = f"{section}.{inside[0]}" if inside else section
        spelled = {path: _spelling(path, field) for path, field in self.fields.values()}
        return rule_broken(_section(self._model, section), error, spelled.get(path, path))


def _section(model: type[BaseModel], name: str) -> Any:
    return plain_type(model.model_fields[name].annotation)


def _field(model: type[BaseModel], path: str) -> FieldInfo:
    section, name = path.split(".")
    found: FieldInfo = _section(model, section).model_fields[name]
    return found


def _spelling(path: str, field: FieldInfo) -> str:
    """Return an option as it is typed: without its unit; `--no-` of what is on by default."""
    name = display_of(field).option or path.rpartition(".")[2].removesuffix("_s")
    return f"--{'no-' if field.default is True else ''}{name.replace('_', '-')}"


def _help(field: FieldInfo) -> str:
    """Return a field's docstring, with the choices that it does not name."""
    text, kind = " ".join((field.description or "").split()), plain_type(field.annotation)
    if field.default is True:
        text = f"Off: {text[:1].lower()}{text[1:]}"
    choices = choices_of(kind)
    if not all(choice in text for choice in choices):
        text += f" One of {', '.join(choices)}."
    return f"{text} Repeatable." if _kind(field) == list[str] else text


def _kind(field: FieldInfo) -> Any:
    """Return the type that an option reads."""
    kind = plain_type(field.annotation)
    variants = () if isinstance(field.default, str) else get_args(field.annotation)
    if any(get_origin(one) is tuple for one in (kind, *variants)):
        return list[str]
    return kind if kind in (bool, int, float) else str


def _parameter(name: str, kind: Any, info: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])
