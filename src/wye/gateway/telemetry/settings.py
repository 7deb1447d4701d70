"""The tables `[telemetry]`, `[logs]` and `[metrics]` of `wye.toml`."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from wye.gateway.telemetry.redaction import check_redact

Level = Literal["debug", "info", "warning", "error"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TelemetryTable(_Table):
    """Traces by OpenTelemetry's protocol over HTTP; needs the extra `otel`.

    `endpoint` is the collector's address, `headers_env` an environment variable with
    `name=value,name=value` for it, `sample` the share of traces that starts here and is kept (a
    client's own choice in `traceparent` stands), `content` whether what was asked goes along.
    """

    endpoint: Annotated[str, Field(pattern=r"^https?://\S+$")] = "http://127.0.0.1:4318"
    headers_env: str | None = None
    service: Annotated[str, Field(min_length=1)] = "wye"
    sample: Annotated[float, Field(ge=0, le=1)] = 1.0
    content: bool = False
    max_pending: Annotated[int, Field(ge=1)] = 2048

    @property
    def traces_url(self) -> str:
        """Where spans are sent."""
        base = self.endpoint.rstrip("/")
        return base if base.endswith("/v1/traces") else f"{base}/v1/traces"

    @property
    def headers(self) -> dict[str, str]:
        """Of every export."""
        given = os.environ.get(self.headers_env, "") if self.headers_env else ""
        pairs = (part.partition("=") for part in given.split(",") if "=" in part)
        return {name.strip(): value.strip() for name, _, value in pairs}


class LogsTable(_Table):
    """What is logged, to standard error: one line for each request, and what goes wrong.

    `prompts` lets what was asked into the line of a request. `redact` is a function
    "module:function" from text to text, or names of built-in patterns; `redact_store` applies it
    to texts in the store as well.
    """

    format: Literal["text", "json"] = "text"
    level: Level = "info"
    access: bool = True
    prompts: bool = False
    redact: str | tuple[str, ...] = ()
    redact_store: bool = False

    @field_validator("redact")
    @classmethod
    def _known(cls, redact: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return check_redact(redact)


class MetricsTable(_Table):
    """Which metrics cost a series for each key: off, since keys can be many."""

    keys: bool = False
    max_keys: Annotated[int, Field(ge=1)] = 100
