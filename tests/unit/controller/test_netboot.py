"""Arming machines, their tickets, and what becomes of memberships."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nodectl.catalog.inventory import NodeInventory
from nodectl.catalog.memory import MemoryCatalog
from nodectl.catalog.model import ABSENT
from nodectl.catalog.records import JobState, ReleaseRecord, WorkState
from nodectl.controller.inventories import Inventories
from nodectl.controller.jobs import Jobs, Report
from nodectl.controller.members import JoinRequest, Members
from nodectl.controller.netboot import TICKET_S, Armed, Netboot
from nodectl.controller.netboot_api import check_layout, parse_netboot
from nodectl.errors import (
    InvalidInput,
    LayoutInvalid,
    NetbootRefused,
    TokenRefused,
    UnknownNode,
)
from nodectl.ids import Root
from nodectl.trust.realm import Realm, create_realm
from nodectl.trust.release import Release, sign_release
from nodectl.trust.token import Role, Token

MAC = "52:54:00:00:00:01"
URLS = ("https://c:1",)
RELEASE = Release(
    realm="ab" * 16, name="golden", generation=2, root=Root(bytes(32)), kind="tree", created=1,
    totals={},
)  # fmt: skip
RECORD = ReleaseRecord(
    signed=sign_release(RELEASE, Ed25519PrivateKey.from_private_bytes(bytes(32))), origin="c"
)
LAYOUT = """schema = 2
[[disk]]
id = "system"
MATCH
[[partition]]
id = "root"
disk = "system"
type = "linux"
size = "rest"
[[filesystem]]
volume = "root"
type = "ext4"
mount = "/"
"""


class Lab:
    """A controller's state, with a clock set by hand."""

    def __init__(self, realm: Realm) -> None:
        self.at = 1000.0
        self.catalog = MemoryCatalog()
        self.members = Members(self.catalog, realm, self.now)
        self.inventories = Inventories(self.catalog)
        self.jobs = Jobs(self.catalog, now=self.now, monotonic=self.now)
        self.netboot = Netboot(self.catalog, self.jobs, self.members, self.inventories, self.now)
        self.inventories.put(NodeInventory(name="n1", macs=(MAC,)), expected=ABSENT)
        self.inventories.put(NodeInventory(name="bare"), expected=ABSENT)

    def now(self) -> float:
        return self.at

    def arm(self, *nodes: str) -> int:
        return self.netboot.arm(RECORD, nodes, {"layout": ""}, by="op").job_id

    def armed(self) -> Armed:
        armed = self.netboot.armed("n1")
        assert armed is not None
        return armed

    def ticket(self) -> Token:
        return self.netboot.ticket(self.armed(), MAC, URLS)

    def join(self, token: Token, *, name: str = "n1", mac: str = MAC, secret: bytes = b"i") -> None:
        request = JoinRequest(
            realm_id=token.realm_id, token_id=token.token_id, token_secret=token.secret,
            name=name, node_secret=secret.ljust(32, b"-"), macs=(mac,),
        )  # fmt: skip
        self.members.join(request, replaced=self.netboot.keep_replaced)

    def report(self, job: int, state: WorkState) -> None:
        self.netboot.ended(self.jobs.report(job, "n1", Report(state=state)))

    def role(self) -> Role | None:
        found = self.members.find("n1")
        return None if found is None else found.role


@pytest.fixture(scope="module")
def realm() -> Realm:
    return create_realm("lab", now=0)


@pytest.fixture
def lab(realm: Realm) -> Lab:
    return Lab(realm)


def test_a_machine_is_armed_until_its_clone_is_done_and_is_then_a_node(lab: Lab) -> None:
    assert lab.netboot.armed("n1") is None
    job = lab.arm("n1")
    assert [one.node for one in lab.netboot.all_armed()] == ["n1"]
    lab.join(lab.ticket())
    assert lab.role() is Role.INSTALLER
    lab.report(job, WorkState.RUNNING)
    assert lab.netboot.armed("n1") is not None  # power may be lost here
    lab.report(job, WorkState.APPLIED)
    assert lab.netboot.armed("n1") is None
    assert lab.role() is Role.NODE
    assert lab.jobs.state(job) is JobState.RUNNING  # until what boots has told
    lab.report(job, WorkState.FAILED)  # it never did
    assert lab.role() is Role.NODE


def test_a_failed_clone_gives_the_old_membership_back(lab: Lab) -> None:
    token = lab.members.issue_token(URLS, role=Role.NODE, ttl_s=60, uses=1)
    lab.join(token, secret=b"before")
    before = lab.members.get("n1")
    job = lab.arm("n1")
    lab.join(lab.ticket())
    assert lab.members.get("n1").secret != before.secret
    lab.report(job, WorkState.FAILED)
    assert lab.members.get("n1") == before
    assert lab.netboot.armed("n1") is None


def test_a_failed_clone_of_a_new_machine_leaves_no_member(lab: Lab) -> None:
    job = lab.arm("n1")
    lab.join(lab.ticket())
    lab.report(job, WorkState.FAILED)
    assert lab.role() is None


def test_a_membership_survives_two_starts_of_an_installer(lab: Lab) -> None:
    lab.join(lab.members.issue_token(URLS, role=Role.NODE, ttl_s=60, uses=1), secret=b"before")
    before = lab.members.get("n1")
    job = lab.arm("n1")
    lab.join(lab.ticket(), secret=b"one")
    lab.join(lab.ticket(), secret=b"two")
    lab.report(job, WorkState.FAILED)
    assert lab.members.get("n1") == before


def test_the_same_machine_gets_the_same_ticket_until_it_is_used_or_old(lab: Lab) -> None:
    lab.arm("n1")
    first = lab.ticket()
    assert lab.ticket() == first
    lab.join(first)
    second = lab.ticket()
    assert second != first
    lab.at += TICKET_S / 2 + 1
    third = lab.ticket()
    assert third != second
    with pytest.raises(TokenRefused):
        lab.join(second, secret=b"late")  # it was taken back


def test_a_ticket_is_for_one_name_one_card_and_once(lab: Lab) -> None:
    lab.arm("n1")
    token = lab.ticket()
    for wrong in ({"name": "n2"}, {"mac": "52:54:00:00:00:09"}):
        with pytest.raises(TokenRefused):
            lab.join(token, **wrong)  # type: ignore[arg-type]
    lab.join(token)
    with pytest.raises(TokenRefused, match="used already"):
        lab.join(token, secret=b"other")


def test_a_ticket_ends_with_the_job(lab: Lab) -> None:
    lab.arm("n1")
    token = lab.ticket()
    assert lab.netboot.call_off(["n1", "bare"], "the test") == ("n1",)
    with pytest.raises(TokenRefused):
        lab.join(token)


def test_an_installer_that_gets_no_further_is_given_up(lab: Lab) -> None:
    job = lab.arm("n1")
    for number in range(8):
        lab.join(lab.ticket(), secret=b"%d" % number)
    with pytest.raises(NetbootRefused, match="8 times"):
        lab.ticket()
    assert lab.netboot.armed("n1") is None
    assert lab.jobs.state(job) is JobState.FAILED


def test_arming_again_calls_the_first_off(lab: Lab) -> None:
    first = lab.arm("n1")
    second = lab.arm("n1")
    assert lab.jobs.state(first) is JobState.FAILED
    assert lab.armed().job.job_id == second


def test_what_cannot_be_armed_is_all_named_and_nothing_is(lab: Lab) -> None:
    lab.members.add_first("head", bytes(32))
    lab.inventories.put(NodeInventory(name="head", macs=("52:54:00:00:00:07",)), expected=ABSENT)
    with pytest.raises(NetbootRefused) as caught:
        lab.arm("n1", "bare", "absent", "head")
    for part in ("bare has no MAC", "no node absent", "head is an operator's", "nothing was armed"):
        assert part in str(caught.value)
    assert lab.netboot.all_armed() == ()


def test_an_armed_machine_may_take_hours_to_start_and_not_days(lab: Lab) -> None:
    job = lab.arm("n1")
    lab.at += 20 * 3600
    assert [row.work.node for row in lab.jobs.expire(lambda _node: 0.0)] == ["c"]  # the seeder
    lab.at += 5 * 3600
    assert [row.work.node for row in lab.jobs.expire(lambda _node: 0.0)] == ["n1"]
    assert lab.jobs.state(job) is JobState.FAILED


def test_the_owner_of_a_card_is_found(lab: Lab) -> None:
    found = lab.netboot.node_of(MAC)
    assert found is not None
    assert found.name == "n1"
    assert lab.netboot.node_of("52:54:00:00:00:99") is None
    lab.inventories.remove("n1")
    assert lab.netboot.node_of(MAC) is None
    with pytest.raises(UnknownNode):
        lab.inventories.get("n1")


def test_a_layout_must_say_which_disk_is_meant() -> None:
    check_layout(LAYOUT.replace("MATCH", 'match = { serial = "S1" }'))
    with pytest.raises(NetbootRefused, match="which disk is system"):
        check_layout(LAYOUT.replace("MATCH", ""))
    with pytest.raises(LayoutInvalid):
        check_layout("schema = 2\n[[disk]]\n")


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"state": "local", "nodes": []}',
        b'{"state": "local", "nodes": ["../x"]}',
        b'{"state": "local", "nodes": ["n1"], "image": "golden"}',
        b'{"state": "cloner", "nodes": ["n1"]}',
        b'{"state": "cloner-multicast", "nodes": ["n1"]}',
        b'{"state": "cloner", "nodes": ["n1"], "image": "g", "layout": "", "boot_order": "x"}',
    ],
)
def test_a_wrong_request_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_netboot(body)
