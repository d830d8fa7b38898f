"""cv-cloner's commands under their names, with real processes: images, layouts, who gets what."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Commands
from loop_disks import MIB, LoopDisk, loop_disk

LAYOUT = """\
schema = 1
name = "node"

[[disk]]
id = "system"

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


class Site:
    """A controller that runs, a tree to capture, and the layout that was written for it."""

    def __init__(self, folder: Path) -> None:
        self.commands = Commands(folder)
        self.tree = folder / "tree"
        self.layout = folder / "node.toml"

    def begin(self) -> None:
        (self.tree / "etc").mkdir(parents=True)
        (self.tree / "scratch").mkdir()
        (self.tree / "etc" / "motd").write_text("hello\n")
        (self.tree / "scratch" / "big").write_text("not wanted\n")
        self.layout.write_text(LAYOUT)
        self.ok("init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
        self.commands.serve("c", "--controller")

    def ok(self, *words: str) -> str:
        return self.commands.ok("c", *words)

    def cloner(self, *words: str) -> str:
        return self.ok("cloner", *words)

    def fails(self, status: int, *words: str) -> str:
        return self.commands.fails("c", status, "cloner", *words)

    def of_tree(self) -> tuple[str, ...]:
        return ("--tree", str(self.tree), "--layout-file", str(self.layout))

    def new_image(self, name: str, *words: str) -> str:
        return self.cloner("new-image", "--image", name, *self.of_tree(), *words)

    def script(self, when: str, text: str) -> None:
        file = self.commands.folder / f"{when}.sh"
        file.write_text(text)
        self.cloner("script", "--image", "node", "--type", when, "--set", str(file))

    def options(self, image: str) -> dict[str, object]:
        found = json.loads(self.cloner("config", "--image", image))["options"]
        assert isinstance(found, dict)
        return found

    def captured(self, image: str) -> set[str]:
        out = self.commands.folder / f"out-{image}"
        self.ok("image", "restore", image, str(out), "--yes")
        return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        made.begin()
        yield made
    finally:
        made.commands.end()


def test_an_image_is_made_updated_and_found(site: Site) -> None:
    looked = site.commands.run(
        "c", "cloner", "new-image", "--image", "node", "--disklayout", "node", *site.of_tree(),
        "--exclude-paths", "/scratch", "--dry-run",
    )  # fmt: skip
    assert looked.returncode == 0, looked.stderr
    assert "Drives:" in looked.stderr
    assert "left out: /scratch" in looked.stderr
    assert "are free at" in looked.stderr
    assert "entries would be captured" in looked.stdout
    assert "node" not in site.cloner("image-list").splitlines()[-1].split()[:1]
    # Nobody is there to say that all looks correct.
    words = ("cloner", "new-image", "--image", "node", "--disklayout", "node", *site.of_tree())
    refused = site.commands.run("c", *words)
    assert (refused.returncode, refused.stdout) == (18, "")
    assert "nodectl: nothing was kept" in refused.stderr

    site.new_image("node", "--disklayout", "node", "--exclude-paths", "/scratch", "--yes")
    assert site.captured("node") == {"etc/motd"}
    assert site.options("node") == {
        "compress": "fast", "disklayout": "node", "exclude_devices": [],
        "exclude_paths": ["/scratch"],
    }  # fmt: skip
    story = site.fails(13, "new-image", "--image", "node", "--disklayout", "n", *site.of_tree())
    assert "update-filesystem" in story

    (site.tree / "etc" / "motd").write_text("hello again\n")
    site.cloner("update-filesystem", "--image", "node", *site.of_tree(), "--yes")
    shown = json.loads(site.cloner("image-details", "--image", "node", "--json"))
    assert [one["release"]["generation"] for one in shown["generations"]] == [1, 2]
    assert shown["disklayout"] == "node"
    assert site.options("node")["exclude_paths"] == ["/scratch"]


def test_options_that_differ_are_decided_as_asked(site: Site) -> None:
    site.new_image("node", "--disklayout", "node", "--exclude-paths", "/scratch", "--yes")
    update = ("update-filesystem", "--image", "node", *site.of_tree(), "--yes")
    story = site.fails(18, *update, "--exclude-paths", "/etc")
    assert "stored /scratch, given /etc" in story
    assert "--update-conflict" in story
    site.cloner(*update, "--exclude-paths", "/etc", "--update-conflict", "server")
    assert site.options("node")["exclude_paths"] == ["/scratch"]
    site.cloner(*update, "--exclude-paths", "/etc", "--update-conflict", "commandline")
    assert site.options("node")["exclude_paths"] == ["/etc"]
    assert site.captured("node") == {"scratch/big"}
    site.cloner("update-options", "--image", "node", "--compress", "best", "--exclude-paths", "")
    assert site.options("node") == {
        "compress": "best", "disklayout": "node", "exclude_devices": [], "exclude_paths": [],
    }  # fmt: skip
    site.fails(14, "update-options", "--image", "node", "--compress", "slow")
    site.fails(10, "update-options", "--image", "nothing", "--compress", "best")


def test_a_layout_is_shown_edited_and_used_by_many(site: Site) -> None:
    site.new_image("node", "--disklayout", "shared", "--yes")
    site.new_image("other", "--disklayout", "shared", "--yes")
    out = site.commands.folder / "out.toml"
    words = ("disklayout", "--image", "node", "--disklayout", "shared")
    site.cloner(*words, "--output", str(out))
    site.fails(13, *words, "--output", str(out))
    out.write_text(out.read_text().replace("ext4", "xfs"))
    upload = ("disklayout-upload", "--image", "node", "--disklayout", "big", "--file", str(out))
    site.cloner(*upload)
    assert site.options("node")["disklayout"] == "big"
    assert 'type = "xfs"' in json.loads(site.cloner("config", "--image", "node"))["layout"]
    assert site.options("other")["disklayout"] == "shared"
    assert '"ext4"' in site.cloner("disklayout", "--disklayout", "shared")
    # Another machine's layout does not take the place of the one that is there.
    site.layout.write_text(out.read_text())
    words = ("new-image", "--image", "third", "--disklayout", "shared", *site.of_tree(), "--yes")
    assert "differs" in site.fails(13, *words)
    words = ("update-disklayout", "--image", "other", "--disklayout", "shared")
    site.cloner(*words, "--layout-file", str(out), "--update-conflict", "commandline", "--yes")
    assert '"xfs"' in site.cloner("disklayout", "--disklayout", "shared")
    out.write_text(out.read_text().replace("xfs", "zfs"))
    assert str(out) in site.fails(53, *upload)
    assert "there are: big, shared" in site.fails(10, "disklayout", "--disklayout", "shred")


def test_a_node_is_identified_by_its_name_or_address(site: Site) -> None:
    site.new_image("node", "--disklayout", "node", "--yes")
    site.ok("node", "add", "n[1-2]", "--image", "node")
    site.ok("node", "set", "n2", "--mac", "52:54:00:12:34:56")
    by_name = json.loads(site.cloner("identify", "--node", "n[1-2],c"))
    assert {name: one["image"] for name, one in by_name.items()} == {
        "n1": "node", "n2": "node", "c": "",
    }  # fmt: skip
    assert by_name["n1"]["layout"].startswith("schema = ")
    by_mac = json.loads(
        site.cloner("identify", "--method", "mac", "--macaddr", "52-54-00-12-34-56")
    )
    assert by_mac == {"n2": by_name["n2"]}
    site.fails(45, "identify", "--method", "mac", "--macaddr", "52:54:00:00:00:00")
    site.fails(14, "identify", "--method", "mac", "--node", "n1")
    assert list(json.loads(site.cloner("identify"))) == ["c"]


def test_a_copy_goes_to_a_server_that_gets_it(site: Site) -> None:
    site.new_image("node", "--disklayout", "node", "--yes", "--server", "c")
    site.fails(28, "config", "--image", "nothing")
    words = ("cloner", "new-image", "--image", "x", "--disklayout", "x", "--server", "c", "--yes")
    silent = site.commands.folder / "silent"
    silent.mkdir()
    story = site.commands.fails("silent", 14, *words, *site.of_tree())
    assert "serve does not run on this machine" in story


PRE = "#!/bin/sh\nenv | grep ^NODECTL_ | grep -v STATE | sort >{told}\n"
POST = """#!/bin/sh
echo "$NODECTL_NODE has $NODECTL_IMAGE" >"$NODECTL_ROOT/etc/said"
"""


def _clone(disk: LoopDisk, *words: str) -> tuple[str, ...]:
    where = ("--disk", disk.path, "--disklayout", "node", "--for-other-machine")
    return ("clone", "node", *where, "--yes", "--no-follow", *words)


@pytest.mark.root
def test_scripts_run_before_and_after_a_clone(site: Site) -> None:
    site.new_image("node", "--disklayout", "node", "--yes")
    told = site.commands.folder / "told"
    site.script("pre", PRE.format(told=told))
    site.script("post", POST)
    kept = site.cloner("script", "--image", "node", "--type", "pre", "--get")
    assert kept == PRE.format(told=told)
    details = json.loads(site.cloner("image-details", "--image", "node", "--json"))
    assert details["scripts"] == {"pre": "pre.sh", "post": "post.sh"}
    mount = site.commands.folder / "mnt"
    with loop_disk(site.commands.folder / "disk", 200 * MIB) as disk:
        site.ok(*_clone(disk))
        assert told.read_text() == "NODECTL_IMAGE=node\nNODECTL_NODE=c\n"
        with disk.mounted(1, mount) as root:
            assert (root / "etc/said").read_text() == "c has node\n"
            assert (root / "etc/motd").read_text() == "hello\n"
        told.unlink()
        site.ok(*_clone(disk, "--no-scripts"))
        assert not told.exists()
        with disk.mounted(1, mount) as root:
            assert not (root / "etc/said").exists()


@pytest.mark.root
def test_a_script_that_fails_fails_the_clone_before_the_disk_is_touched(site: Site) -> None:
    site.new_image("node", "--disklayout", "node", "--yes")
    site.script("pre", "#!/bin/sh\necho no such shelf >&2\nexit 3\n")
    with loop_disk(site.commands.folder / "disk", 200 * MIB) as disk:
        story = site.commands.run("c", *_clone(disk))
        assert story.returncode == 16
        assert "no such shelf" in story.stderr
        assert not any(disk.backing.read_bytes())
    site.cloner("script", "--image", "node", "--type", "pre", "--remove")
    site.fails(10, "script", "--image", "node", "--type", "pre", "--get")
    site.fails(14, "script", "--image", "node", "--type", "post", "--get", "--remove")
    no_script = site.commands.folder / "no-script"
    no_script.write_text("echo no interpreter\n")
    words = ("script", "--image", "node", "--type", "pre", "--set", str(no_script))
    assert "#!" in site.fails(14, *words)
    site.commands.fails("c", 10, "clone", "node", "--disklayout", "nothing", "--yes")
