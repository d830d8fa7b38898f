"""Reading from an NBD server over a Unix socket: as much of the protocol as a capture needs.

The server is `qemu-nbd`, which knows what is in a qcow2 file. The client opens the only export and
reads; where data is, `qemu-img map` has said before.

Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md (fixed newstyle
negotiation with NBD_OPT_EXPORT_NAME, simple replies). All integers are big-endian.
"""

import os
import socket
import struct
from pathlib import Path

_HELLO = struct.Struct(">8s8sH")  # "NBDMAGIC", "IHAVEOPT", flags
_MAGIC, _OPTION_MAGIC = b"NBDMAGIC", b"IHAVEOPT"
_NO_ZEROES = 2  # without 124 bytes of nothing behind the answer
_OPTION = struct.Struct(">I8sII")  # client flags; then the option: magic, number, length
_EXPORT_NAME = 1
_EXPORT = struct.Struct(">QH")  # bytes, flags
_REQUEST = struct.Struct(">IHHQQI")  # magic, flags, type, cookie, offset, bytes
_REQUEST_MAGIC, _READ, _DISCONNECT = 0x25609513, 0, 2
_REPLY = struct.Struct(">IIQ")  # magic, errno, cookie
_REPLY_MAGIC = 0x67446698
_READ_MAX = 8 << 20  # bytes a request; servers take 32 MiB
_TIMEOUT_S = 120.0  # for one piece of an answer: a disk that takes longer counts as failed


class NbdReader:
    """One connection to the export of a server, used by one thread."""

    def __init__(self, path: Path) -> None:
        """Connect to the socket `path`.

        Raises:
            OSError: nobody listens there, or it is no NBD server.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(_TIMEOUT_S)
            self._socket.connect(os.fspath(path))
            self.size = self._negotiate()  # bytes
        except BaseException:
            self._socket.close()
            raise

    def _negotiate(self) -> int:
        magic, option_magic, flags = _HELLO.unpack(self._receive(_HELLO.size))
        if (magic, option_magic) != (_MAGIC, _OPTION_MAGIC) or not flags & _NO_ZEROES:
            raise OSError(f"not the greeting of an NBD server: {magic!r}")
        fixed_newstyle = 1
        request = _OPTION.pack(fixed_newstyle | _NO_ZEROES, _OPTION_MAGIC, _EXPORT_NAME, 0)
        self._socket.sendall(request)
        size, _ = _EXPORT.unpack(self._receive(_EXPORT.size))
        return int(size)

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill the beginning of a view from an offset; return how many bytes.

        Raises:
            OSError: the server could not read them, or is gone.
        """
        wanted = min(len(view), _READ_MAX, self.size - offset)
        if wanted <= 0:
            return 0
        self._socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _READ, offset, offset, wanted))
        magic, error, cookie = _REPLY.unpack(self._receive(_REPLY.size))
        if magic != _REPLY_MAGIC or cookie != offset:
            raise OSError(f"not the answer of an NBD server: {magic:#x}")
        if error:
            raise OSError(error, os.strerror(error))
        self._fill(view[:wanted])
        return wanted

    def close(self) -> None:
        """Say goodbye; a server that serves nobody else may end then."""
        try:
            self._socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _DISCONNECT, 0, 0, 0))
        except OSError:
            pass  # it went first
        finally:
            self._socket.close()

    def _receive(self, size: int) -> bytes:
        data = bytearray(size)
        self._fill(memoryview(data))
        return bytes(data)

    def _fill(self, view: memoryview) -> None:
        while view:
            got = self._socket.recv_into(view)
            if not got:
                raise ConnectionResetError("the NBD server ended the connection")
            view = view[got:]
