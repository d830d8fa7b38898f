"""Every error that a user can meet, each with its own exit code and, if any, its next step.

A leaf is named by what the user faces. Fields hold facts; `str()` makes the one sentence.
`cli/main.py` is the only place that turns an error into text and a status.

Exit codes: 1 a bug of ours, 2 wrong usage (typer), 10-19 input and files, 20-29 content and
store, 30-39 swarm, 40-49 trust, join and controller, 50-69 disks, 70-79 the zipapp itself,
80-89 more of trust, 90-99 inventory, identity and netboot of nodes, 130 stopped by Ctrl-C.
"""

from typing import ClassVar

# The next step wherever a write was refused with EROFS.
READ_ONLY_HINT = (
    "a file system with errors becomes read-only by itself (the kernel's log tells): check it and"
    " mount it read-write, or copy the state folder to another one and use --state"
)


class NodectlError(Exception):
    """An error that the user can act upon: one sentence, a next step, an exit code."""

    exit_code: ClassVar[int] = 1

    def __init__(self, sentence: str, *, hint: str = "") -> None:
        """Keep the sentence (no final newline) and the next step for the user."""
        super().__init__(sentence)
        self.hint = hint


class PathMissing(NodectlError):
    """A path that the user named is not there, or is not of the right kind."""

    exit_code = 10


class PathUnreadable(NodectlError):
    """Something that must be read cannot be."""

    exit_code = 11


class NoSpace(NodectlError):
    """A file system is full; what was stored before is whole."""

    exit_code = 12


class AlreadyThere(NodectlError):
    """Something that would be made exists, and nothing may be overwritten."""

    exit_code = 13


class InvalidInput(NodectlError):
    """A value, file or document that the user gave is not valid."""

    exit_code = 14


class ToolMissing(NodectlError):
    """A program that the step needs is not installed."""

    exit_code = 15


class CommandFailed(NodectlError):
    """A program ended with a status that means failure; the sentence carries its last lines."""

    exit_code = 16


class NeedsRoot(NodectlError):
    """The step needs root."""

    exit_code = 17


class NotConfirmed(NodectlError):
    """The question before a destructive step was not answered with yes."""

    exit_code = 18


class FrameMissing(NodectlError):
    """A frame that a manifest names is in no place that was asked."""

    exit_code = 20


class ContentInvalid(NodectlError):
    """A frame, chunk, manifest or release is not what its id or signature says."""

    exit_code = 21


class FileChanged(NodectlError):
    """A file changed while it was read, again and again."""

    exit_code = 22


class EmptyTree(NodectlError):
    """There is nothing to capture."""

    exit_code = 23


class VerifyFailed(NodectlError):
    """What stands on the disk differs from the manifest."""

    exit_code = 24


class StoreBusy(NodectlError):
    """Another process holds what this one needs in the store."""

    exit_code = 25


class StoreInvalid(NodectlError):
    """The store's folder is damaged, or no store of this version."""

    exit_code = 26


class UnsafePath(NodectlError):
    """A name would lead outside the target; nothing was written there."""

    exit_code = 27


class UnknownImage(NodectlError):
    """No release has that name."""

    exit_code = 28


class RestoreFailed(NodectlError):
    """The process that restored on a node ended with an error."""

    exit_code = 29

    def __init__(self, sentence: str, *, lines: tuple[str, ...] = (), hint: str = "") -> None:
        """Keep the sentence, and the last lines that the process said."""
        super().__init__(sentence, hint=hint)
        self.lines = lines


class SwarmStalled(NodectlError):
    """No peer gave anything for too long; what was fetched is kept."""

    exit_code = 30


class NodesFailed(NodectlError):
    """At least one node of the job did not reach the goal."""

    exit_code = 31


class PortInUse(NodectlError):
    """The address to listen on is taken."""

    exit_code = 32


class NotServing(NodectlError):
    """No nodectl serves on this machine, and the command is for the one that does."""

    exit_code = 33


class NoRealm(NodectlError):
    """This machine has no realm, or is not joined to one."""

    exit_code = 40


class TokenRefused(NodectlError):
    """The join token is wrong, used, expired, or of another realm."""

    exit_code = 41


class ControllerUnreachable(NodectlError):
    """The controller does not answer."""

    exit_code = 42


class NotAllowed(NodectlError):
    """The controller refused the request."""

    exit_code = 43


class NameTaken(NodectlError):
    """Another node or object has that name."""

    exit_code = 44


class UnknownNode(NodectlError):
    """No node has that name."""

    exit_code = 45


class UnknownJob(NodectlError):
    """No job has that id."""

    exit_code = 46


class WriteConflict(NodectlError):
    """Somebody else changed the document in between; look again and repeat."""

    exit_code = 47


class MacRefused(NodectlError):
    """A request does not carry the MAC of somebody who may make it."""

    exit_code = 48


class OlderRelease(NodectlError):
    """The release is older than one that this node has seen."""

    exit_code = 49


class DiskMissing(NodectlError):
    """No disk, or more than one, is what the user described."""

    exit_code = 50


class DiskBusy(NodectlError):
    """The disk is mounted, swap, part of something, or the one that the system runs from."""

    exit_code = 51


class DiskTooSmall(NodectlError):
    """The layout or the image does not fit the disk."""

    exit_code = 52


class LayoutInvalid(NodectlError):
    """The disk layout has mistakes; each is named with its field."""

    exit_code = 53


class DiskChanged(NodectlError):
    """The disk is no longer what the plan saw; nothing was written."""

    exit_code = 54


class ReadBackFailed(NodectlError):
    """What was read back after a step is not what the step wrote."""

    exit_code = 55


class ReleaseFailed(NodectlError):
    """Something that was mounted or attached could not be released cleanly."""

    exit_code = 56


class LayoutUnfit(NodectlError):
    """The layout is not for this machine: its firmware, its sectors, what is to be kept."""

    exit_code = 57


class NotBootable(NodectlError):
    """The image cannot boot from that layout; nothing was written."""

    exit_code = 58


class BootFailed(NodectlError):
    """What makes the tree boot could not be made, or does not read back as it should."""

    exit_code = 59


class FirmwareRefused(NodectlError):
    """The firmware's boot entries cannot be read or written."""

    exit_code = 60


class DiskUnwritable(NodectlError):
    """A disk, or the file that stands for one, does not take what is written to it."""

    exit_code = 61


class SelfInvalid(NodectlError):
    """This nodectl.pyz is not what its hash list says."""

    exit_code = 70


class CannotRun(NodectlError):
    """This Python or machine cannot run nodectl.pyz (the launcher says it, in one line)."""

    exit_code = 71


class AuditBroken(NodectlError):
    """The audit log was changed or cut."""

    exit_code = 80


class OrderRefused(NodectlError):
    """A job's order is not signed by the controller, is for another node, or has ended."""

    exit_code = 81


class UnknownPublisher(NodectlError):
    """No publisher, or more than one, is meant."""

    exit_code = 83


class UnknownToken(NodectlError):
    """No join token has that id."""

    exit_code = 84


class RecoveryInvalid(NodectlError):
    """The recovery file is damaged, or the passphrase is another one."""

    exit_code = 82


class InventoryInvalid(NodectlError):
    """What was said of a node has mistakes; each is named with its field."""

    exit_code = 90


class TemplateInvalid(NodectlError):
    """A template has mistakes, or cannot be filled in for a node; each line is named."""

    exit_code = 91


class InstallerUnfit(NodectlError):
    """There is no installer, or it is damaged, too large, or not of this nodectl."""

    exit_code = 92


class NetbootRefused(NodectlError):
    """A machine cannot be netbooted as asked; nothing was armed."""

    exit_code = 93


class PowerFailed(NodectlError):
    """A machine's power could not be switched, or asked for; the others' were."""

    exit_code = 94
