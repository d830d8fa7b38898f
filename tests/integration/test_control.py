"""The control API over real HTTPS on loopback: joining, authority, releases, jobs, clocks."""

import asyncio
import dataclasses
import json
import socket
import ssl
import time
from pathlib import Path

import aiohttp
import pytest
from controlling import LIMITS, ROOT, ROOT_BLOCK, Controller, new_controller, run_async, running

from nodectl.catalog.records import JobKind, JobState, WorkState
from nodectl.errors import (
    AlreadyThere,
    ContentInvalid,
    ControllerUnreachable,
    NameTaken,
    NodectlError,
    NotAllowed,
    PathUnreadable,
    PortInUse,
    TokenRefused,
    UnknownImage,
    UnknownJob,
    UnknownNode,
)
from nodectl.node.client import ControlClient
from nodectl.node.join import join
from nodectl.node.state import Membership, StateFolder
from nodectl.trust.ca import CONTROLLER_NAME, client_context
from nodectl.trust.certificate import load_identity
from nodectl.trust.mac import TIME_HEADER, Signed, sign_request
from nodectl.trust.publisher import trusted_keys
from nodectl.trust.release import verify_release
from nodectl.trust.token import Role, Token

TEN_YEARS_S = 10 * 365 * 86400


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    return new_controller(tmp_path / "c")


async def _publish(client: ControlClient) -> None:
    await client.publish("golden", ROOT, ROOT_BLOCK, kind="tree", totals={"files": 1})


# --- joining ---------------------------------------------------------------------------------


def test_a_node_joins_and_gets_what_it_needs(state: StateFolder, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(state) as controller:
            made = await controller.member(tmp_path / "n1", "n1")
            first = state.membership()
            assert StateFolder(tmp_path / "n1").membership() == made
            assert (made.node, made.role, made.controllers) == ("n1", Role.NODE, (controller.url,))
            assert made.content_keys == first.content_keys
            assert (made.realm_id, made.ca_pem) == (first.realm_id, first.ca_pem)
            assert made.publishers == first.publishers
            async with ControlClient(made) as client:
                assert await client.releases() == []

    run_async(main())


def _broken(token: Token, how: str) -> Token:
    match how:
        case "secret":
            return dataclasses.replace(token, secret=bytes(32))
        case "id":
            return dataclasses.replace(token, token_id="00")
        case _:
            return dataclasses.replace(token, realm_id="00" * 16)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [("secret", "secret is not"), ("id", "no token has its id"), ("realm", "another realm")],
)
def test_a_wrong_token_is_refused(
    state: StateFolder, tmp_path: Path, how: str, sentence: str
) -> None:
    async def main() -> None:
        async with running(state) as controller:
            token = _broken(controller.token(), how)
            with pytest.raises(TokenRefused, match=sentence):
                await join(StateFolder(tmp_path / "n"), token, name="n", limits=LIMITS)

    run_async(main())
    assert not (tmp_path / "n").exists()


def test_used_and_expired_tokens_are_refused(state: StateFolder, tmp_path: Path) -> None:
    async def main() -> None:
        now = [time.time()]
        async with running(state, now=lambda: now[0]) as controller:
            token = controller.token()
            await join(StateFolder(tmp_path / "n1"), token, name="n1", limits=LIMITS)
            with pytest.raises(TokenRefused, match="used already"):
                await join(StateFolder(tmp_path / "n2"), token, name="n2", limits=LIMITS)
            late = controller.token(ttl_s=60)
            now[0] = time.time() + 61  # tokens are made by the real clock
            with pytest.raises(TokenRefused, match="expired"):
                await join(StateFolder(tmp_path / "n2"), late, name="n2", limits=LIMITS)

    run_async(main())


def test_a_token_of_another_realm_is_not_even_sent(state: StateFolder, tmp_path: Path) -> None:
    """The CA is compared first: the foreign controller hears no byte of the token."""

    async def main() -> None:
        other = new_controller(tmp_path / "other", realm_name="other")
        async with running(state) as controller, running(other) as stranger:
            token = stranger.token()
            with pytest.raises(TokenRefused, match="the token was not sent"):
                await join(
                    StateFolder(tmp_path / "n"), token, name="n", url=controller.url, limits=LIMITS
                )

    run_async(main())


def test_of_fifty_joins_with_a_token_for_one_one_succeeds(
    state: StateFolder, tmp_path: Path
) -> None:
    async def main() -> list[object]:
        async with running(state) as controller:
            token = controller.token(uses=1)
            return await asyncio.gather(
                *(
                    join(StateFolder(tmp_path / f"n{n}"), token, name=f"n{n}", limits=LIMITS)
                    for n in range(50)
                ),
                return_exceptions=True,
            )

    outcomes = run_async(main())
    assert sum(isinstance(outcome, Membership) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, TokenRefused) for outcome in outcomes) == 49
    assert len([p for p in tmp_path.iterdir() if (p / "node.json").exists()]) == 2  # with c


def test_two_nodes_with_one_name(state: StateFolder, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(state) as controller:
            await controller.member(tmp_path / "a", "n1")
            with pytest.raises(NameTaken, match="n1"):
                await controller.member(tmp_path / "b", "n1")
            with pytest.raises(NameTaken):
                await controller.member(tmp_path / "b", "c")

    run_async(main())
    assert not (tmp_path / "b").exists()


def test_a_join_that_cannot_be_written_leaves_nothing_behind(
    state: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with running(state) as controller:
            with monkeypatch.context() as patch:
                patch.setattr(StateFolder, "write_membership", _full)
                with pytest.raises(OSError, match="No space left"):
                    await controller.member(tmp_path / "n", "n1")
            async with controller.operator() as operator:
                assert [node["name"] for node in await operator.nodes()] == ["c"]
            await controller.member(tmp_path / "n", "n1")

    run_async(main())


def _full(_state: StateFolder, _membership: Membership) -> None:
    raise OSError(28, "No space left on device")


def test_a_state_that_cannot_be_written_is_refused_before_the_token_is_sent(
    state: StateFolder, tmp_path: Path
) -> None:
    async def main() -> None:
        async with running(state) as controller:
            token = controller.token()
            (tmp_path / "file").write_text("")
            with pytest.raises(PathUnreadable, match="nothing was sent"):
                await join(StateFolder(tmp_path / "file" / "n"), token, name="n", limits=LIMITS)
            await join(StateFolder(tmp_path / "n"), token, name="n", limits=LIMITS)

    run_async(main())


def test_joining_again_needs_force_and_keeps_the_name(state: StateFolder, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(state) as controller:
            old = await controller.member(tmp_path / "n", "n1")
            with pytest.raises(AlreadyThere, match="is n1 of the realm lab already"):
                await controller.member(tmp_path / "n", "n1")
            new = await join(StateFolder(tmp_path / "n"), controller.token(), name="n1", force=True)
            assert new.secret != old.secret
            async with ControlClient(new) as client:
                await client.releases()
            async with ControlClient(old) as client:
                with pytest.raises(NotAllowed):
                    await client.releases()

    run_async(main())


def test_no_controller_answers(state: StateFolder, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(state) as controller:
            token = controller.token()
        with pytest.raises(ControllerUnreachable, match=controller.url):
            await join(StateFolder(tmp_path / "n"), token, name="n", limits=LIMITS)
        async with controller.operator() as client:
            with pytest.raises(ControllerUnreachable):
                await client.nodes()

    run_async(main())


# --- authority -------------------------------------------------------------------------------

ENDPOINTS = [
    ("GET", "/v1/nodes"),
    ("DELETE", "/v1/nodes/c"),
    ("GET", "/v1/releases"),
    ("POST", "/v1/releases"),
    ("GET", "/v1/releases/golden"),
    ("GET", "/v1/releases/golden/1"),
    ("GET", f"/v1/swarm/{ROOT.hex()}/ticket"),
    ("POST", f"/v1/swarm/{ROOT.hex()}/announce"),
    ("GET", "/v1/jobs"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/jobs/1"),
    ("GET", "/v1/jobs/1/events"),
    ("POST", "/v1/jobs/1/nodes/c"),
    ("GET", "/v1/work"),
    ("GET", "/v1/join"),
    ("GET", "/"),
    ("GET", "/v1/no-such-thing"),
]


async def _raw(
    controller: Controller, method: str, path: str, header: str | None
) -> tuple[int, bytes, str]:
    member = controller.state.membership()
    tls = client_context(member.ca_pem.encode())
    load_identity(tls, member.identity)
    headers = {} if header is None else {"Authorization": header}
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session,
        session.request(
            method, controller.url + path, headers=headers, server_hostname=CONTROLLER_NAME
        ) as response,
    ):
        return response.status, await response.read(), response.headers.get(TIME_HEADER, "")


def test_nothing_is_reachable_without_the_right_mac(state: StateFolder) -> None:
    async def main() -> None:
        async with running(state) as controller:
            secret, now = controller.state.membership().secret, int(time.time() * 1000)
            async with controller.operator() as client:
                await _publish(client)
            for method, path in ENDPOINTS:
                good = Signed(method, path)
                headers = [
                    None,
                    "Bearer x",
                    sign_request(good, client="c", key=bytes(32), unix_ms=now),
                    sign_request(good, client="nobody", key=secret, unix_ms=now),
                    sign_request(good, client="c", key=secret, unix_ms=now - 200_000),
                    sign_request(Signed("PUT", path), client="c", key=secret, unix_ms=now),
                    sign_request(Signed(method, path + "x"), client="c", key=secret, unix_ms=now),
                    sign_request(Signed(method, path, b"b"), client="c", key=secret, unix_ms=now),
                ]
                for header in headers:
                    status, body, stamp = await _raw(controller, method, path, header)
                    assert (status, body) == (401, b""), (method, path, header)
                    assert abs(int(stamp) - now) < 60_000

    run_async(main())


def test_a_request_that_was_recorded_is_worth_nothing(state: StateFolder) -> None:
    async def main() -> None:
        async with running(state) as controller:
            secret = controller.state.membership().secret
            signed = Signed("GET", "/v1/releases")
            header = sign_request(signed, client="c", key=secret, unix_ms=int(time.time() * 1000))
            assert (await _raw(controller, "GET", "/v1/releases", header))[0] == 200
            assert (await _raw(controller, "GET", "/v1/releases", header))[0] == 401

    run_async(main())


def test_a_node_may_do_its_own_work_only(state: StateFolder, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(state) as controller:
            one = await controller.member(tmp_path / "n1", "n1")
            await controller.member(tmp_path / "n2", "n2")
            async with controller.operator() as operator:
                await _publish(operator)
                job = (await operator.create_job(JobKind.FETCH, "golden", ["n2"])).job
            async with ControlClient(one) as node:
                outcomes = await asyncio.gather(
                    node.nodes(),
                    node.remove_node("n2"),
                    node.publish("x", ROOT, ROOT_BLOCK, kind="tree", totals={}),
                    node.create_job(JobKind.FETCH, "golden", ["n1"]),
                    node._ask("POST", f"/v1/jobs/{job.job_id}/nodes/n2", {"state": "done"}),
                    return_exceptions=True,
                )
                assert {type(outcome) for outcome in outcomes} == {NotAllowed}
                assert (await node.release("golden")).origin == "c"
                assert (await node.ticket(ROOT)).root_block == ROOT_BLOCK
                with pytest.raises(UnknownJob):
                    await node.report(job.job_id, {"state": "done"})

    run_async(main())


def test_a_removed_node_can_do_nothing(state: StateFolder, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(state) as controller:
            member = await controller.member(tmp_path / "n1", "n1")
            async with controller.operator() as operator:
                await operator.remove_node("n1")
                with pytest.raises(UnknownNode):
                    await operator.remove_node("n1")
            async with ControlClient(member) as client:
                with pytest.raises(NotAllowed, match="does not accept n1"):
                    await client.releases()

    run_async(main())


@pytest.mark.parametrize("off_s", [-TEN_YEARS_S, -300, 300, TEN_YEARS_S])
def test_a_wrong_clock_heals_with_one_retry(state: StateFolder, off_s: float) -> None:
    async def main() -> None:
        async with (
            running(state) as controller,
            controller.operator(now=lambda: time.time() + off_s) as client,
        ):
            assert [node["name"] for node in await client.nodes()] == ["c"]
            await _publish(client)

    run_async(main())


def test_a_stranger_with_another_ca_is_not_talked_to(state: StateFolder, tmp_path: Path) -> None:
    async def main() -> None:
        other = new_controller(tmp_path / "other", realm_name="other")
        async with running(other) as stranger:
            lured = dataclasses.replace(state.membership(), controllers=(stranger.url,))
            async with ControlClient(lured, limits=LIMITS) as client:
                with pytest.raises(ControllerUnreachable, match="not the controller of this realm"):
                    await client.nodes()

    run_async(main())


def test_plain_http_and_old_tls_get_nothing(state: StateFolder) -> None:
    async def main() -> None:
        async with running(state) as controller:
            reader, writer = await asyncio.open_connection("127.0.0.1", controller.port)
            writer.write(b"GET /v1/nodes HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"HTTP/1.1 2" not in await reader.read(1000)
            writer.close()
            old = client_context(controller.state.membership().ca_pem.encode())
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                await asyncio.open_connection(
                    "127.0.0.1", controller.port, ssl=old, server_hostname=CONTROLLER_NAME
                )

    run_async(main())


# --- releases and swarms ---------------------------------------------------------------------


def test_a_release_is_published_signed_and_found(state: StateFolder) -> None:
    async def main() -> None:
        async with running(state) as controller, controller.operator() as client:
            member = state.membership()
            await _publish(client)
            record = await client.release("golden")
            verify_release(
                record.signed.to_json(),
                realm=member.realm_id,
                publishers=trusted_keys(member.publishers, 0),
            )
            assert await client.release("golden", 1) == record
            assert await client.releases() == await client.releases("golden") == [record]
            with pytest.raises(UnknownImage):
                await client.release("silver")
            with pytest.raises(ContentInvalid):
                await client.publish("golden", ROOT, b"another", kind="tree", totals={})

    run_async(main())


def test_of_parallel_publications_each_gets_its_generation(state: StateFolder) -> None:
    from blake3 import blake3  # noqa: PLC0415 - only here

    from nodectl.ids import Root  # noqa: PLC0415 - only here

    async def main() -> None:
        async with running(state) as controller, controller.operator() as client:
            blocks = [f"block {n}".encode() for n in range(10)]
            await asyncio.gather(
                *(
                    client.publish("g", Root(blake3(b).digest()), b, kind="tree", totals={})
                    for b in blocks
                )
            )
            releases = await client.releases("g")
            assert [r.signed.release.generation for r in releases] == list(range(1, 11))

    run_async(main())


def test_the_tracker_makes_peers_known(state: StateFolder, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(state) as controller:
            member = await controller.member(tmp_path / "n1", "n1")
            async with controller.operator() as one, ControlClient(member) as two:
                await _publish(one)
                said = {"have_bytes": 0, "complete": False}
                assert (await one.announce(ROOT, url="http://h:1", **said)).peers == ()
                answer = await two.announce(ROOT, url="http://h:2", **said)
                assert [(p.node, p.url) for p in answer.peers] == [("c", "http://h:1")]
                assert answer.known == 2
                ticket = await one.ticket(ROOT)
                assert [p.node for p in ticket.peers] == ["n1"]
                assert len(ticket.swarm_key) == 32
                with pytest.raises(UnknownImage):
                    await one.announce(type(ROOT)(bytes(32)), url="http://h:1", **said)

    run_async(main())


# --- jobs ------------------------------------------------------------------------------------


def test_unknown_nodes_and_images_start_nothing(state: StateFolder) -> None:
    async def main() -> None:
        async with running(state) as controller, controller.operator() as client:
            with pytest.raises(UnknownImage):
                await client.create_job(JobKind.FETCH, "golden", ["c"])
            await _publish(client)
            with pytest.raises(UnknownNode, match="x, y; no job was made"):
                await client.create_job(JobKind.FETCH, "golden", ["c", "x", "y"])
            assert await client.jobs() == []

    run_async(main())


def test_work_waits_for_a_job_and_events_for_a_report(state: StateFolder, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(state) as controller:
            member = await controller.member(tmp_path / "n1", "n1")
            async with controller.operator() as operator, ControlClient(member) as node:
                await _publish(operator)
                async with asyncio.TaskGroup() as group:
                    polling = group.create_task(node.work(since=0, wait_s=20))
                    view = await operator.create_job(JobKind.FETCH, "golden", ["n1"])
                ((job, work, _),) = polling.result()
                assert (job, work.state) == (view.job, WorkState.WAITING)
                assert await node.work(since=job.job_id, wait_s=0) == []
                async with asyncio.TaskGroup() as group:
                    watching = group.create_task(
                        operator.job_events(job.job_id, since=view.version, wait_s=20)
                    )
                    await node.report(
                        job.job_id, {"state": "running", "step": "fetch", "done": 3, "total": 9}
                    )
                (row,) = watching.result().rows
                assert (row.work.node, row.work.step, row.done, row.total) == ("n1", "fetch", 3, 9)
                await node.report(job.job_id, {"state": "done", "receipt": {"bytes": 9}})
                final = await operator.job(job.job_id)
                assert final.state is JobState.OK
                assert final.rows[1].work.receipt == {"bytes": 9}

    run_async(main())


def test_a_restarted_controller_keeps_jobs_nodes_and_releases(
    state: StateFolder, tmp_path: Path
) -> None:
    async def main() -> None:
        async with running(state) as controller:
            member = await controller.member(tmp_path / "n1", "n1")
            async with controller.operator() as operator, ControlClient(member) as node:
                await _publish(operator)
                job = (await operator.create_job(JobKind.FETCH, "golden", ["n1"])).job
                await node.report(job.job_id, {"state": "running", "step": "fetch"})
        async with (
            running(state, port=controller.port) as again,
            again.operator() as operator,
            ControlClient(member) as node,
        ):
            view = await operator.job(job.job_id)
            assert (view.job, view.state) == (job, JobState.RUNNING)
            assert view.rows[1].work.step == "fetch"
            await node.report(job.job_id, {"state": "done"})
            assert [s for _, s in await operator.jobs()] == [JobState.OK]

    run_async(main())


# --- the server ------------------------------------------------------------------------------


def test_a_port_in_use_is_named(state: StateFolder) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(PortInUse, match=f"port {port} is in use") as caught:
                async with running(state, port=port):
                    pass
            assert caught.value.hint

    run_async(main())


def test_stopping_does_not_wait_for_long_polls(state: StateFolder) -> None:
    async def main() -> None:
        outcome: list[object] = []

        async def poll(client: ControlClient) -> None:
            try:
                outcome.append(await client.work(since=0, wait_s=50))
            except NodectlError as exc:
                outcome.append(exc)

        async with asyncio.TaskGroup() as group, running(state) as controller:
            client = await controller.operator().__aenter__()
            group.create_task(poll(client))
            assert json.dumps(await client.nodes())
            began = time.monotonic()
        assert time.monotonic() - began < 10
        await client.__aexit__()
        assert len(outcome) == 1

    run_async(main())
