"""The gateway on Ray Serve: several replicas behind one address.

Each replica is a whole gateway, so what they share is the store: keys, budgets and rate limits are
exact over all replicas (`wye.gateway.money`), with `store.url` on many machines, or with a SQLite
file where all replicas run on one. Start it with `wye serve --ray`, from Python, or with Ray's own
command:

    serve run wye.ray.serving:app config=wye.toml replicas=4
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wye.errors import WyeError
from wye.gateway.config import Config, ConfigError
from wye.gateway.config_file import read_config

if TYPE_CHECKING:
    from ray.serve import Application
    from starlette.applications import Starlette

NAME = "wye"
# Time to write what waits, after streams were drained or cut.
_GRACE_SECONDS = 10.0


class RayError(WyeError):
    """Ray is missing or cannot do what is asked; the message says what to do."""


def require_ray() -> Any:
    """The module `ray`.

    Raises:
        RayError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise RayError(f"this needs Ray ({error}): pip install 'wye[ray]'") from error
    return ray


def application(
    config: str | Path | Config, *, replicas: int = 2, cpus: float = 1.0
) -> Application:
    """The gateway as an application of Ray Serve.

    Environment variables that `config` names must be set wherever replicas run.

    Args:
        config: `wye.toml`, or its values.
        replicas: how many gateways.
        cpus: processors that Ray reserves for each.

    Raises:
        ConfigError: the configuration is wrong, or replicas would not share a store.
        RayError: Ray is not installed.
    """
    require_ray()
    from ray import serve

    settings = config if isinstance(config, Config) else read_config(config)
    if settings.store.url is None and settings.store.path is None:
        raise ConfigError(
            "replicas need one store that all of them reach: set url (many machines) or path (one "
            "machine) under [store]"
        )

    def build() -> Starlette:
        return _build(settings)

    drain = settings.server.drain_seconds
    most = settings.server.max_in_flight
    deployment = serve.deployment(
        serve.ingress(build)(),
        name=NAME,
        num_replicas=replicas,
        ray_actor_options={"num_cpus": cpus},
        # The gateway bounds what it takes itself, and answers what is too much.
        max_ongoing_requests=10_000 if most is None else most + settings.server.queue + 100,
        graceful_shutdown_timeout_s=drain + _GRACE_SECONDS,
    )
    return deployment.bind()


def app(arguments: Mapping[str, str]) -> Application:
    """What `serve run wye.ray.serving:app config=wye.toml replicas=4` starts.

    Raises:
        ConfigError, RayError: see `application`; RayError for an argument that is unknown too.
    """
    unknown = sorted(set(arguments) - {"config", "replicas", "cpus"})
    if unknown:
        raise RayError(f"unknown arguments {unknown}; known are config, replicas and cpus")
    try:
        replicas, cpus = int(arguments.get("replicas", 2)), float(arguments.get("cpus", 1.0))
    except ValueError as error:
        raise RayError(f"replicas and cpus are numbers ({error})") from error
    return application(arguments.get("config", "wye.toml"), replicas=replicas, cpus=cpus)


def _build(settings: Config) -> Starlette:
    """One replica's gateway, made where it runs."""
    from wye.gateway.app import create_app

    if settings.router.path is None:
        return create_app(settings)
    from wye.query import load

    return create_app(settings, load(settings.router.path))
