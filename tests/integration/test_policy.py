"""Every path of the control API, asked by every role with every kind of credential."""

import dataclasses
import random
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
from controlling import LIMITS, ROOT, ROOT_BLOCK, Controller, new_controller, run_async, running
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from nodectl.catalog.memory import MemoryCatalog
from nodectl.catalog.records import JobKind
from nodectl.catalog.sqlite import SqliteCatalog
from nodectl.controller.api import Clocks, ControlApi
from nodectl.controller.audit import realm_audit
from nodectl.controller.policy import BOOTED, JOIN, NOBODY, POLICY, Scope, rights
from nodectl.errors import TokenRefused
from nodectl.node.client import ControlClient
from nodectl.node.join import join
from nodectl.node.renew import renew
from nodectl.node.state import Membership, StateFolder
from nodectl.trust.ca import CONTROLLER_NAME, Credential, client_context
from nodectl.trust.certificate import issue_member, load_identity, make_request
from nodectl.trust.mac import Signed, sign_request
from nodectl.trust.realm import create_realm, load_realm
from nodectl.trust.token import Role

MS = 1000


def _paths(me: str, other: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Return for each route a path that concerns `me`, and one that does not."""
    root = ROOT.hex()
    one = {
        "/v1/nodes/{name}": (f"/v1/nodes/{me}", f"/v1/nodes/{other}"),
        "/v1/files/{file}": ("/v1/files/munge",) * 2,
        "/v1/cloning/{part}/{name}": ("/v1/cloning/pre/golden",) * 2,
        "/v1/nodes/{name}/cloning": (f"/v1/nodes/{me}/cloning", f"/v1/nodes/{other}/cloning"),
        "/v1/nodes/{name}/files": (f"/v1/nodes/{me}/files", f"/v1/nodes/{other}/files"),
        "/v1/nodes/{name}/clones": (f"/v1/nodes/{me}/clones", f"/v1/nodes/{other}/clones"),
        "/v1/inventory/{name}": (f"/v1/inventory/{me}", f"/v1/inventory/{other}"),
        "/v1/releases/{name}": ("/v1/releases/golden",) * 2,
        "/v1/releases/{name}/access": ("/v1/releases/golden/access",) * 2,
        "/v1/releases/{name}/swarm": ("/v1/releases/golden/swarm",) * 2,
        "/v1/releases/{name}/{generation}": ("/v1/releases/golden/1",) * 2,
        "/v1/releases/{name}/{generation}/signature": ("/v1/releases/golden/1/signature",) * 2,
        "/v1/swarm/{root}/ticket": (f"/v1/swarm/{root}/ticket",) * 2,
        "/v1/swarm/{root}/announce": (f"/v1/swarm/{root}/announce",) * 2,
        "/v1/jobs/{job_id}": (f"/v1/jobs/{JOB[me]}", f"/v1/jobs/{JOB[other]}"),
        "/v1/jobs/{job_id}/events": (
            f"/v1/jobs/{JOB[me]}/events",
            f"/v1/jobs/{JOB[other]}/events",
        ),
        "/v1/jobs/{job_id}/nodes/{node}": (
            f"/v1/jobs/{JOB[me]}/nodes/{me}",
            f"/v1/jobs/{JOB[other]}/nodes/{other}",
        ),
    }
    return {key: one.get(key[1], (key[1], key[1])) for key in POLICY}


JOB = {"n1": 1, "n2": 2, "i1": 3, "c": 4, "o1": 5}


async def _ask(
    controller: Controller,
    method: str,
    path: str,
    *,
    tls: ssl.SSLContext,
    header: str | None,
) -> tuple[int, bytes]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session,
        session.request(
            method,
            controller.url + path,
            headers={} if header is None else {"Authorization": header},
            server_hostname=CONTROLLER_NAME,
        ) as response,
    ):
        return response.status, await response.read()


def _tls(member: Membership, identity: Credential | None) -> ssl.SSLContext:
    context = client_context(member.ca_pem.encode())
    if identity is not None:
        load_identity(context, identity)
    return context


def _mac(member: Membership, method: str, path: str, *, at: float = 0.0) -> str:
    return sign_request(
        Signed(method, path),
        client=member.node,
        key=member.secret,
        unix_ms=int((at or time.time()) * MS),
    )


class Lab(NamedTuple):
    controller: Controller
    members: dict[str, Membership]


async def _fill(controller: Controller, tmp_path: Path) -> Lab:
    members = {"c": controller.state.membership()}
    for name, role in (
        ("o1", Role.OPERATOR),
        ("n1", Role.NODE),
        ("n2", Role.NODE),
        ("i1", Role.INSTALLER),
    ):
        members[name] = await controller.member(tmp_path / name, name, role=role)
    async with controller.operator() as client:
        await client.publish("golden", ROOT, ROOT_BLOCK, kind="tree", totals={"files": 1})
        for name, job_id in JOB.items():
            view = await client.create_job(JobKind.FETCH, "golden", [name])
            assert view.job.job_id == job_id
    return Lab(controller, members)


def test_the_table_and_the_routes_are_the_same(tmp_path: Path) -> None:
    realm, catalog = create_realm("lab", now=0), MemoryCatalog()
    audit = realm_audit(realm, tmp_path / "realm", catalog, time.time)
    api = ControlApi(catalog, realm, audit, Clocks(rng=random.Random(1)))
    routes = {
        (route.method, route.resource.canonical)
        for route in api.application().router.routes()
        if route.resource is not None
    }
    assert routes == set(POLICY) | {JOIN, BOOTED}
    assert rights("GET", "/v1/secrets") == NOBODY
    assert all(NOBODY.of(role) is Scope.NONE for role in Role)


def _walk(name: str, role: Role) -> list[tuple[str, str, bool]]:
    """Return every path for a member, its own and another's, and whether it may call it."""
    asked = []
    for (method, route), (own, foreign) in _paths(name, "n2").items():
        scope = POLICY[method, route].of(role)
        asked.append((method, own, scope is not Scope.NONE))
        if foreign != own:
            asked.append((method, foreign, scope is Scope.ALL))
    # Removing a member changes what the others may do: last, and oneself at the very end.
    return sorted(asked, key=lambda one: (one[0] == "DELETE", one[1] == f"/v1/nodes/{name}"))


def test_each_role_may_call_what_the_table_says(tmp_path: Path) -> None:
    """403 where the table has no right, for another's things where it has only one's own."""

    async def main() -> None:
        async with running(new_controller(tmp_path / "c")) as controller:
            lab = await _fill(controller, tmp_path)
            for name in ("n1", "i1", "o1"):  # the operator last: it removes n2
                member = lab.members[name]
                tls = _tls(member, member.identity)
                for method, path, allowed in _walk(name, member.role):
                    header = _mac(member, method, path)
                    status, _ = await _ask(controller, method, path, tls=tls, header=header)
                    assert (status == 403) is not allowed, (name, method, path, status)
                    assert status != 401, (name, method, path)
            entries = [e for e in _audit(controller) if e["what"] == "refused"]
            # An operator is refused one thing: what another node is given.
            assert {e["who"] for e in entries} == {"n1", "i1", "o1"}
            assert [e["whom"] for e in entries if e["who"] == "o1"] == ["/v1/nodes/n2/files"]

    run_async(main())


def _audit(controller: Controller) -> list[dict[str, object]]:

    state = controller.state
    with SqliteCatalog(state.catalog) as catalog:
        audit = realm_audit(load_realm(state.realm), state.realm, catalog, time.time)
        audit.verify()
        return list(audit.entries())


Credentials = Callable[[Lab, str, str], tuple[ssl.SSLContext, str | None]]


def _without_certificate(lab: Lab, method: str, path: str) -> tuple[ssl.SSLContext, str | None]:
    me = lab.members["c"]
    return _tls(me, None), _mac(me, method, path)


def _without_mac(lab: Lab, _method: str, _path: str) -> tuple[ssl.SSLContext, str | None]:
    me = lab.members["c"]
    return _tls(me, me.identity), None


def _of_two_members(lab: Lab, method: str, path: str) -> tuple[ssl.SSLContext, str | None]:
    me = lab.members["n1"]
    return _tls(me, me.identity), _mac(lab.members["c"], method, path)


def _wrong_mac(lab: Lab, method: str, path: str) -> tuple[ssl.SSLContext, str | None]:
    me = lab.members["c"]
    return _tls(me, me.identity), _mac(me, method, path + "?x")


def _old(lab: Lab, method: str, path: str) -> tuple[ssl.SSLContext, str | None]:
    me = lab.members["c"]
    return _tls(me, me.identity), _mac(me, method, path, at=time.time() - 130)


def _self_made_serial(lab: Lab, method: str, path: str) -> tuple[ssl.SSLContext, str | None]:
    """A certificate that the realm's CA signed, and that the realm does not know (any more)."""

    me = lab.members["c"]
    request, key = make_request("c")
    authority = load_realm(lab.controller.state.realm).authority
    pem, _ = issue_member(authority, request, name="c", now=time.time())
    return _tls(me, Credential(certificate=pem, key=key)), _mac(me, method, path)


@pytest.mark.parametrize(
    "credentials",
    [_without_certificate, _without_mac, _of_two_members, _wrong_mac, _old, _self_made_serial],
)
def test_a_wrong_credential_reaches_nothing(tmp_path: Path, credentials: Credentials) -> None:
    async def main() -> None:
        async with running(new_controller(tmp_path / "c")) as controller:
            lab = await _fill(controller, tmp_path)
            paths = _paths("n1", "n2")
            for (method, _), (path, _) in {**paths, ("GET", "/"): ("/", "/")}.items():
                tls, header = credentials(lab, method, path)
                answer = await _ask(controller, method, path, tls=tls, header=header)
                assert answer == (401, b""), (method, path)

    run_async(main())


def test_a_replayed_request_is_refused_on_every_path(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(new_controller(tmp_path / "c")) as controller:
            lab = await _fill(controller, tmp_path)
            me = lab.members["c"]
            tls = _tls(me, me.identity)
            for (method, _), (path, _) in _paths("n1", "n2").items():
                header = _mac(me, method, path)
                first, _ = await _ask(controller, method, path, tls=tls, header=header)
                assert first != 401
                again = await _ask(controller, method, path, tls=tls, header=header)
                assert again == (401, b""), (method, path)

    run_async(main())


def test_a_foreign_realms_certificate_ends_the_connection(tmp_path: Path) -> None:
    async def main() -> None:
        other = new_controller(tmp_path / "other", realm_name="other")
        async with running(new_controller(tmp_path / "c")) as controller:
            me = controller.state.membership()
            tls = _tls(me, other.membership().identity)
            for method, path in (("GET", "/v1/work"), ("POST", "/v1/join")):
                with pytest.raises((aiohttp.ClientError, OSError)):
                    await _ask(controller, method, path, tls=tls, header=_mac(me, method, path))

    run_async(main())


def test_a_certificate_is_renewed_and_the_old_one_ends(tmp_path: Path) -> None:
    """Renewal at two thirds; the old one counts for an hour more; a stolen one is worth nothing."""

    async def main() -> None:
        now = [time.time()]
        state = StateFolder(tmp_path / "n1")
        async with running(new_controller(tmp_path / "c"), now=lambda: now[0]) as controller:
            old = await controller.member(tmp_path / "n1", "n1")
            async with ControlClient(old, now=lambda: now[0]) as client:
                await client.releases()
                assert not client.renewal_due
                now[0] += 250 * 86400
                await client.releases()
                assert client.renewal_due
                await renew(state, client)
                await client.releases()
                assert not client.renewal_due
            new = state.membership()
            assert new.identity.certificate != old.identity.certificate
            assert new.identity.key != old.identity.key
            for wait, good in ((0, 200), (3700, 401)):
                now[0] += wait
                header = _mac(old, "GET", "/v1/work?wait_ms=0", at=now[0])
                tls = _tls(old, old.identity)
                status, _ = await _ask(
                    controller, "GET", "/v1/work?wait_ms=0", tls=tls, header=header
                )
                assert status == good
            now[0] += 366 * 86400
            header = _mac(new, "GET", "/v1/work", at=now[0])
            tls = _tls(new, new.identity)
            assert (await _ask(controller, "GET", "/v1/work", tls=tls, header=header))[0] == 401

    run_async(main())


def test_a_member_cannot_stand_as_the_controller() -> None:
    """Its certificate is for clients only, whatever name it has."""
    realm = create_realm("lab", now=0)
    request, _ = make_request(CONTROLLER_NAME)
    pem, _ = issue_member(realm.authority, request, name=CONTROLLER_NAME, now=time.time())
    usage = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(
        x509.ExtendedKeyUsage
    )
    assert list(usage.value) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_a_removed_node_is_out_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(new_controller(tmp_path / "c")) as controller:
            lab = await _fill(controller, tmp_path)
            async with controller.operator() as operator:
                await operator.remove_node("n1")
            me = lab.members["n1"]
            for method, path in (("GET", "/v1/work?wait_ms=0"), ("POST", "/v1/renew")):
                header = _mac(me, method, path)
                tls = _tls(me, me.identity)
                assert (await _ask(controller, method, path, tls=tls, header=header))[0] == 401

    run_async(main())


def test_a_refused_join_is_written_down(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(new_controller(tmp_path / "c")) as controller:
            token = dataclasses.replace(controller.token(), secret=bytes(32))
            with pytest.raises(TokenRefused):
                await join(StateFolder(tmp_path / "n1"), token, name="n1", limits=LIMITS)
            (entry,) = [e for e in _audit(controller) if e["what"] == "refused"]
            assert (entry["from"], entry["whom"]) == ("127.0.0.1", "/v1/join")
            assert "join as n1" in str(entry["details"])

    run_async(main())
