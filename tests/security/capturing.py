"""A provider that keeps every byte it gets, answers by the prompt, and gives away what it was trusted with wherever it can."""

from __future__ import annotations

import base64
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

PATIENCE_SECONDS = 30.0
KEY = "sk-canary/7f+3d9e2=a61b~Q"
"""Looks different raw, in base64 and in a URL, and occurs nowhere else."""

PASSWORD = "proxy-canary~c41d"
_DROP_AT_ONCE = struct.pack("ii", 1, 0)


def forms(secret: str) -> tuple[bytes, ...]:
    """The ways in which a secret may be written: raw, escaped for a URL, and in base64 at any of the three offsets."""
    encoded = secret.encode()
    in_base64 = (base64.b64encode(b"\0" * shift + encoded)[4:-4] for shift in range(3))
    escaped = encoded.replace(b"/", rb"\/")
    return encoded, escaped, quote(secret, safe="").encode(), quote(secret).encode(), *in_base64


def found_in(text: bytes, *secrets: str) -> list[bytes]:
    """What of these secrets stands in a text."""
    return [form for secret in secrets for form in forms(secret) if form in text]


def content_of(folder: Path) -> bytes:
    """Everything that lies in a folder, names included."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return b"\n".join(str(path).encode() + b"\n" + path.read_bytes() for path in files)


class Captured:
    """What a server heard; `requests` are head and body of each, `port` is where it listens."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: list[bytes] = []
        self.over = False

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


Answer = Callable[[bytes], bytes | None]
"""The answer to a request as it came; None resets the connection."""


@contextmanager
def capturing(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Captured]:
    """Serve one request for each connection, in threads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        captured = Captured(listener.getsockname()[1])
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                connection = listener.accept()[0]
                if captured.over:
                    connection.close()
                    return
                threads.append(threading.Thread(target=_serve, args=(connection, captured, answer, tls)))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield captured
        finally:
            captured.over = True
            socket.create_connection(listener.getsockname()).close()
            for thread in [accepting, *threads]:
                thread.join(PATIENCE_SECONDS)


def _serve(plain: socket.socket, captured: Captured, answer: Answer, tls: ssl.SSLContext | None) -> None:
    plain.settimeout(PATIENCE_SECONDS)
    try:
        with tls.wrap_socket(plain, server_side=True) if tls else plain as connection:
            request = _read(connection)
            captured.requests.append(request)
            told = answer(request)
            if told is None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DROP_AT_ONCE)
            else:
                connection.sendall(told)
    except OSError:
        pass  # the client has left, as it may
    finally:
        plain.close()


def _read(connection: socket.socket) -> bytes:
    """Head and body of one request."""
    request = b""
    while b"\r\n\r\n" not in request:
        piece = connection.recv(65536)
        if not piece:
            return request
        request += piece
    head, _, body = request.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    missing = int(lengths[0].split(b":")[1]) - len(body) if lengths else 0
    while missing > 0 and (piece := connection.recv(65536)):
        request += piece
        missing -= len(piece)
    return request


def http(status: str, body: bytes = b"{}", *headers: str) -> bytes:
    """An answer after which the connection is closed."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body


def good(text: str = "fine") -> bytes:
    """A chat completion."""
    return http(
        "200 OK", b'{"model":"m","choices":[{"message":{"content":"%s"},"finish_reason":"stop"}]}' % text.encode()
    )
