"""Docker's Engine API as its schema says it: the operations of a version, and whether an answer is what was promised."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft4Validator

FOLDER = Path(__file__).parent.parent / "data/engine-api"
VERSIONS = tuple(f"1.{minor}" for minor in range(40, 56))
NEWEST = VERSIONS[-1]
_METHODS = ("get", "head", "post", "put", "delete")
# Keywords of swagger 2.0 that a JSON schema does not know, or that mean something else there.
_SWAGGER_ONLY = {"x-nullable", "x-omitempty", "readOnly", "discriminator", "xml", "format"}


@dataclass(frozen=True)
class Operation:
    """One method of one path, with the parameters of both."""

    method: str
    path: str
    parameters: dict[str, dict[str, Any]] = field(hash=False)
    responses: dict[str, dict[str, Any]] = field(hash=False)
    produces: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def query(self) -> dict[str, dict[str, Any]]:
        """The parameters of the query by name."""
        return {name: value for name, value in self.parameters.items() if value["in"] == "query"}

    @property
    def body(self) -> dict[str, Any] | None:
        """The schema of the body, if there is one."""
        return next((value["schema"] for value in self.parameters.values() if value["in"] == "body"), None)


class ApiSchema:
    """One version of the API. Answers are checked strictly, but for one thing: Go writes a list or a map that was never
    made as null, Docker's own answers are full of it, and the schema tells of it in few places only."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.document: dict[str, Any] = json.loads(gzip.decompress((FOLDER / f"v{version}.json.gz").read_bytes()))
        self.definitions: dict[str, Any] = {name: _converted(value) for name, value in self.document["definitions"].items()}
        self.operations = {str(operation): operation for operation in self._operations()}

    def _operations(self) -> Iterator[Operation]:
        for path, methods in self.document["paths"].items():
            shared = methods.get("parameters", [])
            for method in _METHODS:
                if method not in methods:
                    continue
                found = methods[method]
                parameters = {p["name"]: p for p in [*shared, *found.get("parameters", [])]}
                produces = tuple(found.get("produces", self.document.get("produces", ())))
                yield Operation(method.upper(), path, parameters, found["responses"], produces)

    def problems(self, operation: str, status: int, document: Any) -> list[str]:
        """What is wrong with the JSON of an answer; empty when nothing is."""
        answers = self.operations[operation].responses
        found = answers.get(str(status))
        if found is None:
            # The schema lists few of the errors; all of them have the same shape.
            if status < 400:
                return [f"status {status} is none of {', '.join(answers)}"]
            found = {"schema": {"$ref": "#/definitions/ErrorResponse"}}
        if "schema" not in found:
            return []
        return self.mismatches(found["schema"], document)

    def mismatches(self, schema: dict[str, Any], document: Any) -> list[str]:
        """Differences between a document and a schema of this version."""
        validator = Draft4Validator(_converted(schema) | {"definitions": self.definitions})
        return [f"{_place(error.absolute_path)}: {error.message[:200]}" for error in validator.iter_errors(document)]

    def properties(self, schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """All properties of an object's (raw) schema, those that it takes from others included."""
        if "$ref" in schema:
            return self.properties(self.document["definitions"][schema["$ref"].rpartition("/")[2]])
        found = dict(schema.get("properties", {}))
        for part in schema.get("allOf", ()):
            found |= self.properties(part)
        return found


@cache
def api_schema(version: str = NEWEST) -> ApiSchema:
    """The schema of a version."""
    return ApiSchema(version)


def _place(path: Any) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path) or "."


def _converted(schema: Any, names: bool = False) -> Any:
    """JSON schema (draft 4) from swagger 2.0."""
    if isinstance(schema, list):
        return [_converted(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if names:
        return {name: _converted(value) for name, value in schema.items()}
    found = {key: _converted(value, key == "properties") for key, value in schema.items() if key not in _SWAGGER_ONLY}
    if not (schema.get("x-nullable") or schema.get("type") in ("array", "object") or "additionalProperties" in schema):
        return found
    if "type" not in found:
        return {"anyOf": [found, {"type": "null"}]}
    found["type"] = [found["type"], "null"]
    if "enum" in found:
        found["enum"] = [*found["enum"], None]
    return found


def route_pattern(path: str) -> re.Pattern[str]:
    """What a concrete path has to look like to be one of this template."""
    return re.compile(re.sub(r"\\\{[^}]*\\\}", ".+", re.escape(path)) + r"\Z")
