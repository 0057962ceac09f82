"""Read a pipeline from YAML, with every problem named by its line."""

import json
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import yaml

from dnnflow.design.draws import KINDS
from dnnflow.errors import InputError, PipelineError
from dnnflow.pipeline.pipeline_checks import (
    Location,
    find_doubts,
    find_training_doubts,
    validate_leniently,
    validate_training,
)
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline

VARIANTS = ("constant", *KINDS, "name", "none")
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
            if not isinstance(name, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, f"a key must be a text, got {name!r}", key.start_mark
                )
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


AnyPipeline = Pipeline | TrainPipeline
MOVED = {
    "dataset.test_fraction": "evaluation.test_fraction", "training.validation_fraction": "evaluation.holdout"
}  # fmt: skip
"""Keys of older pipelines, and what they are called today."""
KINDS_OF_RUN: Mapping[str, type[AnyPipeline]] = {"study": Pipeline, "training": TrainPipeline}


def kind_of(data: Mapping[str, Any]) -> type[AnyPipeline]:
    """Return what plain data describe: as `kind` says, else a training where there is a `model`."""
    return KINDS_OF_RUN.get(str(data.get("kind")), TrainPipeline if "model" in data else Pipeline)


def load_pipeline(path: str | Path, overrides: Iterable[str] = ()) -> Pipeline:
    """Read and validate the file of a study's pipeline; see `load_any`.

    Raises
    ------
    PipelineError
        Naming every problem with its line; or for a training's file.
    """
    pipeline = load_any(path, overrides)
    if isinstance(pipeline, TrainPipeline):
        raise PipelineError(f"a study's pipeline has no model, got {path}, which trains one; use load_any")
    return pipeline


def load_any(path: str | Path, overrides: Iterable[str] = ()) -> AnyPipeline:
    """Read and validate a pipeline file, of a study or (by its `kind`, or with a `model`) of a training.

    Parameters
    ----------
    path
        A YAML file. Relative paths in it are relative to its folder.
    overrides
        `a.b=value` texts laid over the file; the value is YAML. Relative paths in them are relative to the
        current directory.

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


def as_pipeline(given: object) -> Pipeline:
    """Return the pipeline that is given in whatever form Python has it.

    Parameters
    ----------
    given
        A `Pipeline`, the path of a YAML file, or a mapping of its sections; relative paths in a mapping are
        relative to the current directory.

    Raises
    ------
    InputError
        If it is something else.
    PipelineError
        Naming every problem.
    """
    if isinstance(given, Pipeline):
        return given
    if isinstance(given, str | Path):
        return load_pipeline(given)
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        remedy = "dnnflow run FILE or dnnflow.train runs it" if isinstance(given, TrainPipeline) else (
            "write a table to a file and name it in dataset.source"
        )  # fmt: skip
        raise InputError(
            f"a study's pipeline is a Pipeline, the path of a YAML file or a mapping of its sections, got a "
            f"{kind}; {remedy}"
        )
    data, problems = check_text(json.dumps(given, default=_json_type), folder=Path.cwd())
    if problems or data is None:
        told = (f"{one.where}: {one.message}" if one.where else one.message for one in problems)
        raise PipelineError(f"the mapping is not a valid pipeline: {'; '.join(told)}")
    if isinstance(data, TrainPipeline):
        raise PipelineError("a study's pipeline has no model, got a mapping that has one; use dnnflow.train")
    return data


def _json_type(value: Any) -> Any:
    """Return a number of numpy as one of Python, a path as text."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    raise InputError(
        f"a mapping of a pipeline holds texts, numbers, lists and mappings, got {type(value).__name__} in it"
    )


def find_problems(path: str | Path, overrides: Iterable[str] = ()) -> list[Problem]:
    """Return every problem of a pipeline file, in the order of its lines."""
    return check_text(_read(Path(path)), overrides, folder=Path(path).parent)[1]


def check_text(
    text: str, overrides: Iterable[str] = (), *, folder: Path
) -> tuple[AnyPipeline | None, list[Problem]]:
    """Validate the text of a pipeline; return the pipeline, or None and its problems."""
    try:
        root = yaml.compose(text, Loader=_Loader)
        data = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        return None, [Problem((mark.line + 1) if mark else 1, "", f"not valid YAML: {_reason(error)}")]
    if not isinstance(data, dict):
        return None, [Problem(1, "", f"a pipeline is a mapping of sections, got {type(data).__name__}")]
    kind = kind_of(data)
    overridden = {_apply(data, override, kind) for override in overrides}
    pipeline: AnyPipeline | None
    if kind is TrainPipeline:
        pipeline, errors = validate_training(data)
        doubts = find_training_doubts(pipeline, folder) if pipeline is not None else []
    else:
        pipeline, errors = validate_leniently(data)
        refused = {item["loc"] for item in errors}
        doubts = find_doubts(pipeline, refused, folder) if pipeline is not None else []
    problems = _from_validation(errors, root, kind)
    problems += [_problem(root, *doubt) for doubt in doubts]
    problems = [_of_override(problem, overridden) for problem in dict.fromkeys(problems)]
    ordered = sorted(problems, key=lambda problem: problem.line)
    return (None if ordered or pipeline is None else pipeline.resolved(folder)), ordered


def to_yaml(pipeline: AnyPipeline) -> str:
    """Return a pipeline as YAML text that `load_pipeline` reads back."""
    return yaml.safe_dump(pipeline.plain(), sort_keys=False, allow_unicode=True)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` laid over it, mapping by mapping.

    A parameter's form is replaced whole: {choice: […]} over {int: […]} leaves no trace of the range.
    """
    forms = set(KINDS)
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


def _apply(data: dict[str, Any], override: str, kind: type[AnyPipeline]) -> str:
    """Lay an override over the data and return its dotted path."""
    where, equals, text = override.partition("=")
    keys = where.strip().split(".")
    if not equals or not all(keys):
        raise PipelineError(f"an override must be written section.key=value, got {override!r}")
    try:
        patch: Any = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise PipelineError(
            f"the value of an override must be YAML, got {override!r}: {_reason(error)}; quote it"
        ) from error
    for key in reversed(keys):
        patch = {key: patch}
    data.update(merge(data, kind.with_absolute_paths(patch, Path.cwd())))
    return ".".join(keys)


def _of_override(problem: Problem, overridden: set[str]) -> Problem:
    """Say so where a problem's value is not in the file; its line is then the section's."""
    whole_sections = Pipeline.model_fields.keys() - {"designs", "kind", "strategy", "seed", "name"}
    paths = tuple(f"{path}." for path in overridden - whole_sections)
    if not paths or not f"{problem.where}.".startswith(paths):
        return problem
    return replace(problem, message=f"{problem.message} (set by an override)")


def _reason(error: Exception) -> str:
    """Say on one line what YAML text breaks."""
    return " ".join(str(getattr(error, "problem", None) or error).split())


def _problem(root: yaml.Node | None, where: Location, message: str) -> Problem:
    return Problem(_line_of(root, where), ".".join(map(str, where)), message)


def _from_validation(errors: Sequence[Any], root: yaml.Node | None, kind: type[AnyPipeline]) -> list[Problem]:
    problems = []
    for item in errors:
        where = _in_file(item["loc"], root)
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            new = MOVED.get(".".join(map(str, where)))
            message = f"is {new} now" if new else "unknown key; " + _known_keys(where[:-1], kind)
        elif item["type"] == "missing":
            message = "this key is required"
        elif where == ("kind",):
            message = f"a pipeline is of the kind {' or '.join(KINDS_OF_RUN)}, got {item['input']!r}"
        else:
            told = ", got " in message or not item["loc"]
            message = message if told else f"{message}, got {item['input']!r}"
        problems.append(_problem(root, where, message))
    return problems


def _known_keys(where: Location, kind: type[AnyPipeline]) -> str:
    model: Any = kind
    for part in where:
        annotation = getattr(model, "model_fields", {}).get(part)
        model = annotation.annotation if annotation else None
        model = next((one for one in get_args(model) if isinstance(one, type)), model)  # of `… | None`
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
