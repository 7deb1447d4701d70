"""Parts that operations of the document are made of: kinds of values, parameters, answers.

Source: OpenAPI 3.1.1; JSON Schema 2020-12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WORD: Schema = {"type": "string", "minLength": 1}
NUMBER: Schema = {"type": "number"}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
MOMENT: Schema = {"type": "number", "description": "seconds since 1970"}


def maybe(schema: Schema) -> Schema:
    """The value, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def listed(schema: Schema, **rest: Any) -> Schema:
    """A list of such values."""
    return {"type": "array", "items": schema, **rest}


def mapped(schema: Schema) -> Schema:
    """An object whose values are such, by any name."""
    return {"type": "object", "additionalProperties": schema}


def one_of(*values: str) -> Schema:
    """One of these words."""
    return {"type": "string", "enum": list(values)}


def record(optional: Mapping[str, Schema] | None = None, **required: Schema) -> Schema:
    """An object with these fields and maybe others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
    }


def closed(optional: Mapping[str, Schema], **required: Schema) -> Schema:
    """An object with these fields and no others."""
    return {**record(optional, **required), "additionalProperties": False}


def in_path(name: str, description: str) -> dict[str, Any]:
    """A parameter that is a part of the path."""
    return {
        "name": name, "in": "path", "required": True, "description": description,
        "schema": WORD,
    }  # fmt: skip


def in_query(
    name: str, schema: Schema, description: str, *, required: bool = False
) -> dict[str, Any]:
    """A parameter behind the question mark."""
    return {
        "name": name, "in": "query", "required": required, "description": description,
        "schema": schema,
    }  # fmt: skip


# Why a request may be refused, by status.
_REFUSALS: Mapping[int, str] = {
    304: "unchanged since it was asked for with that etag",
    400: "the request is wrong; the message names the field, what it was and what was expected",
    401: "the key is missing or wrong",
    402: "a budget of the key has no room for the request",
    403: "the key may not do this, or a page from elsewhere asks",
    404: "there is none of that name",
    408: "the body did not come in time",
    413: "the body is too long",
    415: "the body is not declared as JSON",
    421: "asked for under a name that is not this machine's",
    422: "the target refuses the request",
    429: "a limit is reached, or every target is full; see Retry-After",
    503: "no target is left, the store cannot be used, or the gateway stops; see Retry-After",
}
# Every route stands behind the guard, whose keys are in the store.
_ALWAYS = (401, 403, 421)


def operation(
    summary: str,
    answer: Schema | None,
    *,
    tag: str,
    parameters: Sequence[dict[str, Any]] = (),
    body: Schema | None = None,
    refusals: Sequence[int] = (),
    error: str = "Error",
    status: int = 200,
    kinds: Sequence[str] = ("application/json",),
    headers: Mapping[str, str] | None = None,
    body_required: bool = True,
) -> dict[str, Any]:
    """One operation.

    Args:
        answer: of success in JSON; None where `kinds` are none of JSON.
        refusals: statuses other than those that every route may give.
        error: name of the shape of errors.
        kinds: of the answer's body; those but JSON are text.
        headers: of the answer, with their meaning.
    """
    content = {kind: _content(kind, answer) for kind in kinds}
    done: dict[str, Any] = {"description": "done", "content": content}
    if headers:
        done["headers"] = {n: {"description": d, "schema": TEXT} for n, d in headers.items()}
    responses: dict[str, Any] = {str(status): done}
    shape = {"$ref": f"#/components/schemas/{error}"}
    for code in sorted({*_ALWAYS, *refusals}):
        refusal: dict[str, Any] = {"description": _REFUSALS[code]}
        if code >= 400:
            refusal["content"] = {"application/json": {"schema": shape}}
        responses[str(code)] = refusal
    found: dict[str, Any] = {"summary": summary, "tags": [tag], "responses": responses}
    if parameters:
        found["parameters"] = list(parameters)
    if body is not None:
        found["requestBody"] = {
            "required": body_required, "content": {"application/json": {"schema": body}},
        }  # fmt: skip
    return found


def _content(kind: str, answer: Schema | None) -> dict[str, Any]:
    """What a body of a kind holds; events of a stream have no schema of their own."""
    if kind == "text/event-stream":
        return {}
    return {"schema": answer if "json" in kind and answer else TEXT}
