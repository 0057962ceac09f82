"""The parameters a deployment of a pipeline starts from, and the schema of what a run lays over them."""

from pathlib import Path
from typing import Any

from dnnflow.pipeline.pipeline_file import load_any


def read_pipeline(path: str) -> dict[str, Any]:
    """Return a pipeline file's content as parameters: the build step of `prefect.yaml`.

    Returns
    -------
    dict
        `pipeline`, what the file sets, with its paths made absolute so that a run may start anywhere;
        `root`, the directory that `path` is relative to.

    Raises
    ------
    PipelineError
        If the file is not a valid pipeline.
    """
    return {"pipeline": load_any(path).plain(), **working_directory()}


def working_directory() -> dict[str, str]:
    """Return where runs start, `root`: the build step of a deployment without a pipeline of its own."""
    return {"root": str(Path.cwd())}


def every_part_optional(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON schema that accepts any part of what `schema` accepts, and no unknown field.

    References are replaced by what they name, so that the result can stand inside another schema.
    """
    definitions = schema.get("$defs", {})

    def part(node: Any) -> Any:
        if isinstance(node, list):
            return [part(item) for item in node]
        if not isinstance(node, dict):
            return node
        if isinstance(reference := node.get("$ref"), str):
            beside = {key: value for key, value in node.items() if key != "$ref"}
            return part({**definitions[reference.rsplit("/", 1)[1]], **beside})
        # A *list* under "required" is the keyword; a mapping is a field that happens to have that name.
        required = isinstance(node.get("required"), list)
        dropped = {"$defs", "discriminator"} | ({"required"} if required else set())
        return {key: part(value) for key, value in node.items() if key not in dropped}

    return dict(part(schema))
