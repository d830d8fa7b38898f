"""What each path of the control API takes and answers, in the words of JSON schema.

Who may call it stands in `policy.py`; `openapi.py` makes one document of both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nodectl.boot.model import BootOrder
from nodectl.catalog.cloning import PartKind
from nodectl.controller.policy import BOOTED, JOIN
from nodectl.trust.token import Role

Schema = Mapping[str, Any]

_NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"}
_ID: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_HEX: Schema = {"type": "string", "pattern": "^([0-9A-Fa-f]{2})*$"}
_KEY: Schema = {"type": "string", "pattern": "^[0-9A-Fa-f]{64}$"}
_TEXT: Schema = {"type": "string", "maxLength": 4096}
_STRING: Schema = {"type": "string"}
_BOOL: Schema = {"type": "boolean"}
_OBJECT: Schema = {"type": "object"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_COUNT_OR_NULL: Schema = {"type": ["integer", "null"], "minimum": 0}
_NAMES: Schema = {"type": "array", "items": _NAME, "maxItems": 20_000}
_NOTHING: Schema = {"type": "object", "additionalProperties": False}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: Schema, **more: Any) -> Schema:  # noqa: ANN401 - JSON
    return {"type": "array", "items": items, **more}


def _object(optional: Mapping[str, Schema] | None = None, /, **fields: Schema) -> Schema:
    """Return the schema of an object with exactly these fields."""
    return {
        "type": "object",
        "properties": {**fields, **(optional or {})},
        "required": list(fields),
        "additionalProperties": False,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What one path takes and answers."""

    summary: str
    answer: Schema
    body: Schema | None = None
    query: Mapping[str, Schema] = field(default_factory=dict)


def _number(most: int) -> Schema:
    return {"type": "integer", "minimum": 0, "maximum": most}


_WAIT: Mapping[str, Schema] = {"wait_ms": _number(60_000)}
_FILE_FIELDS: Mapping[str, Schema] = {
    "name": _NAME,
    "kind": {"enum": ["secret", "template"]},
    "group": _NAME,
    "path": {"type": "string", "maxLength": 1024},
    "owner": {"type": "string", "maxLength": 80},
    "mode": {"type": "string", "pattern": "^0?[0-7]{3}$"},
}
_FILE = _object(**_FILE_FIELDS)
_BASE64: Schema = {"type": "string", "contentEncoding": "base64"}
_FILLED = _object(**_FILE_FIELDS, content=_BASE64)
_PART_KIND: Schema = {"enum": [kind.value for kind in PartKind]}
_TITLE: Schema = {"type": "string", "maxLength": 255}
_PART_FIELDS: Mapping[str, Schema] = {"kind": _PART_KIND, "name": _NAME, "title": _TITLE}
_PART = _object(**_PART_FIELDS, content=_BASE64)
_INVENTORY = _object(inventory=_OBJECT, revision=_COUNT)
_ACCESS = _object(nodes={"type": ["array", "null"], "items": _NAME, "maxItems": 20_000})
_RATE: Schema = {"type": ["integer", "null"], "minimum": 1}
_WEIGHT: Schema = {"type": "integer", "minimum": 1, "maximum": 100}
_RATES: Mapping[str, Schema] = {"upload_rate": _RATE, "download_rate": _RATE}
_TERMS = _object(paused=_BOOL, weight=_WEIGHT, **_RATES)
_WHOLE: Schema = {"type": ["integer", "boolean"]}
_SWARM_WORD: Schema = {"type": "string", "maxLength": 64}
_SWARM_COUNTS: Schema = {
    "type": "object", "maxProperties": 4096, "propertyNames": _SWARM_WORD,
    "additionalProperties": {"type": "integer"},
}  # fmt: skip
_SWARM: Schema = {
    "type": "object", "maxProperties": 32, "propertyNames": _SWARM_WORD,
    "properties": {"from": _SWARM_COUNTS, "bytes_per_s": _WHOLE},
    "additionalProperties": {"anyOf": [_SWARM_WORD, _WHOLE, _SWARM_COUNTS]},
}  # fmt: skip
_PEERS: Mapping[str, Schema] = {
    "terms": _TERMS,
    "peers": _list(_object(node=_NAME, url=_STRING, complete=_BOOL, rack=_STRING)),
    "rack": _STRING,
    "known": _COUNT,
    "interval_s": {"type": "number"},
    "swarm_key": _KEY,
}
_FACTS: Mapping[str, Schema] = {
    "ca_pem": _STRING,
    "certificate": _STRING,
    "content_keys": _ref("ContentKeys"),
    "job_keys": _list(_KEY),
    "publishers": _list(_ref("Publisher")),
}
_STATE: Schema = {"enum": ["waiting", "running", "applied", "rebooting", "done", "failed"]}
_SHORT: Schema = {"type": "string", "maxLength": 200}
_AWAITS = _object(ticket_sha256=_ID, root=_SHORT, root_uuid=_SHORT, machine_id=_SHORT)
SCHEMAS: Mapping[str, Schema] = {
    "Error": _object(error=_STRING, sentence=_STRING, hint=_STRING),
    "ContentKeys": _object(
        {"older": _list(_ref("ContentKeys"))}, chunk_id=_KEY, seal=_KEY, nonce=_KEY
    ),
    "Publisher": _object(key=_KEY, name=_STRING, added=_COUNT, expires=_COUNT, revoked=_BOOL),
    "Release": _object(
        {"form": _STRING},
        release=_object(
            realm=_STRING, name=_NAME, generation=_COUNT, root=_ID, kind=_NAME, created=_COUNT,
            totals={"type": "object", "additionalProperties": _COUNT},
        ),
        signature=_HEX, publisher=_KEY, origin=_STRING,
    ),
    "Job": _object(
        {"state": {"enum": ["running", "ok", "failed"]}},
        job_id=_COUNT, kind={"enum": ["fetch", "restore", "clone"]}, name=_NAME, generation=_COUNT,
        root=_ID, nodes=_NAMES, options=_OBJECT, created=_COUNT, created_by=_NAME,
    ),
    "Work": _object(
        {"done": _COUNT, "total": _COUNT_OR_NULL, "swarm": _OBJECT, "version": _COUNT},
        job_id=_COUNT, node=_NAME, task={"enum": ["fetch", "restore", "clone", "seed"]},
        state=_STATE, step=_STRING, sentence=_STRING,
        lines=_list(_STRING), receipt=_OBJECT, by_controller=_BOOL,
        awaits={"type": ["object", "null"]},
    ),
    "View": _object(
        job=_ref("Job"), state={"enum": ["running", "ok", "failed"]}, version=_COUNT,
        rows=_list(_ref("Work")),
    ),
}  # fmt: skip
_MULTICAST = _object(
    {"ttl": {**_WEIGHT, "maximum": 255}, "wait_s": {**_WEIGHT, "maximum": 3600}},
    rate={**_WEIGHT, "maximum": 1 << 40},
)
_JOB_BODIES: Schema = {
    "oneOf": [
        _object(
            {
                "generation": _COUNT_OR_NULL,
                "options": _object({"allow_rollback": _BOOL, "multicast": _MULTICAST}),
            },
            kind={"const": "fetch"}, name=_NAME, nodes=_list(_TEXT, minItems=1, maxItems=20_000),
        ),
        _object(
            {"generation": _COUNT_OR_NULL},
            kind={"const": "restore"}, name=_NAME,
            nodes=_list(_TEXT, minItems=1, maxItems=20_000),
            options=_object(
                {"allow_rollback": _BOOL, "keep_extra": _BOOL, "multicast": _MULTICAST},
                path={"type": "string", "pattern": "^/", "maxLength": 4096},
            ),
        ),
    ]
}  # fmt: skip

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    JOIN: Operation(
        summary="Become a member, with a join token.",
        body=_object(
            {"macs": _list(_TEXT, maxItems=256)},
            realm_id=_TEXT, token_id=_TEXT, token_secret=_KEY, name=_NAME, node_secret=_KEY,
            request=_TEXT,
        ),
        answer=_object(
            **_FACTS, realm_id=_STRING, realm_name=_NAME, node=_NAME,
            role={"enum": [role.value for role in Role]},
        ),
    ),
    ("POST", "/v1/renew"): Operation(
        summary="The member's next certificate, and the keys that count now.",
        body=_object(request=_TEXT), answer=_object(**_FACTS),
    ),
    BOOTED: Operation(
        summary="A clone tells of its first start, with the ticket that was left on its disk.",
        body=_object(
            job_id=_COUNT, node=_NAME, ticket=_KEY,
            seen={
                "type": "object", "maxProperties": 32, "propertyNames": _SHORT,
                "additionalProperties": {
                    "anyOf": [_SHORT, {"type": "integer"}, _list(_SHORT, maxItems=50)]
                },
            },
        ),
        answer=_NOTHING,
    ),
    ("POST", "/v1/nodes/{name}/clones"): Operation(
        summary="A job for a clone that the node has begun by itself.",
        body=_object(image=_NAME, generation=_COUNT), answer=_object(job=_ref("Job")),
    ),
    ("GET", "/v1/openapi.json"): Operation(summary="This document.", answer=_OBJECT),
    ("GET", "/v1/nodes"): Operation(
        summary="All members.",
        answer=_object(nodes=_list(_object(
            name=_NAME, role=_STRING, joined=_COUNT, heard_s={"type": ["number", "null"]},
            address=_STRING,
        ))),
    ),
    ("DELETE", "/v1/nodes/{name}"): Operation(
        summary="Remove a member: it is out at once.", answer=_NOTHING
    ),
    ("GET", "/v1/inventory"): Operation(
        summary="What is known of all nodes.", answer=_object(nodes=_list(_INVENTORY))
    ),
    ("POST", "/v1/inventory"): Operation(
        summary="Write down nodes, each at a revision.",
        body=_object(nodes=_list(_INVENTORY, maxItems=1000)),
        answer=_object(revisions={"type": "object", "additionalProperties": _COUNT}),
    ),
    ("GET", "/v1/inventory/{name}"): Operation(
        summary="What is known of one node.", answer=_INVENTORY
    ),
    ("DELETE", "/v1/inventory/{name}"): Operation(
        summary="Forget what is known of a node.", answer=_NOTHING
    ),
    ("GET", "/v1/files"): Operation(
        summary="The secrets and templates, without their content.",
        answer=_object(files=_list(_FILE)),
    ),
    ("POST", "/v1/files"): Operation(
        summary="Keep a secret or template, in the place of the one of its name.",
        body=_FILLED, answer=_FILE,
    ),
    ("GET", "/v1/files/{file}"): Operation(
        summary="A template; never a secret.", answer=_FILLED
    ),
    ("DELETE", "/v1/files/{file}"): Operation(
        summary="Forget a secret or template.", answer=_NOTHING
    ),
    ("GET", "/v1/nodes/{name}/files"): Operation(
        summary="What the member itself is given: the files of its groups.",
        answer=_object(files=_list(_FILLED)),
    ),
    ("GET", "/v1/cloning"): Operation(
        summary="The disk layouts, and the options and scripts of images.",
        answer=_object(parts=_list(_object(**_PART_FIELDS))),
    ),
    ("GET", "/v1/cloning/{part}/{name}"): Operation(
        summary="One of them with its text.", answer=_PART
    ),
    ("PUT", "/v1/cloning/{part}/{name}"): Operation(
        summary="Keep one, in the place of the one of its name.",
        body=_object({"title": _TITLE}, content=_BASE64), answer=_object(**_PART_FIELDS),
    ),
    ("DELETE", "/v1/cloning/{part}/{name}"): Operation(summary="Forget one.", answer=_NOTHING),
    ("GET", "/v1/nodes/{name}/cloning"): Operation(
        summary="What a node is cloned with, as the inventory says, or with another image.",
        query={"image": _NAME},
        answer=_object(image=_STRING, disklayout=_STRING, parts=_list(_PART)),
    ),
    ("GET", "/v1/releases"): Operation(
        summary="The releases of the images that are for the member.",
        query={"name": _NAME}, answer=_object(releases=_list(_ref("Release"))),
    ),
    ("POST", "/v1/releases"): Operation(
        summary="Publish a root as the next generation of a name.",
        body=_object(
            name=_NAME, root=_ID, root_block_hex=_HEX, kind=_NAME,
            totals={
                "type": "object", "maxProperties": 32, "propertyNames": _NAME,
                "additionalProperties": _number(1 << 62),
            },
        ),
        answer=_ref("Release"),
    ),
    ("GET", "/v1/releases/{name}"): Operation(
        summary="The last generation of an image.", answer=_ref("Release")
    ),
    ("GET", "/v1/releases/{name}/{generation}"): Operation(
        summary="One generation of an image.", answer=_ref("Release")
    ),
    ("GET", "/v1/releases/{name}/access"): Operation(
        summary="Whom an image is for; null: every node.", answer=_ACCESS
    ),
    ("PUT", "/v1/releases/{name}/access"): Operation(
        summary="Say whom an image is for.", body=_ACCESS, answer=_ACCESS
    ),
    ("GET", "/v1/releases/{name}/swarm"): Operation(
        summary="How fast an image's swarms may go, and whether they rest.", answer=_TERMS
    ),
    ("PUT", "/v1/releases/{name}/swarm"): Operation(
        summary="Set that, for every node.",
        body=_object(_RATES, paused=_BOOL, weight=_WEIGHT), answer=_TERMS,
    ),
    ("POST", "/v1/releases/{name}/{generation}/signature"): Operation(
        summary="Give a release a signature that was made elsewhere.",
        body=_object(signature=_TEXT), answer=_ref("Release"),
    ),
    ("GET", "/v1/publishers"): Operation(
        summary="Whose signatures count, and whose do not any more.",
        answer=_object(publishers=_list(_ref("Publisher"))),
    ),
    ("GET", "/v1/swarm/{root}/ticket"): Operation(
        summary="What is needed to take part in a swarm.",
        answer=_object(**_PEERS, root_block_hex=_HEX, release=_ref("Release")),
    ),
    ("POST", "/v1/swarm/{root}/announce"): Operation(
        summary="Say where the member serves a root, and how much of it.",
        body=_object(
            url={"type": "string", "pattern": "^http://", "maxLength": 256}, have_bytes=_COUNT,
            complete=_BOOL,
        ),
        answer=_object(**_PEERS),
    ),
    ("GET", "/v1/jobs"): Operation(
        summary="All jobs, oldest first.", answer=_object(jobs=_list(_ref("Job")))
    ),
    ("POST", "/v1/jobs"): Operation(
        summary="Ask something of some nodes.", body=_JOB_BODIES, answer=_ref("View")
    ),
    ("GET", "/v1/jobs/{job_id}"): Operation(
        summary="A job and the work of each node.", answer=_ref("View")
    ),
    ("GET", "/v1/jobs/{job_id}/events"): Operation(
        summary="The work that changed since a version; waits for some.",
        query={"since": _number(1 << 62), **_WAIT}, answer=_ref("View"),
    ),
    ("POST", "/v1/jobs/{job_id}/nodes/{node}"): Operation(
        summary="What a node says about its work.",
        body=_object(
            {
                "step": _TEXT, "sentence": _TEXT, "lines": _list(_TEXT, maxItems=50),
                "receipt": _OBJECT, "done": _COUNT, "total": _COUNT_OR_NULL, "swarm": _SWARM,
                "awaits": _AWAITS,
            },
            state=_STATE,
        ),
        answer=_NOTHING,
    ),
    ("GET", "/v1/netboot"): Operation(
        summary="The machines that clone an image when they start next, or do so now.",
        answer=_object(nodes=_list(_object(
            node=_NAME, state={"const": "cloner"}, job=_COUNT, image=_NAME, generation=_COUNT,
            at={"enum": ["waiting", "running"]},
        ))),
    ),
    ("POST", "/v1/netboot"): Operation(
        summary="Say what machines start: their own disks, or an installer that clones an image.",
        body={"oneOf": [
            _object(state={"const": "local"}, nodes=_list(_NAME, minItems=1, maxItems=20_000)),
            _object(
                {
                    "generation": _COUNT_OR_NULL,
                    "layout": {"type": "string", "maxLength": 262_144},
                    "disklayout": {"anyOf": [{"const": ""}, _NAME]},
                    "boot_order": {"enum": [each.value for each in BootOrder]},
                },
                state={"const": "cloner"}, image=_NAME,
                nodes=_list(_NAME, minItems=1, maxItems=20_000),
            ),
        ]},
        answer=_object(job=_COUNT_OR_NULL, nodes=_list(_NAME)),
    ),
    ("GET", "/v1/work"): Operation(
        summary="What the member has to do; waits for some.",
        query={"since": _number(9_999_999_999), **_WAIT},
        answer=_object(work=_list(_object(
            job=_ref("Job"), work=_ref("Work"),
            order=_object(order=_OBJECT, signature=_HEX, key=_KEY),
        ))),
    ),
}  # fmt: skip

PARAMETERS: Mapping[str, Schema] = {
    "name": _NAME,
    "file": _NAME,
    "part": _PART_KIND,
    "node": _NAME,
    "root": _ID,
    "generation": _number(9_999_999_999),
    "job_id": _number(9_999_999_999),
}
