"""Zip archives that carry a digest of themselves, so that a flipped byte shows when they are read."""

import hashlib
import struct
from pathlib import Path
from typing import BinaryIO

_END = 22  # bytes of a zip's last record, which ends with the length of a comment
_MARK = b"smoothscore sha256 "
_HEX = 64
_BLOCK = 1 << 20


class SealingWriter:
    """Pass an archive on to a file, and end it with the SHA-256 of all its bytes.

    The seal is the archive's comment, so every reader of zip files, `torch.load` and `numpy.load` among them, opens
    it as before, and it moves with the file. An `OSError` is kept until `finish`: torch's writer, which calls this
    from C++, would end the process.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha = hashlib.sha256()
        self._tail = b""
        self._error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Take the next bytes of the archive."""
        block = memoryview(data).cast("B")
        if len(block) < _END:
            block = memoryview(self._tail + bytes(block))
        else:
            self._emit(self._tail)
        cut = max(0, len(block) - _END)
        self._emit(block[:cut])
        self._tail = bytes(block[cut:])
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Nothing: the file is flushed by whoever opened it."""

    def finish(self) -> None:
        """Write the seal.

        Raises:
            OSError: the disk refused some of the bytes.
            ValueError: what was written is no zip archive without comment.
        """
        if not _ends_plainly(self._tail):
            raise ValueError("only a whole zip archive without a comment can be sealed")
        self._emit(self._tail[:-2] + struct.pack("<H", len(_MARK) + _HEX) + _MARK)
        self._emit(self._sha.hexdigest().encode())
        if self._error is not None:
            raise self._error

    def _emit(self, data: bytes | memoryview) -> None:
        if self._error is not None:
            return
        try:
            self._file.write(data)
        except OSError as error:
            self._error = error
        self._sha.update(data)


def check_seal(path: Path) -> bool:
    """Whether a file carries a seal; one that does is read from end to end and compared with it.

    An archive without a seal must end as an archive without a comment does, so that damage to the seal itself shows.

    Raises:
        ValueError: its bytes are not those that were sealed.
    """
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
        size = file.seek(0, 2)
        file.seek(max(0, size - len(_MARK) - _HEX))
        end = file.read()
        if not end.startswith(_MARK):
            if is_zip and not _ends_plainly(end[-_END:]):
                raise ValueError("its end is not that of a whole archive")
            return False
        file.seek(0)
        sha, left = hashlib.sha256(), size - _HEX
        while left:
            block = file.read(min(_BLOCK, left))
            if not block:
                raise ValueError("it became shorter while it was read")
            sha.update(block)
            left -= len(block)
    if sha.hexdigest().encode() != end[len(_MARK) :]:
        raise ValueError("its bytes differ from what was written")
    return True


def _ends_plainly(end: bytes) -> bool:
    """Whether these are the last record of an archive, with a comment of length 0."""
    return len(end) == _END and end.startswith(b"PK\x05\x06") and end.endswith(b"\0\0")
