"""Starts sending processes and sees them off. What they are told goes over the socket, never by arguments or variables: keys
are in it.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys

from penstock.errors import UsageError

_PROGRAM = (
    "import sys; fd, *sys.path[:] = sys.argv[1:]; from penstock.edges.processes.sender import main; main(int(fd))"
)
"""It imports from where this process does: an installed package, a source tree, a zip file."""

_PARENTS_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_END_SECONDS = 2.0


def start() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A process and our end of the socket to it. Raises `UsageError` where the system gives no more."""
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        raise _not_started(error) from error
    with theirs:
        # Ctrl-C reaches the whole group: the child is born deaf to it, for it would hear it before it could say so itself.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS_SIGNALS)
        try:
            process = _popen(theirs.fileno())
        except OSError as error:
            ours.close()
            raise _not_started(error) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process, ours


def _popen(descriptor: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603  this very interpreter
        [sys.executable, "-P", "-c", _PROGRAM, str(descriptor), *sys.path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(descriptor,),
    )


def _not_started(error: OSError) -> UsageError:
    return UsageError(
        f"processes: one could not be started ({error.strerror}): ask for fewer, or raise the limit (ulimit -n, -u)"
    )


def how_it_ended(process: subprocess.Popen[bytes]) -> str:
    """In words; a process that closed its socket ends now, if need be by force."""
    try:
        status = process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    if status >= 0:
        return f"ended with status {status}"
    return f"was killed by {signal.Signals(-status).name}"


async def see_off(processes: list[subprocess.Popen[bytes]]) -> None:
    """Return once they are gone, for whom the socket was closed; those that stay are killed. No zombie is left."""
    try:
        await asyncio.gather(*(asyncio.to_thread(process.wait, _END_SECONDS) for process in processes))
    except subprocess.TimeoutExpired:
        pass  # killed below
    finally:
        for process in processes:
            process.kill()  # does nothing to one that is gone
            process.wait()
