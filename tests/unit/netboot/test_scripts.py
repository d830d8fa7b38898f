"""What machines get that ask how to start."""

import pytest

from nodectl.errors import InvalidInput
from nodectl.netboot.scripts import Start, checked_arguments, cloner_script, local_script


def start(**more: str) -> Start:
    given = {"node": "node01", "what": "golden generation 3", "base": "http://10.0.0.1:7445",
             "machine": "x86_64", "ticket": "nodectl1.abc", **more}  # fmt: skip
    return Start(**given)


def test_an_armed_machine_starts_the_installer_with_its_name_and_ticket() -> None:
    lines = cloner_script(start(arguments="console=ttyS0,115200")).splitlines()
    assert lines[0] == "#!ipxe"
    assert (
        "kernel http://10.0.0.1:7445/installer/x86_64/vmlinuz initrd=initrd.img "
        "nodectl.name=node01 nodectl.ticket=nodectl1.abc BOOTIF=01-${netX/mac:hexhyp} "
        "console=ttyS0,115200 || goto failed"
    ) in lines
    at = lines.index("initrd --name initrd.img http://10.0.0.1:7445/installer/x86_64/initrd.img "
                     "|| goto failed")  # fmt: skip
    assert lines[at + 1] == "boot || goto failed"


def test_any_other_machine_starts_from_its_own_disk() -> None:
    text = local_script("nobody knows 52:54:00:00:00:01")
    assert text.splitlines()[0] == "#!ipxe"
    assert "iseq ${platform} efi && exit ||\n" in text
    assert text.endswith("sanboot --no-describe --drive 0x80 || exit\n")


def test_what_is_shown_cannot_be_a_command() -> None:
    text = local_script("x\nchain http://evil || ${net0/mac}\r")
    assert len(text.splitlines()) == 4
    assert "${net0" not in text
    assert "|| ?" not in text.splitlines()[1]


@pytest.mark.parametrize("text", ["a\nb", "a || b", "${x}", "a\tb", " a", "a  b", "x" * 513, "a#b"])
def test_arguments_that_ipxe_would_read_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        checked_arguments(text)
    with pytest.raises(InvalidInput):
        cloner_script(start(arguments=text))
