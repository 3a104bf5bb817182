"""The TLS settings: made once, on first use, because loading the certificates costs tens of milliseconds.

Certificates are always checked; there is no switch to turn that off. `SSL_CERT_FILE` and `SSL_CERT_DIR` name others
than the system's own, as OpenSSL has it.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Mapping

from penstock.errors import UsageError


def context_from(environ: Mapping[str, str]) -> ssl.SSLContext:
    """The TLS context that these environment variables ask for; `UsageError` where they name no certificates."""
    return _context(environ.get("SSL_CERT_FILE") or None, environ.get("SSL_CERT_DIR") or None)


@functools.lru_cache(maxsize=8)
def _context(cafile: str | None, capath: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=cafile, capath=capath)
    except OSError as error:
        where = cafile or capath
        raise UsageError(f"SSL_CERT_FILE or SSL_CERT_DIR names no readable certificates: {where}") from error
    context.set_alpn_protocols(["http/1.1"])
    return context
