"""OUTPUT: lines out, seen by nobody before they are complete, and never over something that is not ours.

It decides when OUTPUT may be written and how it takes its name. What a line says is decided by the caller.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

from penstock.errors import OutputRefused, RunStopped

_BUFFER_BYTES = 1 << 20


class OutputFile:
    """A `Sink` that writes beside OUTPUT and takes its name in one step at `finish`.

    The temporary file is `.OUTPUT.PID.tmp` in the same folder; a symbolic link is followed, and an OUTPUT that is
    replaced keeps its permissions. Errors of the disk are `RunStopped("disk", ...)`. The caller holds the lock of
    OUTPUT's ledger, so that no other live process writes it: what dead ones left behind is removed at the start.
    """

    def __init__(self, path: str) -> None:
        self._shown = path
        self._target = Path(os.path.realpath(path))
        self._temporary = self._target.with_name(f".{self._target.name}.{os.getpid()}.tmp")
        try:
            _remove_leftovers(self._target)
            # "x" refuses to follow a link that somebody planted under the temporary name.
            self._stream = self._temporary.open("xb", buffering=_BUFFER_BYTES)
        except OSError as error:
            raise self._stopped(error) from error

    def write(self, line: bytes) -> None:
        """Append one line; its end is added here."""
        try:
            self._stream.write(line)
            self._stream.write(b"\n")
        except OSError as error:
            raise self._stopped(error) from error

    def finish(self) -> None:
        """Make every line durable, then let OUTPUT be this file, at once and durably."""
        try:
            self._stream.flush()
            self._keep_permissions()
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._temporary.replace(self._target)
            _sync_folder(self._target.parent)
        except OSError as error:
            raise self._stopped(error) from error

    def abandon(self) -> None:
        """Remove what was written; OUTPUT stays as it was. After `finish` this does nothing."""
        if self._stream.closed:
            return
        try:
            self._stream.close()
        except OSError:
            pass  # what could not be flushed is thrown away anyway
        try:
            self._temporary.unlink(missing_ok=True)
        except OSError:
            pass  # the next run removes it; what ended this one must not be hidden by it

    def _keep_permissions(self) -> None:
        if self._target.exists():
            os.fchmod(self._stream.fileno(), stat.S_IMODE(self._target.stat().st_mode))

    def _stopped(self, error: OSError) -> RunStopped:
        reason = error.strerror or str(error)
        return RunStopped(
            "disk", f"{self._shown} cannot be written: {reason}; mend that and run the same command again"
        )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync a folder; there the new name is as durable as they make it.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _remove_leftovers(target: Path) -> None:
    """Remove temporaries of this OUTPUT whose process is gone, or had this process's number before it."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(\d{{1,10}})\.tmp")
    for entry in target.parent.iterdir():
        match = pattern.fullmatch(entry.name)
        if match and not _is_other_process(int(match[1])):
            entry.unlink(missing_ok=True)


def _is_other_process(number: int) -> bool:
    if number == os.getpid():
        return False
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def check_output(input_path: str, output_path: str, *, ledger_exists: bool) -> None:
    """Raises `OutputRefused`, which says what to do, where writing OUTPUT would destroy something or cannot succeed."""
    if output_path == "-":
        raise OutputRefused("OUTPUT must be a file, for its ledger stands beside it; `penstock results` prints one")
    folder = Path(os.path.realpath(output_path)).parent
    if not folder.is_dir():
        raise OutputRefused(f"{output_path}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputRefused(f"{output_path}: the folder {folder} is not writable; choose another")
    _refuse_what_stands_there(Path(output_path), ledger_exists=ledger_exists)
    if input_path != "-":
        _refuse_input(Path(input_path), Path(output_path))


def _refuse_what_stands_there(output: Path, *, ledger_exists: bool) -> None:
    if output.is_dir():
        raise OutputRefused(f"{output} is a folder; name a file in it")
    if not output.exists():
        return
    if not output.is_file():
        raise OutputRefused(f"{output} is not a regular file and would be replaced; choose another name")
    if not ledger_exists:
        raise OutputRefused(
            f"{output} exists and no ledger stands beside it, so it may be yours; move it or choose another name"
        )


def _refuse_input(source: Path, output: Path) -> None:
    if not source.exists():
        return
    if output.exists() and source.samefile(output):
        raise OutputRefused(f"{output} is the input itself; choose another name")
    if source.is_dir() and Path(os.path.realpath(output)).is_relative_to(os.path.realpath(source)):
        raise OutputRefused(f"{output} lies inside the input folder and would become a row of it; write it elsewhere")
