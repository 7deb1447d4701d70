"""The child process that holds the model: `python server_child.py '{"gguf": ..., ...}'`.

Reports `{"base_url": ...}` or `{"error": ...}` as one line of JSON on its standard output, sends
everything that llama.cpp prints to standard error, and ends when its standard input closes, so that
it never outlives the process that started it. Run as a file: it imports nothing of wye.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> int:
    """Serve until standard input closes. Returns the exit code."""
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    settings = json.loads(sys.argv[1])
    try:
        server = serve(settings)
    except Exception as error:  # noqa: BLE001 -- whatever it is, the parent must be told
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=report, flush=True)
        return 1
    print(json.dumps({"base_url": server.listening_address}), file=report, flush=True)
    sys.stdin.buffer.read()
    # llama.cpp joins its worker threads at a normal exit, which waits for generations under way.
    os._exit(0)


def serve(settings: dict[str, Any]) -> Any:
    """llama.cpp's own HTTP server on a free loopback port, ready to answer."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["gguf"]
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["slots"] * settings["context"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.verbosity = -1
    params.ui = False
    # A prompt cache in RAM beside the slots' own would grow to gigabytes.
    params.cache_ram_mib = 0
    for threads in (params.cpuparams, params.cpuparams_batch):
        threads.n_threads = settings["threads"]
        # Waiting threads sleep instead of spinning: on a busy machine spinning halves the speed.
        threads.poll = 0
    return xllamacpp.Server(params)


if __name__ == "__main__":
    sys.exit(main())
