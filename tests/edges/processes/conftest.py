"""As for the HTTP client: every asynchronous test runs on asyncio's own event loop and on uvloop, and none logs an error."""

from tests.edges.http.conftest import _loop_logs_no_error, pytest_asyncio_loop_factories

__all__ = ["_loop_logs_no_error", "pytest_asyncio_loop_factories"]
