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

from wye.errors import WyeError
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
    unknown = sorted(set(described) - {"targets", "ledger", "stage"})
    if unknown:
        raise PipelineError(f"{file} has {', '.join(unknown)}; it takes ledger, stage, targets")
    targets, stages = described.get("targets"), described.get("stage")
    if not isinstance(targets, list) or not all(isinstance(t, str) for t in targets):
        said = "there are no targets" if targets is None else f"targets is {targets!r}"
        raise PipelineError(f'{file}: {said}, expected a list of names: targets = ["small"]')
    if not isinstance(stages, list):
        raise PipelineError(f"{file}: no stages; write each as [[stage]] with a kind")
    ledger = described.get("ledger", {})
    try:
        _only("[ledger]", ledger, {"total_usd", "per_query_usd", "learning_rate"})
        return Pipeline(
            [_stage(file, number, values) for number, values in enumerate(stages, start=1)],
            targets,
            ledger=Ledger(**ledger),
        )
    except PipelineError as error:
        raise PipelineError(f"{file}: {error}") from error


def _stage(file: Path, number: int, values: Any) -> Stage:
    if not isinstance(values, Mapping):
        raise PipelineError(f"stage {number} is {values!r}; write each as [[stage]] with a kind")
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in STAGES:
        said = "no kind" if kind is None else f"the kind {kind!r}"
        raise PipelineError(f"stage {number} has {said}, expected one of {', '.join(STAGES)}")
    needed, optional, build = STAGES[kind]
    _only(f"stage {number} ({kind})", values, {"kind", *needed, *optional})
    missing = [k for k in needed if k not in values]
    if missing:
        raise PipelineError(f"stage {number} ({kind}) lacks {', '.join(missing)}")
    try:
        return build(file, values)
    except WyeError as error:
        raise PipelineError(f"stage {number} ({kind}): {error}") from error


def _refuse(file: Path, values: Mapping[str, Any]) -> Stage:
    try:
        pattern = re.compile(values["pattern"])
    except (re.error, TypeError) as error:
        raise PipelineError(
            f"pattern {values['pattern']!r} is no regular expression ({error})"
        ) from error
    reason = _text(values, "reason")
    return GuardStage(lambda text: reason if pattern.search(text) else None)


def _eligible(file: Path, values: Mapping[str, Any]) -> Stage:
    return EligibleStage(values["offers"])


def _route(file: Path, values: Mapping[str, Any]) -> Stage:
    from wye.query.persistence import load_router

    policy = None if "policy" not in values else parse_policy(_text(values, "policy"))
    return RouteStage(load_router(file.parent / _text(values, "router")), policy)


def _judge(file: Path, values: Mapping[str, Any]) -> Stage:
    return JudgeStage(ConfidenceJudge(), values["threshold"])


def _run(file: Path, values: Mapping[str, Any]) -> Stage:
    return RunStage(values["target"], cost_usd=values.get("cost_usd", 0.0))


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values[key]
    if not isinstance(value, str):
        raise PipelineError(f"{key} is {value!r}, expected a text")
    return value


Builder = Callable[[Path, Mapping[str, Any]], Stage]

STAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...], Builder]] = {
    "refuse": (("pattern", "reason"), (), _refuse),
    "eligible": (("offers",), (), _eligible),
    "route": (("router",), ("policy",), _route),
    "judge": (("threshold",), (), _judge),
    "run": (("target",), ("cost_usd",), _run),
}


def _only(where: str, values: Any, known: set[str]) -> None:
    if not isinstance(values, Mapping):
        raise PipelineError(f"{where} is {values!r}, expected keys and values")
    unknown = sorted(set(values) - known)
    if unknown:
        raise PipelineError(
            f"{where} has {', '.join(unknown)}; it takes {', '.join(sorted(known))}"
        )
