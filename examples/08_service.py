"""The whole service is one command, `penstock serve`; this starts it and asks as any HTTP client would."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from urllib.request import Request, urlopen

TEXT = "Tea came from China. It came to Japan with monks. In England it became a habit."


def asked(url: str, prompt: str) -> Request:
    return Request(url, json.dumps({"prompt": prompt}).encode(), {"content-type": "application/json"})


def main(base_url: str) -> None:
    with urlopen(asked(f"{base_url}/generate", TEXT)) as answer:
        print(json.load(answer)["generated_text"])

    with urlopen(asked(f"{base_url}/generate/stream", TEXT)) as events:  # one event for each piece
        texts = [json.loads(line[6:]).get("text", "") for line in events if line.startswith(b"data: {")]
    print("in several pieces:", len(texts) > 1, "-", "".join(texts))

    with urlopen(f"{base_url}/metrics") as metrics:
        lines = metrics.read().decode().splitlines()
    print(*(line for line in lines if line.startswith("penstock_requests_total")), sep="\n")


with tempfile.TemporaryDirectory() as data:
    models = sys.argv[1:] or ["-m", "builtin/extractive"]
    command = [sys.executable, "-m", "penstock", "serve", "--port", "0", "--data", data, *models]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            told = next(filter(None, (re.search(r"listening on (\S+)", line) for line in server.stderr)))
            main(told[1])
        finally:
            server.terminate()
            server.communicate()
