"""What a program needs in order to run: the dynamic section of an ELF file.

Read from the file itself, not by ldd(1): nothing of the tree is run, which may be for another
architecture, and what it needs is found in the tree and not on this machine.

Source: elf(5); the layout of the structures is that of <elf.h>.
"""

import struct
from dataclasses import dataclass

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 15, 29
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")  # Elf64_Ehdr
_PROGRAM = struct.Struct("<IIQQQQQQ")  # Elf64_Phdr
_DYNAMIC = struct.Struct("<qQ")  # Elf64_Dyn
_NAME_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Elf:
    """A program or library."""

    machine: int  # EM_X86_64 62, EM_AARCH64 183
    interpreter: str  # absolute path of the dynamic loader; empty: none is asked for
    needed: tuple[str, ...]  # names of libraries, or paths
    search: tuple[str, ...]  # folders to look in first; may hold $ORIGIN


def parse_elf(data: bytes) -> Elf | None:
    """Return what a 64-bit little-endian ELF file needs; None: it is no such file, or damaged."""
    if data[:6] != b"\x7fELF\x02\x01":
        return None
    try:
        header = _HEADER.unpack_from(data)
        machine, offset, size, count = header[2], header[5], header[9], header[10]
        programs = [_PROGRAM.unpack_from(data, offset + n * size) for n in range(count)]
        interpreter = next((_text(data, p[2]) for p in programs if p[0] == _PT_INTERP), "")
        dynamic = next((p for p in programs if p[0] == _PT_DYNAMIC), None)
        if dynamic is None:
            return Elf(machine=machine, interpreter=interpreter, needed=(), search=())
        tags = list(_tags(data, dynamic[2], dynamic[5]))
        loads = [p for p in programs if p[0] == _PT_LOAD]
        strings = _file_offset(loads, next(value for tag, value in tags if tag == _DT_STRTAB))
        texts = [(tag, _text(data, strings + value)) for tag, value in tags
                 if tag in {_DT_NEEDED, _DT_RPATH, _DT_RUNPATH}]  # fmt: skip
    except (struct.error, StopIteration, ValueError, OverflowError):
        return None
    search = [text for tag, text in texts if tag != _DT_NEEDED]
    return Elf(
        machine=machine,
        interpreter=interpreter,
        needed=tuple(text for tag, text in texts if tag == _DT_NEEDED),
        search=tuple(part for text in search for part in text.split(":") if part),
    )


def _tags(data: bytes, offset: int, length: int) -> list[tuple[int, int]]:
    tags: list[tuple[int, int]] = []
    for at in range(offset, offset + length, _DYNAMIC.size):
        tag, value = _DYNAMIC.unpack_from(data, at)
        if tag == _DT_NULL:
            break
        tags.append((tag, value))
    return tags


def _file_offset(loads: list[tuple[int, ...]], address: int) -> int:
    """Return where in the file stands what is loaded at an address."""
    for _, _, offset, start, _, length, _, _ in loads:
        if start <= address < start + length:
            return offset + address - start
    raise ValueError("an address that nothing is loaded at")


def _text(data: bytes, offset: int) -> str:
    end = data.index(b"\0", offset, offset + _NAME_MAX)
    return data[offset:end].decode("utf-8", "surrogateescape")
