"""Whatever nodes report, in whatever order, and however often the controller restarts."""

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from nodectl.catalog.memory import MemoryCatalog
from nodectl.catalog.records import JobKind, JobState, ReleaseRecord, Task, WorkState
from nodectl.controller.jobs import Jobs, Report
from nodectl.ids import Root
from nodectl.trust.release import Release, sign_release
from nodectl.trust.token import Token, parse_token

NODES = ("a", "b", "c")
RECORD = ReleaseRecord(
    signed=sign_release(
        Release(
            realm="r", name="g", generation=1, root=Root(bytes(32)), kind="tree", created=0,
            totals={},
        ),
        Ed25519PrivateKey.from_private_bytes(bytes(32)),
    ),
    origin="c",
)  # fmt: skip

_STATES = [each for each in WorkState if each not in (WorkState.APPLIED, WorkState.REBOOTING)]
_reports = st.tuples(st.sampled_from(NODES), st.sampled_from(_STATES), st.integers(0, 5))
_steps = st.lists(st.one_of(_reports, st.just("restart"), st.integers(1, 400)), max_size=30)


@settings(deadline=None, max_examples=150)
@given(_steps)
def test_a_job_is_ok_exactly_when_every_node_said_done(steps: list[Any]) -> None:
    clock = [1e9]
    catalog = MemoryCatalog()

    def controller() -> Jobs:
        return Jobs(catalog, now=lambda: clock[0], monotonic=lambda: clock[0])

    jobs = controller()
    job = jobs.create(JobKind.FETCH, RECORD, ["a", "b"], options={}, by="c").job_id
    version = 0
    for step in steps:
        match step:
            case "restart":
                clock[0] += 1
                jobs = controller()
            case int():
                clock[0] += step
                jobs.expire(lambda _node: 0)
            case (node, state, done):
                jobs.report(job, node, Report(state=state, done=done))
        assert jobs.version >= version
        version = jobs.version
        works = [row.work for row in jobs.rows(job)]
        states = {w.state for w in works if w.task is not Task.SEED}
        assert len(works) == 3
        assert (jobs.state(job) is JobState.OK) == (states == {WorkState.DONE})
        ended = states <= {WorkState.DONE, WorkState.FAILED}
        assert (jobs.state(job) is JobState.RUNNING) == (not ended)
        assert {w.node for w in works if w.state in (WorkState.WAITING, WorkState.RUNNING)} >= {
            node for node in NODES if jobs.work_for(node)
        }


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.text(max_size=40), max_size=3),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.text(max_size=30),
)
def test_any_token_reads_back(urls: list[str], ca: bytes, secret: bytes, realm: str) -> None:
    token = Token(urls=tuple(urls), ca_sha256=ca, token_id="ab", secret=secret, realm_id=realm)
    assert parse_token(token.text()) == token
