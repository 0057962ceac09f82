"""Reading a pipeline from YAML, with every problem named by its line."""

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dnnflow.errors import DnnflowError, PipelineError
from dnnflow.paths import write_file
from dnnflow.pipeline import Pipeline

Location = tuple[str | int, ...]
VARIANTS = ("constant", "choice", "int", "uniform", "loguniform", "name", "none")
"""Forms that a parameter of a space is written in; pydantic puts them into the place of an error."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a pipeline file."""

    line: int
    """1-based line of the file."""
    where: str
    """Dotted path, e.g. `space.depth`; empty for the file as a whole."""
    message: str

    def __str__(self) -> str:
        return (
            f"line {self.line}: {self.where}: {self.message}"
            if self.where
            else f"line {self.line}: {self.message}"
        )


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as everybody writes it, but `1e-3` is a number and a repeated key an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} stands twice", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def load_pipeline(path: str | Path, overrides: Iterable[str] = ()) -> Pipeline:
    """Read and validate a pipeline file.

    Parameters
    ----------
    path
        A YAML file. Relative paths in it are relative to its folder.
    overrides
        `a.b=value` texts laid over the file; the value is YAML.

    Raises
    ------
    PipelineError
        Naming every problem with its line.
    """
    text = _read(Path(path))
    data, problems = check_text(text, overrides, folder=Path(path).parent)
    if problems or data is None:
        shown = "; ".join(str(problem) for problem in problems)
        raise PipelineError(f"{path} is not a valid pipeline: {shown}")
    return data


def find_problems(path: str | Path, overrides: Iterable[str] = ()) -> list[Problem]:
    """Return every problem of a pipeline file, in the order of its lines."""
    return check_text(_read(Path(path)), overrides, folder=Path(path).parent)[1]


def check_text(
    text: str, overrides: Iterable[str] = (), *, folder: Path
) -> tuple[Pipeline | None, list[Problem]]:
    """Validate the text of a pipeline; return the pipeline, or None and its problems."""
    try:
        root = yaml.compose(text, Loader=_Loader)
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        return None, [
            Problem((mark.line + 1) if mark else 1, "", f"not valid YAML: {getattr(error, 'problem', error)}")
        ]
    if not isinstance(data, dict):
        return None, [Problem(1, "", f"a pipeline is a mapping of sections, got {type(data).__name__}")]
    for override in overrides:
        _apply(data, override)
    try:
        pipeline = Pipeline.model_validate(data).resolved(folder)
    except ValidationError as error:
        return None, _from_validation(error, root)
    problems = [
        Problem(_line_of(root, where), ".".join(map(str, where)), message)
        for where, message in _doubts(pipeline)
    ]
    return (None if problems else pipeline), problems


def write_pipeline(pipeline: Pipeline, path: Path) -> None:
    """Write a pipeline as YAML that `load_pipeline` reads back."""
    write_file(path, to_yaml(pipeline))


def to_yaml(pipeline: Pipeline) -> str:
    """Return a pipeline as YAML text."""
    return yaml.safe_dump(pipeline.plain(), sort_keys=False, allow_unicode=True)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` laid over it, mapping by mapping.

    A parameter's form is replaced whole: {choice: […]} over {int: […]} leaves no trace of the range.
    """
    forms = {"choice", "int", "uniform", "loguniform"}
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        if both and not forms & (set(old or {}) | set(value)):
            merged[key] = merge(old or {}, value)
        else:
            merged[key] = value
    return merged


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise PipelineError(f"a pipeline must be a readable YAML file, got {path}: {reason}") from error


def _apply(data: dict[str, Any], override: str) -> None:
    where, equals, text = override.partition("=")
    keys = where.strip().split(".")
    if not equals or not all(keys):
        raise PipelineError(f"an override must be written section.key=value, got {override!r}")
    patch: Any = yaml.load(text, Loader=_Loader)
    for key in reversed(keys):
        patch = {key: patch}
    data.update(merge(data, patch))


def _from_validation(error: ValidationError, root: yaml.Node | None) -> list[Problem]:
    problems = []
    for item in error.errors(include_url=False):
        where = _in_file(item["loc"], root)
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key; " + _known_keys(where[:-1])
        elif item["type"] == "missing":
            message = "this key is required"
        else:
            message = f"{message}, got {item['input']!r}" if item["loc"] else message
        line = _line_of(root, where)
        problems.append(Problem(line, ".".join(map(str, where)), message))
    return sorted(dict.fromkeys(problems), key=lambda problem: problem.line)


def _known_keys(where: Location) -> str:
    model: Any = Pipeline
    for part in where:
        annotation = getattr(model, "model_fields", {}).get(part)
        model = annotation.annotation if annotation else None
    names = [info.alias or name for name, info in getattr(model, "model_fields", {}).items()]
    return f"known keys here: {', '.join(names)}" if names else "remove it"


def _in_file(where: Sequence[str | int], root: yaml.Node | None) -> Location:
    """Drop the parts of a pydantic location that name a variant of a union and not a place in the file."""
    node: yaml.Node | None = root
    kept: list[str | int] = []
    for index, part in enumerate(where):
        child = _child(node, part)
        last = index == len(where) - 1
        if child is not None or (last and part not in VARIANTS):
            if child is None and isinstance(node, yaml.ScalarNode):
                continue
            kept.append(part)
            node = child[1] if child else None
    return tuple(kept)


def _child(node: yaml.Node | None, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == str(part)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None


def _line_of(root: yaml.Node | None, where: Sequence[str | int]) -> int:
    node, line = root, 1
    for part in where:
        child = _child(node, part)
        if child is None:
            break
        line, node = child[0].start_mark.line + 1, child[1]
    return line


def _doubts(pipeline: Pipeline) -> list[tuple[Location, str]]:
    """Return what is wrong although every field alone is right."""
    from dnnflow.stages import draw_designs

    found: list[tuple[Location, str]] = []
    for where, build in _PARTS.items():
        try:
            build(pipeline)
        except DnnflowError as error:
            found.append((where, str(error)))
    if not found:
        try:
            draw_designs(pipeline)
        except DnnflowError as error:
            found.append((("space",), str(error)))
    return found


def _engine(pipeline: Pipeline) -> None:
    from dnnflow.training.engines import find_engine

    find_engine(pipeline.training.engine)


_PARTS: dict[Location, Any] = {
    ("dataset",): lambda pipeline: (pipeline.source, pipeline.recipe),
    ("space",): lambda pipeline: pipeline.space.to_space(),
    ("training", "engine"): _engine,
}
