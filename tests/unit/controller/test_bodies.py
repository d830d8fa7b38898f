"""What the OpenAPI document says of each body, and what the controller takes: the same.

Each field of a good body is changed in every way below. What the document forbids has to be
refused; what it allows may be refused only where a field has a form that no schema can say
(`ONLY_THE_PARSER`).
"""

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema_rs
import pytest

from nodectl.catalog.cloning import PartKind
from nodectl.controller import openapi, wire
from nodectl.controller.cloning_api import parse_part
from nodectl.controller.inventory_api import parse_write
from nodectl.controller.multicast import with_session
from nodectl.controller.netboot_api import parse_netboot
from nodectl.controller.operations import OPERATIONS
from nodectl.controller.policy import BOOTED, JOIN
from nodectl.controller.site_files_api import parse_file
from nodectl.controller.terms import parse_terms
from nodectl.errors import NodectlError
from nodectl.trust.certificate import make_request

REQUEST = make_request("n1")[0].decode("ascii")
HEX = "ab" * 32


def _job(body: bytes) -> None:
    with_session(wire.parse_job(body).options, random.Random(1))


BODIES: dict[tuple[str, str], tuple[Callable[[bytes], object], list[dict[str, Any]]]] = {
    JOIN: (
        lambda body: wire.parse_join(body, replaces=False),
        [
            {
                "realm_id": "r", "token_id": "t", "token_secret": HEX, "name": "n1",
                "node_secret": HEX, "request": REQUEST, "macs": ["52:54:00:00:00:01"],
            }
        ],
    ),
    ("POST", "/v1/renew"): (wire.parse_renewal, [{"request": REQUEST}]),
    BOOTED: (
        wire.parse_booted,
        [{"job_id": 1, "node": "n1", "ticket": HEX, "seen": {"a": "b", "c": 1, "d": ["e"]}}],
    ),
    ("POST", "/v1/nodes/{name}/clones"): (
        wire.parse_clone, [{"image": "golden", "generation": 1}]
    ),
    ("POST", "/v1/inventory"): (
        parse_write, [{"nodes": [{"inventory": {"name": "n1"}, "revision": 0}]}]
    ),
    ("POST", "/v1/files"): (
        parse_file,
        [
            {
                "name": "munge", "kind": "secret", "group": "all", "path": "/etc/munge/key",
                "owner": "munge:munge", "mode": "0400", "content": "aGVsbG8=",
            }
        ],
    ),
    ("PUT", "/v1/cloning/{part}/{name}"): (
        lambda body: parse_part(body, PartKind.PRE, "x"),
        [{"title": "t", "content": "IyEvYmluL3NoCg=="}],
    ),
    ("POST", "/v1/releases"): (
        lambda body: wire.parse_publication(body, origin="n1"),
        [
            {
                "name": "golden", "root": HEX, "root_block_hex": "abcd", "kind": "tree",
                "totals": {"files": 3},
            }
        ],
    ),
    ("PUT", "/v1/releases/{name}/access"): (wire.parse_access, [{"nodes": ["n1"]}]),
    ("PUT", "/v1/releases/{name}/swarm"): (
        parse_terms,
        [{"paused": False, "upload_rate": 1, "download_rate": None, "weight": 1}],
    ),
    ("POST", "/v1/releases/{name}/{generation}/signature"): (
        wire.parse_signature, [{"signature": "x"}]
    ),
    ("POST", "/v1/swarm/{root}/announce"): (
        lambda body: wire.parse_announcement(body, node="n1"),
        [{"url": "http://h:1", "have_bytes": 1, "complete": True}],
    ),
    ("POST", "/v1/jobs"): (
        _job,
        [
            {
                "kind": "fetch", "name": "golden", "generation": 1, "nodes": ["n1"],
                "options": {
                    "allow_rollback": True,
                    "multicast": {"rate": 1_000_000, "ttl": 1, "wait_s": 1},
                },
            },
            {
                "kind": "restore", "name": "golden", "generation": None, "nodes": ["n1"],
                "options": {
                    "path": "/srv", "keep_extra": False, "allow_rollback": False,
                    "multicast": {"rate": 1_000_000},
                },
            },
        ],
    ),
    ("POST", "/v1/jobs/{job_id}/nodes/{node}"): (
        wire.parse_report,
        [
            {
                "state": "running", "step": "fetch", "sentence": "x", "lines": ["y"],
                "receipt": {"a": 1}, "done": 1, "total": None,
                "swarm": {"from": {"n2": 1}, "bytes_per_s": 1, "missing_spans": 2, "disk": "slow"},
            }
        ],
    ),
    ("POST", "/v1/netboot"): (
        parse_netboot,
        [
            {"state": "local", "nodes": ["n1"]},
            {
                "state": "cloner", "nodes": ["n1"], "image": "golden", "generation": 1,
                "layout": "x", "disklayout": "d", "boot_order": "leave",
            },
        ],
    ),
}  # fmt: skip

# Fields of which a schema cannot say what they have to be.
ONLY_THE_PARSER = ("request", "inventory", "path", "owner", "content", "receipt", "mode", "title")

OTHERS: tuple[object, ...] = (
    None, True, False, -1, 0, 1, 2, 100, 101, 1.5, 1 << 62, (1 << 62) + 1,
    "", "x", " ", "\n", "\u00e9", "/", HEX.upper(), [], {}, ["x"], {"x": 1},
    *("a" * length for length in (63, 64, 65, 80, 200, 201, 255, 256, 257, 4096, 4097, 262_145)),
    *("http://" + "a" * length for length in (249, 250)),
    *("/" + "a" * length for length in (4095, 4096)),
)  # fmt: skip


def _changed(value: object) -> Iterator[object]:
    """Yield other values in the place of one, and the same one with something changed inside."""
    yield from OTHERS
    if isinstance(value, str):
        yield from (value + "\n", value + " ", " " + value, value.upper(), value[:-1], value * 2)
        yield from (value[:2] + " " + value[2:], "\n" + value)
    if isinstance(value, dict):
        for name, inner in value.items():
            yield {other: kept for other, kept in value.items() if other != name}
            for change in _changed(inner):
                yield {**value, name: change}
        yield {**value, "unknown": 1}
        yield {**value, "a" * 65: 1}
        yield {f"n{number}": 1 for number in range(33)}
    if isinstance(value, list) and value:
        for change in _changed(value[0]):
            yield [change]
        if not isinstance(value[0], dict):  # no two nodes of one name
            yield from ([value[0]] * count for count in (50, 51, 256, 257))


def _differ(good: dict[str, Any], changed: object) -> set[str]:
    """Return the names, at any depth, whose values differ."""
    if not isinstance(changed, dict):
        return set()
    found = set()
    for name in {*good, *changed}:
        if good.get(name) != changed.get(name):
            found.add(name)
            inner, other = good.get(name), changed.get(name)
            if isinstance(inner, list) and inner and isinstance(other, list) and other:
                inner, other = inner[0], other[0]
            if isinstance(inner, dict):
                found |= _differ(inner, other)
    return found


def _schema(body: object) -> object:
    document = copy.deepcopy(openapi.document("test")["components"])
    return {**body, "components": document} if isinstance(body, dict) else body


def test_every_body_is_here() -> None:
    with_body = {key for key, operation in OPERATIONS.items() if operation.body}
    assert with_body == set(BODIES)


@pytest.mark.parametrize("key", sorted(BODIES), ids=" ".join)
def test_the_controller_takes_what_the_document_says_and_nothing_else(key: tuple[str, str]) -> None:
    parse, good = BODIES[key]
    schema = jsonschema_rs.Draft202012Validator(_schema(OPERATIONS[key].body))

    def taken(body: object) -> bool:
        try:
            parse(json.dumps(body).encode())
        except NodectlError:
            return False
        return True

    wrong = []
    for body in good:
        assert taken(body), body
        assert schema.is_valid(body), body
        for changed in _changed(body):
            allowed, does = schema.is_valid(changed), taken(changed)
            excused = allowed and _differ(body, changed) & set(ONLY_THE_PARSER)
            if allowed != does and not excused:
                wrong.append((f"allowed: {allowed}, taken: {does}", str(changed)[:300]))
    assert wrong == []
