"""The simulated provider behind TLS, without latency: `python bench/tls_simulator.py CA.pem` writes its authority there.

`penstock simulate` speaks no TLS, for nobody else needs it; this puts its connections behind a certificate for 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

# The kit of the tests has an authority; it is no package that is installed.
sys.path.insert(0, str(Path(__file__).parents[1]))
from penstock.edges.environment import raise_descriptor_limit
from penstock.simulator.server import Server, _Connection
from penstock.simulator.settings import Settings
from tests.kit.http_tls import authority, serving

HOST = "127.0.0.1"


async def serve(authority_file: Path) -> None:
    server = Server(Settings(), HOST, 0)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: _Connection(server), HOST, 0, ssl=serving(HOST), backlog=4096)
    authority().cert_pem.write_to_path(authority_file)
    print(f"listening on https://{HOST}:{listener.sockets[0].getsockname()[1]}/v1", flush=True)
    await listener.serve_forever()


if __name__ == "__main__":
    raise_descriptor_limit()
    uvloop.run(serve(Path(sys.argv[1])))
