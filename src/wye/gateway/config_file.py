"""`wye.toml` from its text to `Config`, with errors that name the line.

Every error names the line, what stood there, what was expected and what to write instead.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from wye.gateway.config import Config, ConfigError, Server
from wye.gateway.toml_lines import key_lines, line_of


def read_config(path: str | Path) -> Config:
    """Read and validate `wye.toml`; relative paths in it count from its own folder.

    Raises:
        ConfigError: the file is missing or anything in it is wrong.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist; write one with `wye init`, or name another with --config"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return parse_config(text, name=str(path), folder=path.resolve().parent)


def parse_config(text: str, *, name: str = "wye.toml", folder: Path | None = None) -> Config:
    """Validate the text of a configuration.

    Args:
        text: TOML.
        name: what errors call the file.
        folder: what relative paths count from; the working directory when not given.

    Raises:
        ConfigError: anything is wrong.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not TOML: {error}") from error
    if folder is not None:
        _resolve_paths(values, folder)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = key_lines(text)
        placed = [(line_of(lines, _written(detail)), detail) for detail in _causes(error)]
        placed.sort(key=lambda pair: pair[0] or 0)
        problems = [_describe(detail, name, line) for line, detail in placed]
        raise ConfigError("\n".join(problems)) from None


def with_server(
    config: Config,
    *,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
) -> Config:
    """The same configuration on another address, or by another number of workers.

    Raises:
        ConfigError: one is impossible, or the address opens the gateway to others without a key.
    """
    given = {"host": host, "port": port, "workers": workers}
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        return config
    try:
        server = Server.model_validate({**config.server.model_dump(), **changes})
    except ValidationError as error:
        details = (_describe(detail, "command line", None) for detail in _causes(error))
        raise ConfigError("\n".join(details)) from None
    return config.model_copy(update={"server": server})


def _resolve_paths(values: dict[str, Any], folder: Path) -> None:
    for table in ("store", "router", "guard"):
        section = values.get(table)
        if isinstance(section, dict) and isinstance(section.get("path"), str):
            section["path"] = str(folder / Path(section["path"]).expanduser())


def _causes(error: ValidationError) -> list[ErrorDetails]:
    """The errors without those of a table that only repeat that something in it is wrong."""
    details = error.errors()
    places = [detail["loc"] for detail in details]
    return [
        detail
        for detail in details
        if not any(
            len(p) > len(detail["loc"]) and p[: len(detail["loc"])] == detail["loc"] for p in places
        )
    ]


def _written(detail: ErrorDetails) -> tuple[str | int, ...]:
    """The location as it is written in the file; what concerns the whole names its key in `ctx`."""
    location = tuple(part for part in detail["loc"] if part != "[key]")
    if not location and detail["type"] in Config.model_fields:
        return (detail["type"],)
    return location


def _describe(detail: ErrorDetails, name: str, line: int | None) -> str:
    where = f"{name}:{line}" if line else name
    location = _written(detail)
    key = ".".join(str(part) for part in location) or "the file"
    if detail["type"] == "extra_forbidden":
        return f"{where}: unknown key `{key}`; {_suggest(location)}"
    if detail["type"] == "missing":
        return f"{where}: `{key}` is missing; {_missing(location)}"
    if detail["type"] in _OWN:
        return f"{where}: {detail['msg']}"
    if detail["type"] == "tuple_type" and location == ("targets",):
        return f"{where}: each target is a table of a list; write [[targets]], with two brackets"
    given = detail["input"]
    shown = repr(given) if isinstance(given, str | int | float | bool) else type(given).__name__
    expected = detail["msg"].replace("Input should", "it should")
    return f"{where}: `{key}` is {shown}: {expected}{_example(location)}"


_OWN = {
    "access_key", "exposed", "reserved", "base_url", "twice", "policies", "default_policy",
    "baseline", "speaks", "translate", "provider", "redact", "store", "judge", "pattern",
}  # fmt: skip
_EXAMPLES = {
    "port": "8484",
    "workers": "4",
    "max_body_mb": "10",
    "price_in_per_mtok": "0.15",
    "price_out_per_mtok": "0.60",
    "context": "128000",
    "max_output": "16384",
    "tags": '["tools", "vision"]',
    "speaks": '["chat", "responses"]',
    "quality": "0.8",
    "name": '"gpt-4o-mini"',
    "kind": '"openai"',
    "batch_seconds": "0.05",
    "store_prompts": "true",
    "connect": "5",
    "first_byte": "60",
    "total": "300",
    "between": "60",
}


def _tables(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The tables inside a table, at any depth, by the key under which each is written."""
    found: dict[str, type[BaseModel]] = {}
    for name, field in model.model_fields.items():
        for inner in _models_in(field.annotation):
            found |= {name: inner, **_tables(inner)}
    return found


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


_TABLES = _tables(Config)


def _suggest(location: Sequence[str | int]) -> str:
    tables = [str(part) for part in location[:-1] if str(part) in _TABLES]
    known = list(_TABLES[tables[-1]].model_fields if tables else Config.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"known here: {', '.join(known)}"


def _missing(location: Sequence[str | int]) -> str:
    if tuple(location) == ("targets",):
        return "add at least one [[targets]] table, or write a file to start from with `wye init`"
    return "add it" + _example(location)


def _example(location: Sequence[str | int]) -> str:
    key = next((str(part) for part in reversed(location) if isinstance(part, str)), "")
    return f"; for instance {key} = {_EXAMPLES[key]}" if key in _EXAMPLES else ""
