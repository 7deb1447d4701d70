"""`wye serve --ray`: the gateway's replicas on Ray until somebody stops them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path

from wye.gateway.config_file import read_config, with_server
from wye.ray.serving import NAME, application, require_ray


def serve_on_ray(
    config: str | Path,
    *,
    replicas: int = 2,
    host: str | None = None,
    port: int | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> None:
    """Serve until interrupted or terminated, then drain.

    On the cluster that the environment variable `RAY_ADDRESS` names; without it, on one that is
    started on this machine and ends with this call.

    Args:
        config: `wye.toml`.
        replicas: how many gateways.
        host, port: override the configuration.
        say: is told the address once it answers.

    Raises:
        ConfigError: the configuration is wrong, or replicas would not share a store.
        RayError: Ray is not installed.
    """
    ray = require_ray()
    settings = with_server(read_config(config), host=host, port=port)
    app = application(settings, replicas=replicas)
    from ray import serve

    ray.init(include_dashboard=False, log_to_driver=False, logging_level="WARNING")
    try:
        server = settings.server
        serve.start(http_options={"host": server.host, "port": server.port})
        serve.run(app, name=NAME, route_prefix="/")
        stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        say(f"{replicas} replicas on Ray: http://{server.host}:{server.port}/ Ctrl-C stops them")
        stopped.wait()
        serve.shutdown()
    finally:
        ray.shutdown()
