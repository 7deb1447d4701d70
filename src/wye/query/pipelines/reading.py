"""Pipelines written down: a TOML file of targets, a ledger and stages.

    targets = ["small", "large"]

    [ledger]
    total_usd = 10.0

    [[stage]]
    kind = "refuse"
    pattern = "(?i)password"
    reason = "asks for secrets"

    [[stage]]
    kind = "route"
    router = "my-router"            # a folder, relative to the file
    policy = "utility:cost_weight=50"

    [[stage]]
    kind = "judge"
    threshold = 0.7

    [[stage]]
    kind = "run"
    target = "large"
    cost_usd = 0.01

Kinds and their keys are those of `STAGES`; a key that nothing reads is an error.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wye.query.pipelines.frame import PipelineError
from wye.query.pipelines.ledger import Ledger
from wye.query.pipelines.pipeline import Pipeline, Stage
from wye.query.pipelines.stages import (
    EligibleStage,
    GuardStage,
    JudgeStage,
    RouteStage,
    RunStage,
)
from wye.query.policies import parse_policy
from wye.query.policies.judging import ConfidenceJudge


def read_pipeline(path: str | Path) -> Pipeline:
    """The pipeline that a TOML file describes.

    Raises:
        PipelineError: the file cannot be read, a key is unknown or missing, a value is wrong, or
            the chain cannot work; the message names file and stage.
    """
    file = Path(path)
    try:
        described = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PipelineError(f"{file} cannot be read as a pipeline: {error}") from error
    _only(file, "the file", described, {"targets", "ledger", "stage"})
    targets, stages = described.get("targets"), described.get("stage")
    if not isinstance(targets, list) or not all(isinstance(t, str) for t in targets):
        raise PipelineError(f"{file}: targets is {targets!r}, expected a list of names")
    if not isinstance(stages, list):
        raise PipelineError(f"{file}: no stages; write each as [[stage]] with a kind")
    ledger = described.get("ledger", {})
    _only(file, "[ledger]", ledger, {"total_usd", "per_query_usd", "learning_rate"})
    try:
        return Pipeline(
            [_stage(file, number, values) for number, values in enumerate(stages, start=1)],
            targets,
            ledger=Ledger(**ledger),
        )
    except (TypeError, PipelineError) as error:
        raise PipelineError(f"{file}: {error}") from error


def _stage(file: Path, number: int, values: Mapping[str, Any]) -> Stage:
    kind = values.get("kind")
    if kind not in STAGES:
        raise PipelineError(f"stage {number} has kind {kind!r}, expected one of {list(STAGES)}")
    needed, optional, build = STAGES[kind]
    _only(file, f"stage {number} ({kind})", values, {"kind", *needed, *optional})
    missing = [k for k in needed if k not in values]
    if missing:
        raise PipelineError(f"stage {number} ({kind}) lacks {missing}")
    return build(file, values)


def _refuse(file: Path, values: Mapping[str, Any]) -> Stage:
    try:
        pattern = re.compile(values["pattern"])
    except (re.error, TypeError) as error:
        raise PipelineError(f"pattern {values['pattern']!r} is no regular expression") from error
    reason = str(values["reason"])
    return GuardStage(lambda text: reason if pattern.search(text) else None)


def _eligible(file: Path, values: Mapping[str, Any]) -> Stage:
    return EligibleStage({target: set(offers) for target, offers in values["offers"].items()})


def _route(file: Path, values: Mapping[str, Any]) -> Stage:
    from wye.query.persistence import load_router

    policy = values.get("policy")
    router = load_router(file.parent / values["router"])
    return RouteStage(router, None if policy is None else parse_policy(policy))


def _judge(file: Path, values: Mapping[str, Any]) -> Stage:
    return JudgeStage(ConfidenceJudge(), values["threshold"])


def _run(file: Path, values: Mapping[str, Any]) -> Stage:
    return RunStage(values["target"], cost_usd=values.get("cost_usd", 0.0))


Builder = Callable[[Path, Mapping[str, Any]], Stage]

STAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...], Builder]] = {
    "refuse": (("pattern", "reason"), (), _refuse),
    "eligible": (("offers",), (), _eligible),
    "route": (("router",), ("policy",), _route),
    "judge": (("threshold",), (), _judge),
    "run": (("target",), ("cost_usd",), _run),
}


def _only(file: Path, where: str, values: Any, known: set[str]) -> None:
    if not isinstance(values, Mapping):
        raise PipelineError(f"{file}: {where} is {values!r}, expected keys and values")
    unknown = sorted(set(values) - known)
    if unknown:
        raise PipelineError(f"{file}: {where} has {unknown}; it takes {sorted(known)}")
