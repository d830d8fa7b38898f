"""Which disks are meant: exactly one for each of the layout's, and none that may not be. Pure."""

from collections.abc import Mapping, Sequence

from nodectl.disk.facts import DiskFacts, is_match
from nodectl.disk.kinds import Role
from nodectl.disk.model import Layout
from nodectl.disk.volumes import DiskMatch, DiskWish
from nodectl.errors import DiskMissing, InvalidInput, LayoutUnfit
from nodectl.units import format_size


def named_disks(layout: Layout, words: Sequence[str]) -> dict[str, str]:
    """Return what the user's words for disks stand for: id of the layout's disk -> word.

    "ID=WORD" names one of the layout's disks; a plain word the only one, or the one without match.

    Raises:
        InvalidInput: a word is for no disk of the layout, or it is not clear for which.
    """
    ids = [disk.id for disk in layout.used_disks]
    open_ones = [disk.id for disk in layout.used_disks if disk.match.is_empty]
    found: dict[str, str] = {}
    for word in words:
        name, equals, rest = word.partition("=")
        if not (equals and name in ids):
            candidates = ids if len(ids) == 1 else open_ones
            if len(candidates) != 1:
                raise InvalidInput(
                    f"the layout has {len(ids)} disks: which one is {word}?",
                    hint=f"write --disk ID={word} with one of the ids {', '.join(ids)}",
                )
            name, rest = candidates[0], word
        if name in found:
            raise InvalidInput(f"the layout's disk {name!r} is named twice: {found[name]}, {rest}")
        found[name] = rest
    return found


def choose_disks(
    disks: Sequence[DiskFacts], layout: Layout, named: Mapping[str, DiskMatch]
) -> dict[str, DiskFacts]:
    """Return the disk for each one of the layout: everything that is asked of it must hold.

    Raises:
        DiskMissing: no disk is named, none matches, more than one does, or one is meant twice.
        LayoutUnfit: it has another sector size than the layout was made for.
    """
    forbidden = [disk.match for disk in layout.disks if disk.role is Role.NEVER_TOUCH]
    chosen: dict[str, DiskFacts] = {}
    for wish in layout.used_disks:
        disk = _choose(disks, wish, named.get(wish.id, DiskMatch()), forbidden)
        twin = next((name for name, each in chosen.items() if each.path == disk.path), "")
        if twin:
            raise DiskMissing(
                f"{disk.path} is meant as {twin!r} and as {wish.id!r} of the layout",
                hint="describe them so that each means another disk",
            )
        chosen[wish.id] = disk
    return chosen


def choose_one(disks: Sequence[DiskFacts], wish: DiskMatch) -> DiskFacts:
    """Return the one disk that a user named.

    Raises:
        DiskMissing: there is none, or more than one.
    """
    return _choose(disks, DiskWish(id="disk"), wish, [])


def _choose(
    disks: Sequence[DiskFacts],
    wish: DiskWish,
    named: DiskMatch,
    forbidden: Sequence[DiskMatch],
) -> DiskFacts:
    asked = [each for each in (named, wish.match) if not each.is_empty]
    if not asked:
        raise DiskMissing(
            f"no disk is named for {wish.id!r} of the layout",
            hint="name it with --disk /dev/... (or its serial), or by match in the layout",
        )
    words = " and ".join(match_words(each) for each in asked)
    matching = [disk for disk in disks if all(is_match(disk, each) for each in asked)]
    found = [disk for disk in matching if not any(is_match(disk, each) for each in forbidden)]
    found = [disk for disk in found if not disk.map] or found
    if not found:
        raise _missing(disks, words, matching)
    if len(found) > 1:
        names = "; ".join(disk_words(disk) for disk in found)
        raise DiskMissing(
            f"{len(found)} disks have {words}: {names}", hint="name one of them by its path"
        )
    disk = found[0]
    if disk.map:
        raise DiskMissing(
            f"{disk.path} is one path to {disk.map}, which has several",
            hint=f"name {disk.map} instead",
        )
    if wish.sector is not None and wish.sector != disk.logical_sector:
        raise LayoutUnfit(
            f"{disk.path} has sectors of {disk.logical_sector} bytes, the layout was made for "
            f"{wish.sector}; nothing was written",
            hint="use another layout, or remove sector from this one",
        )
    return disk


def _missing(disks: Sequence[DiskFacts], words: str, matching: Sequence[DiskFacts]) -> DiskMissing:
    if matching:
        names = "; ".join(disk_words(disk) for disk in matching)
        return DiskMissing(
            f"the layout says never to touch what has {words}: {names}",
            hint="choose another disk, or change the layout's never_touch",
        )
    here = "; ".join(disk_words(disk) for disk in disks) or "none"
    return DiskMissing(f"no disk has {words}", hint=f"the disks here: {here}")


def match_words(wish: DiskMatch) -> str:
    """Return a description of disks in a few words: "serial S1, size >= 100 GiB"."""
    names = ("path", "serial", "wwn", "model", "vendor", "transport", "hctl")
    words = [f"{name} {getattr(wish, name)}" for name in names if getattr(wish, name)]
    for name in ("rotational", "removable"):
        value = getattr(wish, name)
        words += [] if value is None else [name if value else f"not {name}"]
    words += [f"sectors of {wish.sector} bytes"] if wish.sector is not None else []
    words += [f"size {each.compare} {format_size(each.size)}" for each in wish.size]
    return ", ".join(words)


def disk_words(disk: DiskFacts) -> str:
    """Return a disk in a few words: path, model, serial, size."""
    parts = [disk.path, disk.model or disk.backing_file]
    parts += [f"serial {disk.serial}"] if disk.serial else []
    return ", ".join([part for part in parts if part] + [format_size(disk.size)])
