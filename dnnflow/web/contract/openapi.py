"""Make the OpenAPI document: what FastAPI finds out, and what it cannot know."""

import json
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline

REFERENCE = "#/components/schemas/{model}"
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "The server's token, where it has one."},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "dnnflow_session",
        "description": "Of a browser that has logged in; changes carry its page's token in X-CSRF-Token.",
    },
}
OPEN = ("/api/v1/health",)
"""Paths that need no login."""


def make_document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an app."""
    made = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    components = made.setdefault("components", {})
    components["securitySchemes"] = SCHEMES
    _, pipelines = models_json_schema(
        [(Pipeline, "validation"), (TrainPipeline, "validation")], ref_template=REFERENCE
    )
    components["schemas"] = {**pipelines["$defs"], **components["schemas"]}
    made["security"] = [{}, {"bearer": []}, {"session": []}]
    for path, operations in made["paths"].items():
        for operation in operations.values():
            if path in OPEN:
                operation["security"] = [{}]
            _keep_problems(operation)
    components["schemas"].pop("HTTPValidationError", None)
    components["schemas"].pop("ValidationError", None)
    return _named_by_titles(made)


def _named_by_titles(made: dict[str, Any]) -> dict[str, Any]:
    """Call each component by its title: its class may have a longer name, as others have the short one."""
    text = json.dumps(made)
    for name, component in made["components"]["schemas"].items():
        text = text.replace(f'"#/components/schemas/{name}"', f'"#/components/schemas/{component["title"]}"')
    named: dict[str, Any] = json.loads(text)
    schemas = named["components"]["schemas"].values()
    named["components"]["schemas"] = {component["title"]: component for component in schemas}
    return named


def _keep_problems(operation: dict[str, Any]) -> None:
    """Leave of a refusal only what is sent: FastAPI adds application/json to each."""
    for status, response in operation["responses"].items():
        content = response.get("content", {})
        if status >= "400" and "application/problem+json" in content:
            response["content"] = {"application/problem+json": content["application/problem+json"]}
