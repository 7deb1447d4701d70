"""The tables `[guard]` and `[watch]` of `wye.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Action = Annotated[str, Field(pattern=r"^(refuse|answer|note|target:\S+)$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GuardTable(_Table):
    """What becomes of requests that are for no target, or unsafe.

    `path` is a file that `wye guard fit` wrote. An action is "refuse" (403 `refused_by_guard`),
    "answer" (the text `answer`, from no target), "target:NAME", or "note", which only marks the
    decision. A request is out of domain where a rule of the guard rejects it, and else unsafe where
    the guard puts it into one of `unsafe_domains`. One that is both is unsafe where requests out of
    domain are only noted.
    """

    path: Path
    out_of_domain: Action = "refuse"
    unsafe: Action = "refuse"
    unsafe_domains: tuple[str, ...] = ("unsafe",)
    answer: Annotated[str, Field(min_length=1)] = "I cannot help with this request."


class Canaries(_Table):
    """Fixed prompts that are asked of each target at an interval, to see whether it changed.

    They cost what they cost: it is booked and told. `targets` names some; all when empty.
    """

    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    every_seconds: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 3600.0
    max_tokens: Annotated[int, Field(ge=1)] = 32
    targets: tuple[str, ...] = ()


class WatchTable(_Table):
    """What is watched, and how often a test may be wrong.

    `false_alarm_every` is the mean number of requests (of judged answers, for calibration) to a
    false alarm of one monitor, at least. `reference` is how many requests a monitor learns from
    where the router brings no reference.
    """

    traffic: bool = True
    calibration: bool = True
    models: bool = True
    answers: bool = True
    false_alarm_every: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 100_000.0
    reference: Annotated[int, Field(ge=50, le=20_000)] = 500
    seconds: Positive = 1.0
    webhook: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    canaries: Canaries | None = None
