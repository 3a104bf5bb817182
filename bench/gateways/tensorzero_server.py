"""TensorZero's gateway as it is inside its PyPI wheel, serving over HTTP; runs in its environment, never in the project's.

    python tensorzero_server.py CONFIG

The name that starts it is private, so that its version is pinned. It chooses its port itself and says its address here.
"""

from __future__ import annotations

import signal
import sys

from tensorzero import tensorzero

if __name__ == "__main__":
    server = tensorzero._start_http_gateway(  # noqa: SLF001  # there is no public name for it
        config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
    )
    print(f"serves {server.base_url}", flush=True)
    signal.pause()
