"""INPUT: a file of a known format or a folder of text files, read lazily and as often as asked.

It decides which reader a name gets and which files of a folder are rows. Rows come as they are: what they ask is
decided by `rules.template`. It never holds more than a chunk and a row.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

from penstock.edges.files import lines
from penstock.edges.files.formats import READERS, Reader, Skip, too_long
from penstock.edges.files.lines import CHUNK_BYTES, text_lines, without_mark
from penstock.edges.files.standard_input import StandardInput
from penstock.errors import InputError, UsageError
from penstock.records import RawRow

_Stream: TypeAlias = BinaryIO | gzip.GzipFile


class InputFile:
    """A file whose rows can be read again and again. `name` is the path as the user gave it."""

    repeatable: Literal[True] = True

    def __init__(self, path: str, reader: Reader, *, compressed: bool) -> None:
        self.name = path
        self._reader = reader
        self._compressed = compressed

    def rows(self, skip: Skip) -> Iterator[RawRow]:
        """The rows in order, but for those whose index `skip` is true of.

        Raises `InputError` where the file cannot be read on: gone, damaged, UTF-16, no header.
        """
        return self._reader(self._chunks(self._open), self.name, skip)

    def digest(self) -> bytes:
        """BLAKE2b-128 of the file as it lies on disk. Raises `InputError` where it cannot be read."""
        content = hashlib.blake2b(digest_size=16)
        for chunk in self._chunks(self._open_as_is):
            content.update(chunk)
        return content.digest()

    def check_start(self) -> None:
        """Raises `InputError` where the first line cannot be had: no permission, not gzip, UTF-16."""
        next(text_lines(self._chunks(self._open), self.name), None)

    def _open(self) -> _Stream:
        return gzip.open(self.name, "rb") if self._compressed else self._open_as_is()

    def _open_as_is(self) -> _Stream:
        return Path(self.name).open("rb")

    def _chunks(self, opened: Callable[[], _Stream]) -> Iterator[bytes]:
        try:
            with opened() as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    yield chunk
        except gzip.BadGzipFile as error:
            raise InputError(self.name, f"not a gzip file, or damaged ({error}); compress it again") from error
        except (EOFError, zlib.error) as error:
            raise InputError(self.name, f"the gzip data is cut off or damaged ({error}); copy it again") from error
        except OSError as error:
            raise InputError(self.name, f"cannot be read: {error.strerror or error}") from error


class InputFolder:
    """A folder of text files: a row a file, `{"path", "text"}`, ordered by path.

    Every file below it counts, but for hidden ones (a name that starts with a dot, also of a folder). One that is not
    UTF-8 text is an error, not passed over: a row that is left out silently is a row lost. Links to files are
    followed, links to folders are not.
    """

    repeatable: Literal[True] = True

    def __init__(self, path: str) -> None:
        self.name = path

    def rows(self, skip: Skip) -> Iterator[RawRow]:
        """The rows in order, but for those whose index `skip` is true of; the files of those are not opened."""
        for index, path in enumerate(self.paths()):
            if not skip(index):
                yield self._row(index, path)

    def paths(self) -> Iterator[str]:
        """The files relative to the folder, with `/` between names, ordered as strings."""
        try:
            yield from _walk(self.name, "")
        except OSError as error:
            raise InputError(_shown(error.filename or self.name), f"cannot be read: {error.strerror}") from error

    def digest(self) -> bytes:
        """BLAKE2b-128 of the names, sizes and contents of all rows. Raises `InputError` where one cannot be read."""
        content = hashlib.blake2b(digest_size=16)
        for path in self.paths():
            where = f"{self.name}/{path}"
            try:
                with Path(where).open("rb") as stream:
                    name = os.fsencode(path)
                    size = os.fstat(stream.fileno()).st_size
                    content.update(b"%d:%b%d:" % (len(name), name, size))
                    while chunk := stream.read(CHUNK_BYTES):
                        content.update(chunk)
            except OSError as error:
                raise InputError(_shown(where), f"cannot be read: {error.strerror}") from error
        return content.digest()

    def _row(self, index: int, path: str) -> RawRow:
        where = _shown(f"{self.name.rstrip('/')}/{path}")
        try:
            path.encode()
            content = _read_bounded(Path(self.name) / path)
            text = without_mark(content, where).decode()
        except UnicodeEncodeError:
            return RawRow(index, where, None, "the file's name is not valid UTF-8; rename it")
        except UnicodeDecodeError:
            return RawRow(index, where, None, "not UTF-8 text; convert it, or move it out of the folder")
        except OSError as error:
            return RawRow(index, where, None, f"cannot be read: {error.strerror}")
        except InputError as error:
            return RawRow(index, where, None, error.reason)
        return RawRow(index, where, {"path": path, "text": text})


def _read_bounded(path: Path) -> bytes:
    """The content of a file; raises `InputError` where it is longer than a row may be."""
    with path.open("rb") as stream:
        content = stream.read(lines.MAX_LINE_BYTES + 1)
    if len(content) > lines.MAX_LINE_BYTES:
        raise InputError(str(path), too_long())
    return content


def _walk(folder: str, prefix: str) -> Iterator[str]:
    # A folder sorts as its name with the slash: the whole comes ordered by path, with one folder at a time held.
    with os.scandir(folder) as entries:
        found = sorted((entry.name + "/" * entry.is_dir(follow_symlinks=False), entry) for entry in entries)
    for name, entry in found:
        if name.startswith("."):
            continue
        if name.endswith("/"):
            yield from _walk(entry.path, prefix + name)
        elif entry.is_file() or (entry.is_symlink() and not entry.is_dir()):
            yield prefix + name


def _shown(path: str) -> str:
    """A path as text that can be printed, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


Input: TypeAlias = InputFile | InputFolder | StandardInput


def open_input(path: str) -> Input:
    """INPUT by its name: `-` for standard input, a folder, or a file whose suffix tells its format.

    Raises `UsageError` for a suffix that is not known, `InputError` for what is missing, no regular file, a folder
    without files, or unreadable from the start.
    """
    if path == "-":
        return StandardInput()
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            path, f"cannot be opened: {reason}; INPUT is a file, a folder or - for standard input"
        ) from error
    if stat.S_ISDIR(mode):
        return _open_folder(path)
    if not stat.S_ISREG(mode):
        raise InputError(path, "not a regular file, and INPUT is read twice; write it to a file, or pipe it into -")
    return _open_file(path)


def _open_folder(path: str) -> InputFolder:
    folder = InputFolder(path)
    if next(folder.paths(), None) is None:
        raise InputError(path, "there is no file in this folder (hidden ones do not count)")
    return folder


def _open_file(path: str) -> InputFile:
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    compressed = suffixes[-1:] == [".gz"]
    kind = suffixes[-2:-1] if compressed else suffixes[-1:]
    reader = READERS.get("".join(kind))
    if reader is None:
        known = ", ".join(READERS)
        raise UsageError(
            f"{path}: the name must end in one of {known} (or these with .gz), or be a folder, or - (JSON Lines)"
        )
    file = InputFile(path, reader, compressed=compressed)
    file.check_start()
    return file
