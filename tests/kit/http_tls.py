"""A certificate authority of the tests' own, and contexts for both sides."""

from __future__ import annotations

import functools
import ssl

import trustme


@functools.cache
def authority() -> trustme.CA:
    """One authority for the whole run, because keys take time."""
    return trustme.CA()


@functools.cache
def serving(name: str = "127.0.0.1") -> ssl.SSLContext:
    """What a server of that name uses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(name).configure_cert(context)
    return context


def trusting() -> ssl.SSLContext:
    """What a client uses that trusts the authority."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context
