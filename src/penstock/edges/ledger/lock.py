"""One run to a ledger: a lock on a file of its own, and a refusal of disks on which locks and shared memory do not hold.

It never locks the database file: closing any descriptor of it would drop SQLite's own locks.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from penstock.errors import LedgerFailed, LedgerLocked

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone"}
)


class Lock:
    """An exclusive lock on `path`, held until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self._path, self._made_here = path, not path.exists()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            reason = f"cannot write beside the output ({path.parent}): {error.strerror}"
            raise LedgerFailed(f"{reason}; mend that, then run the same command again") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise LedgerLocked(
                f"another run is using {path.name.removesuffix('.lock')}: wait for it, stop it, or choose another output"
            ) from error

    def undo(self) -> None:
        """Release, and leave nothing behind that was not there before: for a ledger that turned out to be none."""
        try:
            if self._made_here:
                self._path.unlink(missing_ok=True)
        except OSError:
            pass  # an empty file too many, and why the ledger could not be opened must not be hidden by it
        self.release()

    def release(self) -> None:
        """Let the next run in. The file stays: removing it would let two runs lock two files of one name."""
        os.close(self._descriptor)


def refuse_network_disk(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> None:
    """Raise `LedgerFailed` where `folder` is on a network file system; silent where the system does not tell."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return
    kinds = {fields[1]: fields[2] for line in lines if len(fields := line.split()) > 2}
    place = folder.resolve()
    kind = next((kinds[str(p)] for p in (place, *place.parents) if str(p) in kinds), "")
    if kind in NETWORK_FILE_SYSTEMS:
        raise LedgerFailed(
            f"{folder} is on a network file system ({kind}), where a ledger is not safe: use a local disk"
        )
