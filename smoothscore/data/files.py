"""The files of a data set, in a folder or in a zip that is never extracted."""

import hashlib
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from smoothscore.data.decode import SUFFIXES
from smoothscore.errors import UserError

MOST_BYTES = 1 << 30  # of one file in an archive: a few kilobytes can unpack to more than the memory holds


class FileTree(ABC):
    """Files by their names relative to a folder or archive, sorted; hidden ones (".name", "__MACOSX") are left out."""

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self.path = path
        self.names = sorted((name for name in names if not _is_hidden(name)), key=lambda name: name.split("/"))

    @cached_property
    def images(self) -> list[str]:
        """Names of the image files."""
        return [name for name in self.names if os.path.splitext(name)[1].lower() in SUFFIXES]

    def read(self, name: str) -> bytes:
        """The contents of one file; any thread may call this.

        Raises:
            UserError: the file cannot be read, or its archive is damaged there.
        """
        try:
            return self._read(name)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:  # RuntimeError: encrypted
            raise UserError(
                f"{self.path / name} cannot be read ({error}): mend or remove it, or set skip_bad to leave such files "
                "out."
            ) from error

    @abstractmethod
    def _read(self, name: str) -> bytes: ...

    @abstractmethod
    def stamp(self, names: Sequence[str]) -> str:
        """A digest of names, sizes and modification times: it changes when one of the files does."""


class _Folder(FileTree):
    def __init__(self, path: Path) -> None:
        super().__init__(path, _walk(path))

    def _read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def stamp(self, names: Sequence[str]) -> str:
        return stamp_files(f"{self.path}/{name}" for name in names)


class _Zip(FileTree):
    """Files of an archive; one folder around all class folders does not count."""

    def __init__(self, path: Path) -> None:
        try:
            self._archive = zipfile.ZipFile(path)  # reads from several threads are serialized by the archive
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{path} cannot be read as a zip archive ({error}): fetch or pack it again.") from error
        names = [info.filename for info in self._archive.infolist() if not info.is_dir()]
        super().__init__(path, names)
        self._prefix = _common_folder(self.names)
        self.names = [name.removeprefix(self._prefix) for name in self.names]

    def _read(self, name: str) -> bytes:
        info = self._archive.getinfo(self._prefix + name)
        if info.file_size > MOST_BYTES:
            raise OSError(f"it would take {info.file_size:,} bytes, more than the {MOST_BYTES:,} of any image")
        return self._archive.read(info)

    def stamp(self, names: Sequence[str]) -> str:
        return stamp_files([self.path])


def open_tree(path: Path) -> FileTree:
    """The files under a folder, or in a zip.

    Raises:
        UserError: neither is there.
    """
    if path.is_dir():
        return _Folder(path)
    if path.is_file() and zipfile.is_zipfile(path):
        return _Zip(path)
    if path.is_file():
        raise UserError(f"{path} is neither a folder nor a zip archive: set data.init_args.root to one of them.")
    raise UserError(f"The data folder {path} does not exist: set data.init_args.root to a folder or zip of images.")


def stamp_files(paths: Iterable[str | Path]) -> str:
    """A digest of files' names, sizes and modification times; a file that cannot be looked at counts as absent."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            stat = os.stat(path)
            facts = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:  # a link to nothing: whether it may be skipped is said where it is read
            facts = "absent"
        digest.update(f"{os.path.basename(path)} {facts}\n".encode())
    return digest.hexdigest()


def stem(name: str) -> str:
    """A file's name without folders and suffix; `Path.stem` takes seconds for a hundred thousand."""
    return os.path.splitext(os.path.basename(name))[0]


def wrong_layout(path: Path, expected: str) -> UserError:
    """The error for a data set that lies otherwise than expected: it says what was expected and what was found."""
    if path.is_dir():
        entries = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in path.iterdir())
        more = f" and {len(entries) - 8} more" if len(entries) > 8 else ""
        found = (", ".join(entries[:8]) or "an empty folder") + more
    else:
        found = "a file of another kind" if path.is_file() else "nothing of that name"
    return UserError(f"{path}: expected {expected}; found {found}. Set data.init_args.root to where they lie.")


def _walk(root: Path) -> Iterator[str]:
    for folder, _, files in os.walk(root):
        inside = os.path.relpath(folder, root)
        yield from files if inside == "." else (f"{inside}/{file}" for file in files)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX/")) or "/." in name or "/__MACOSX/" in name


def _common_folder(names: Sequence[str]) -> str:
    tops = {name.split("/")[0] for name in names}
    return f"{tops.pop()}/" if len(tops) == 1 and all(name.count("/") > 1 for name in names) else ""
