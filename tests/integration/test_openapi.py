"""The OpenAPI document that the controller serves, and the controller held against it."""

import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
import requests
import schemathesis
from commands import Commands
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import checks
from schemathesis.core.transport import Response
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks as openapi_checks

from nodectl.controller import openapi
from nodectl.controller.operations import OPERATIONS
from nodectl.controller.policy import BOOTED, JOIN, POLICY
from nodectl.node.state import Membership, StateFolder
from nodectl.trust.ca import CONTROLLER_NAME, client_context
from nodectl.trust.certificate import load_identity
from nodectl.trust.mac import Signed, sign_request

DOCUMENT = openapi.document("test")
# Who asks is not generated here: test_policy.py asks with every kind of credential.
OPEN = schemathesis.openapi.from_dict(
    {
        **{name: part for name, part in DOCUMENT.items() if name != "security"},
        "components": {"schemas": DOCUMENT["components"]["schemas"]},
    }
)
CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
]
WAIT_MAX_MS = 20


def test_the_document_tells_of_every_route_and_of_no_other() -> None:
    assert set(OPERATIONS) == {*POLICY, JOIN, BOOTED}
    told = {
        (method.upper(), path): operation["x-nodectl-rights"]
        for path, operations in DOCUMENT["paths"].items()
        for method, operation in operations.items()
        if operation.get("security") != []
    }
    assert told == {
        route: {"operator": rights.operator, "node": rights.node, "installer": rights.installer}
        for route, rights in POLICY.items()
    }


class Live:
    """A controller that runs, and one connection to it."""

    def __init__(self, port: int, member: Membership) -> None:
        self._port = port
        self._member = member
        self._tls = client_context(member.ca_pem.encode())
        load_identity(self._tls, member.identity)
        self._connection: http.client.HTTPConnection | None = None

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            plain = socket.create_connection(("127.0.0.1", self._port), timeout=20)
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
            self._connection.sock = self._tls.wrap_socket(plain, server_hostname=CONTROLLER_NAME)
        return self._connection

    def ask(self, method: str, target: str, body: bytes) -> Response:
        """Make a request as this member; return it as schemathesis wants it."""
        signed = Signed(method, target, body)
        now_ms = int(time.time() * 1000)
        key, client = self._member.secret, self._member.node
        headers = {"Authorization": sign_request(signed, client=client, key=key, unix_ms=now_ms)}
        connection = self._connected()
        try:
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (http.client.HTTPException, ConnectionError, ssl.SSLError):
            self.close()
            raise
        if answer.will_close:
            self.close()
        found: dict[str, list[str]] = {}
        for name, value in answer.getheaders():
            found.setdefault(name.lower(), []).append(value)
        url = f"https://127.0.0.1:{self._port}{target}"
        prepared = requests.Request(method, url, data=body).prepare()
        return Response(
            status_code=answer.status, headers=found, content=content, request=prepared,
            elapsed=0.0, verify=False,
        )  # fmt: skip

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    commands = Commands(tmp_path_factory.mktemp("openapi"))
    try:
        tree = commands.folder / "tree"
        tree.mkdir()
        (tree / "a").write_text("a")
        commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
        commands.ok("c", "image", "capture", "golden", "--tree", str(tree))
        _, ready = commands.serve("c", "--controller")
        commands.ok("c", "swarm", "push", "golden", "--nodes", "c")
        (commands.folder / "motd").write_text("this is @{name}\n")
        commands.ok("c", "template", "set", "motd", "--group", "all", "--path", "/etc/motd",
                    "--file", str(commands.folder / "motd"))  # fmt: skip
        member = StateFolder(commands.folder / "c").membership()
        made = Live(urlsplit(ready["control_url"]).port or 0, member)
        yield made
        made.close()
    finally:
        commands.end()


def test_the_controller_serves_the_document(live: Live) -> None:
    served = json.loads(live.ask("GET", "/v1/openapi.json", b"").content)
    assert served["info"].pop("version") != "test"
    expected = json.loads(json.dumps(DOCUMENT))
    del expected["info"]["version"]
    assert served == expected


@pytest.fixture(scope="module")
def known(live: Live) -> dict[str, list[str]]:
    """What there is, so that not every path names what there is not."""
    release = json.loads(live.ask("GET", "/v1/releases/golden", b"").content)
    return {
        "root": [release["release"]["root"]],
        "name": ["golden"],
        "generation": ["1"],
        "job_id": ["1"],
        "node": ["c"],
        "file": ["motd"],
        "part": ["post", "disklayout"],
    }


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), sorted(OPERATIONS), ids=lambda part: part.strip("/"))
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_controller_does_as_the_document_says(
    live: Live, known: dict[str, list[str]], method: str, path: str, mode: GenerationMode
) -> None:
    """No answer but those described, whatever is sent; what the document forbids is refused."""
    operation = OPEN[path][method]
    takes = operation.body or operation.query or "{" in path
    if mode is GenerationMode.NEGATIVE and not takes:
        return
    wanted = CHECKS + (
        [openapi_checks.negative_data_rejection] if mode is GenerationMode.NEGATIVE else []
    )

    @settings(
        max_examples=10, deadline=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    def run(case: schemathesis.Case, data: st.DataObject) -> None:
        if mode is GenerationMode.POSITIVE and method != "DELETE":
            for name in case.path_parameters:
                if data.draw(st.booleans()):
                    case.path_parameters[name] = data.draw(st.sampled_from(known[name]))
        response = live.ask(method, _target(case), _body(case))
        if response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return  # it was refused before it was read, as the document says
        case.validate_response(response, checks=wanted)

    run()


def _target(case: schemathesis.Case) -> str:
    query = dict(case.query or {})
    wait = str(query.get("wait_ms", ""))
    if wait.isascii() and wait.isdigit():
        query["wait_ms"] = str(min(int(wait), WAIT_MAX_MS) if int(wait) <= 60_000 else wait)
    elif "wait_ms" not in query and case.operation.path.endswith(("/work", "/events")):
        query["wait_ms"] = str(WAIT_MAX_MS)
    path = quote(case.formatted_path, safe="/%")
    return f"{path}?{urlencode(query, doseq=True)}" if query else path


def _body(case: schemathesis.Case) -> bytes:
    body: Any = case.body
    if isinstance(body, bytes):
        return body
    if type(body).__name__ == "NotSet":
        return b""
    return json.dumps(body).encode()


def test_the_document_is_one_for_other_tools() -> None:
    """It says where its words are explained, and every reference in it leads somewhere."""
    text = json.dumps(DOCUMENT)
    schemas = DOCUMENT["components"]["schemas"]
    assert "docs/control-api.md" in text
    assert all(
        part.partition('"')[0] in schemas for part in text.split("#/components/schemas/")[1:]
    )
