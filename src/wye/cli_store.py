"""The store of a gateway, for commands that work on it beside the running gateways."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wye.errors import WyeError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from wye.gateway.config import Config

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="The gateway's configuration; ./wye.toml where there is one."),
]
StorePlace = Annotated[
    str | None,
    typer.Option(
        "--store", metavar="STORE", help="The gateway's store (file or url), instead of --config."
    ),
]


def named_settings(config: Path | None) -> Config | None:
    """The configuration that was named; None where none was."""
    from wye.gateway.config_file import read_config

    return None if config is None else read_config(config)


def settings_of(config: Path | None, store: str | None) -> Config | None:
    """The configuration that was named, or lies here; None where a store alone is meant."""
    if config is not None and store is not None:
        raise WyeError("give --config or --store, not both")
    if config is None and store is None and Path("wye.toml").is_file():
        config = Path("wye.toml")
    return named_settings(config)


@contextmanager
def opened(
    settings: Config | None, store: str | None, *, create: bool = False
) -> Iterator[sa.Engine]:
    """The engine of the store that was named, else of the configuration's, else of the user's.

    Args:
        create: whether a store that was named is made where there is none; a name that was
            mistyped is told otherwise.
    """
    from wye.gateway.dialects import STORE_ERRORS, StoreError, details, place_of_engine, shown
    from wye.gateway.schema import connect
    from wye.gateway.store_settings import StoreTable

    table = settings.store if settings is not None else StoreTable()
    engine = connect(table.place()) if store is None else connect(store, create=create)
    try:
        yield engine
    except STORE_ERRORS as error:
        place = shown(place_of_engine(engine))
        raise StoreError(
            f"the store {place} cannot be used: {details(error)}; check its disk and its rights, "
            "or its server, and try again"
        ) from error
    finally:
        engine.dispose()
