"""Write docs/pipeline.md, every key of a study's pipeline, from the fields that the keys are made of."""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dnnflow.parameters import plain_type
from dnnflow.pipeline.study_pipeline import Pipeline

PAGE = Path(__file__).parent / "pipeline.md"
WIDTH = 100
GIVEN = {"source": "measurements.csv", "label": "kind", "designs": 100}
"""What has no default."""
HEAD = """# Every key of a pipeline

Made by `python docs/make_pipeline_page.py` from the fields that the command line, the forms and the JSON
schema (`dnnflow schema`) are made from, too; a test holds this page to them. `dataset.source`,
`dataset.label` and `designs` (with strategy `random`) are all that has to be there. `--set space.depth=3`
lays a value over a file.

A parameter of the space is a constant (`64`), a list to choose from (`[16, 32]`, which is short for
`{choice: [16, 32]}`), or a range: `{int: [1, 6]}` or `{int: [16, 128, 16]}` (with a step),
`{log_int: [16, 1024, 20]}` (20 whole numbers, evenly spaced in logarithm), `{uniform: [0, 0.5]}`,
`{loguniform: [0.0001, 0.1]}`; both ends belong to it. A parallel training has a `model` and other keys:
`dnnflow schema train`, [parallel.md](parallel.md).
"""


def page() -> str:
    """Return the page: a table of each section, then one file with every key at its default."""
    schema = Pipeline.model_json_schema()["$defs"]
    parts = [HEAD]
    plain = {name: field for name, field in _fields(Pipeline) if not _is_section(field)}
    parts.append(_table("The pipeline itself", "", plain, Pipeline.model_json_schema()["properties"]))
    for name, field in _fields(Pipeline):
        if _is_section(field):
            section = plain_type(field.annotation)
            keys = schema[section.__name__]["properties"]
            parts.append(_table(f"`{name}`", field.description or "", dict(_fields(section)), keys))
    parts.append(f"## All of it, as a file\n\n```yaml\n{commented()}```\n")
    return "\n".join(parts)


def commented() -> str:
    """Return YAML that has every key at its default, with what each is for."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    for name, field in _fields(Pipeline):
        if not _is_section(field):
            yield from _key(name, field, "")
            continue
        yield from _comment(field.description, "")
        section = plain_type(field.annotation)
        is_left_out = field.default is None
        yield f"# {name}:" if is_left_out else f"{name}:"
        for key, inner in _fields(section):
            lines = list(_key(key, inner, "  "))
            yield from (f"# {line}" if is_left_out else line for line in lines)


def _key(name: str, field: FieldInfo, indent: str) -> Iterator[str]:
    yield from _comment(field.description, indent)
    yield f"{indent}{name}: {_default(name, field)}"


def _comment(text: str | None, indent: str) -> list[str]:
    words = " ".join((text or "").split())
    return textwrap.wrap(words, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _table(title: str, about: str, fields: dict[str, FieldInfo], schema: dict[str, Any]) -> str:
    lines = [f"## {title}", "", *([about, ""] if about else []), "| key | default | values | what it is |"]
    lines.append("|---|---|---|---|")
    for name, field in fields.items():
        text = " ".join((field.description or "").split())
        cells = (f"`{name}`", _in_code(_default(name, field)), _values(schema[name]), text)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _default(name: str, field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if name in GIVEN and (value is PydanticUndefined or value is None):
        return str(GIVEN[name])
    plain = json.loads(json.dumps(value))
    return yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True).removesuffix("...\n").strip()


def _in_code(text: str) -> str:
    return "required" if text in map(str, GIVEN.values()) else f"`{text}`"


def _values(schema: dict[str, Any]) -> str:
    """Say in words what a key may be."""
    forms = schema.get("anyOf") or schema.get("oneOf") or [schema]
    if any("Choice" in one.get("$ref", "") for one in forms):
        return "constant, list or range" if len(forms) > 3 else "one, or a list"
    return " or ".join(dict.fromkeys(filter(None, map(_form, forms))))


def _form(schema: dict[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum") or [schema["const"]]))
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false",
             "array": "list", "object": "mapping", "null": ""}  # fmt: skip
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    told = [f"{sign} {schema[limit]:g}" for limit, sign in limits.items() if limit in schema]
    told = [one for one in told if "e+" not in one]
    return " ".join(
        [words.get(schema.get("type", "object"), "mapping"), *([" and ".join(told)] if told else [])]
    )


def _fields(model: Any) -> list[tuple[str, FieldInfo]]:
    return [(field.alias or name, field) for name, field in model.model_fields.items()]


def _is_section(field: FieldInfo) -> bool:
    return hasattr(plain_type(field.annotation), "model_fields")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
