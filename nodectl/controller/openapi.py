"""The control API as an OpenAPI 3.1 document, which the controller itself serves.

The paths and who may call them come from the table in `policy.py`, what each takes and answers
from `operations.py`. A test holds both together, and another sends what this document allows, and
what it does not, to a controller that runs. `docs/control-api.md` is the same for people.
"""

from typing import Any

from nodectl.controller.operations import OPERATIONS, PARAMETERS, SCHEMAS, Operation, Schema
from nodectl.controller.policy import BOOTED, JOIN, POLICY
from nodectl.trust.token import Role

_ERROR: Schema = {"$ref": "#/components/schemas/Error"}
_REFUSALS = {
    "400": "The request is not as it should be.",
    "403": "The member's role has no right to this, or the token none to anything.",
    "404": "There is no such thing.",
    "409": "It is taken, or somebody changed it at the same moment.",
}


def document(version: str) -> dict[str, Any]:
    """Return the OpenAPI document of the control API of this version of nodectl."""
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), operation in OPERATIONS.items():
        paths.setdefault(path, {})[method.lower()] = _described(method, path, operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nodectl control API",
            "version": version,
            "description": "Every path but the join and the telling of a first start needs a "
            "certificate of the realm and a MAC of the same member; see docs/control-api.md.",
        },
        "security": [{"certificate": [], "mac": []}],
        "paths": paths,
        "components": {
            "schemas": dict(SCHEMAS),
            "securitySchemes": {
                "certificate": {"type": "mutualTLS"},
                "mac": {"type": "apiKey", "in": "header", "name": "Authorization"},
            },
        },
    }


def _described(method: str, path: str, operation: Operation) -> dict[str, Any]:
    fields = [word[1:-1] for word in path.split("/") if word.startswith("{")]
    described: dict[str, Any] = {
        "summary": operation.summary,
        "parameters": [
            *({"name": f, "in": "path", "required": True, "schema": PARAMETERS[f]} for f in fields),
            *({"name": name, "in": "query", "schema": s} for name, s in operation.query.items()),
        ],
        "responses": {
            "200": _response("Done.", operation.answer),
            **{status: _response(text, _ERROR) for status, text in _REFUSALS.items()},
            "413": {"description": "The body is too long."},
        },
    }
    if operation.body is not None:
        content = {"application/json": {"schema": operation.body}}
        described["requestBody"] = {"required": True, "content": content}
    if (method, path) in {JOIN, BOOTED}:
        described["security"] = []
    else:
        described["responses"]["401"] = {"description": "No member asks."}
        rights = POLICY[method, path]
        described["x-nodectl-rights"] = {role.value: rights.of(role).value for role in Role}
    return described


def _response(text: str, schema: Schema) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}
