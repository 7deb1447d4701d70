"""Logged decisions as arrays, for `wye replay`: who could answer, who was chosen, what came of it.

Read from a gateway's store, or from JSON lines (one file, or every `.jsonl` of a folder): each line
a decision as `GET /v1/decisions/{id}` gives it, of which `target`, `propensity`, `candidates`,
`outcome` and `feedback` (or `quality`) are read, and `text`, `id` and `policy` where they stand.

What is left out is counted: decisions that no policy made (the client named the target), that chose
nothing, and that have no outcome yet. A fallback belongs to what came of a choice: its answer and
its cost count for the target that was chosen first, since that choice has the propensity, and the
policy to evaluate would meet the same faults. So a propensity is always that of the choice; of the
answer of another target, which nobody chose, it is unknown (`wye.gateway.log_data`, where an answer
counts for who gave it). How many fell back is counted.

Shape letters: Q decisions, M targets.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from wye.gateway.dialects import Place, StoreError, name_of, place_of, shown
from wye.gateway.reports import latest_feedback
from wye.gateway.router_service import DIRECT
from wye.gateway.schema import connect, decisions, outcomes
from wye.query.base import BoolArray, Estimate, FloatArray
from wye.query.off_policy import Logged, OffPolicyError

_FIGURES = {
    "quality": "quality",
    "quality_std": "quality_std",
    "cost": "cost_usd",
    "latency": "latency_s",
}


@dataclass(frozen=True)
class Traffic:
    """Q logged decisions among M targets.

    Attributes:
        name: of the log.
        ids: of the decisions.
        texts: what was asked, None where it was not kept.
        estimate: what was expected when the decision was made; figures of a target that was no
            candidate are 0 or unknown.
        allowed: `[Q, M]` which targets could be chosen.
        logged: the choices and their probabilities.
        outcomes: `[Q]` each: `quality` (feedback, 0 to 1), `cost` (USD), `latency` (seconds); NaN
            where unknown.
        policies: how many decisions each logged policy made.
        left_out: how many decisions are not among the Q, by the reason.
        fell_back: `[Q]` whether another target answered than was chosen.
    """

    name: str
    ids: tuple[str, ...]
    texts: tuple[str | None, ...]
    estimate: Estimate
    allowed: BoolArray
    logged: Logged
    outcomes: Mapping[str, FloatArray]
    policies: Mapping[str, int]
    left_out: Mapping[str, int]
    fell_back: BoolArray

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: BoolArray) -> Traffic:
        """Some of the decisions, `rows` `[Q]`."""
        e, kept = self.estimate, np.flatnonzero(rows).tolist()
        return replace(
            self,
            ids=tuple(self.ids[i] for i in kept),
            texts=tuple(self.texts[i] for i in kept),
            estimate=Estimate(
                models=e.models,
                quality=e.quality[rows],
                quality_std=e.quality_std[rows],
                cost=e.cost[rows],
                latency=e.latency[rows],
                novelty=e.novelty[rows],
            ),
            allowed=self.allowed[rows],
            logged=self.logged.take(rows),
            outcomes={name: values[rows] for name, values in self.outcomes.items()},
            fell_back=self.fell_back[rows],
        )

    @property
    def questions(self) -> list[str]:
        """What tells questions apart: the text, or the decision where none was kept."""
        return [text or name for text, name in zip(self.texts, self.ids, strict=True)]


def read_traffic(log: str | Place) -> Traffic:
    """The decisions of a store (see `wye.gateway.dialects.place_of`) or of JSON lines.

    Raises:
        OffPolicyError: there is no log, it cannot be read, a line is no decision, no decision is
            left to evaluate on, or the propensities cannot be right.
    """
    try:
        found = place_of(log)
    except StoreError as error:
        raise OffPolicyError(str(error)) from error
    entries: Iterable[tuple[str, Mapping[str, Any]]]
    if isinstance(found, Path) and (found.is_dir() or found.suffix in (".jsonl", ".ndjson")):
        entries = _lines(found)
    elif isinstance(found, Path) and not found.is_file():
        raise OffPolicyError(
            f"{found} does not exist; give the store of a gateway (it says where it is at its "
            "start), or decisions as JSON lines"
        )
    else:
        entries = _stored(found)
    kept, left_out = [], Counter[str]()
    for place, entry in entries:
        why = _no_choice(entry)
        if why:
            left_out[why] += 1
        else:
            kept.append((place, entry))
    if not kept:
        said = ", ".join(f"{n} {why}" for why, n in left_out.items()) or "it is empty"
        raise OffPolicyError(f"{shown(found)} holds no decision to evaluate on: {said}")
    return _traffic(name_of(found), kept, left_out)


def _no_choice(entry: Mapping[str, Any]) -> str | None:
    """Why a decision says nothing of any policy."""
    if DIRECT in (entry.get("policy_name"), entry.get("policy")):
        return "named their target"
    if entry.get("target") is None:
        return "chose no target"
    if entry.get("outcome") is None and entry.get("quality") is None:
        return "have no outcome"
    return None


def _stored(place: Place) -> Iterator[tuple[str, Mapping[str, Any]]]:
    judged = latest_feedback()
    query = (
        sa.select(
            decisions.c.id,
            decisions.c.policy_name,
            decisions.c.policy,
            decisions.c.target,
            decisions.c.propensity,
            decisions.c.candidates,
            decisions.c.features,
            decisions.c.text,
            outcomes.c.target.label("served_by"),
            outcomes.c.status,
            outcomes.c.cost_usd,
            outcomes.c.latency_s,
            judged.c.quality,
        )
        .outerjoin(outcomes, outcomes.c.decision_id == decisions.c.id)
        .outerjoin(judged, judged.c.decision_id == decisions.c.id)
        .order_by(decisions.c.id)
    )
    try:
        engine = connect(place, create=False)
    except StoreError as error:
        raise OffPolicyError(str(error)) from error
    try:
        with engine.connect() as connection:
            for row in connection.execute(query).mappings():
                known = row["status"] is not None
                outcome = {k: row[k] for k in ("status", "cost_usd", "latency_s")}
                outcome["target"] = row["served_by"]
                yield f"decision {row['id']}", {**row, "outcome": outcome if known else None}
    finally:
        engine.dispose()


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise OffPolicyError(f"{path} holds no .jsonl file with decisions")
    for file in files:
        try:
            # Not splitlines: a JSON text may hold U+2028 and other separators as they are.
            lines = file.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise OffPolicyError(f"{file} cannot be read: {error}") from error
        for number, line in enumerate(lines, start=1):
            if line.strip():
                place = f"{file}, line {number}"
                yield place, _entry(place, line)


def _entry(place: str, line: str) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise OffPolicyError(f"{place}: no JSON ({error})") from error
    if not isinstance(entry, dict) or "target" not in entry or "candidates" not in entry:
        raise OffPolicyError(
            f"{place}: expected a decision with target, propensity, candidates and outcome, as "
            "GET /v1/decisions/{id} gives it"
        )
    feedback = entry.get("feedback")
    if feedback and entry.get("quality") is None:
        entry["quality"] = feedback[-1].get("quality") if isinstance(feedback, list) else None
    entry.setdefault("id", place)
    return entry


@dataclass(frozen=True)
class Sight:
    """What was known when Q decisions among M targets were made.

    Attributes:
        estimate: figures of a target that was no candidate are 0 or unknown.
        allowed: `[Q, M]` which targets could be chosen.
        told: `[Q, M]` probability of every target, NaN where the log does not tell.
    """

    estimate: Estimate
    allowed: BoolArray
    told: FloatArray


def sight_of(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> Sight:
    """What decisions were made on: of each its place, for errors, and its entry.

    Raises:
        OffPolicyError: an entry holds no candidates, or figures that are no numbers.
    """
    models = tuple(dict.fromkeys(_target(p, c) for p, e in entries for c in _candidates(p, e)))
    columns = {model: column for column, model in enumerate(models)}
    shape = (len(entries), len(models))
    tables = {figure: np.full(shape, np.nan) for figure in (*_FIGURES, "law")}
    allowed = np.zeros(shape, np.bool_)
    for row, (place, entry) in enumerate(entries):
        for candidate in _candidates(place, entry):
            column = columns[_target(place, candidate)]
            allowed[row, column] = bool(candidate.get("allowed", True))
            for figure, key in (*_FIGURES.items(), ("law", "probability")):
                tables[figure][row, column] = _number(place, key, candidate.get(key))
    return Sight(_estimate(models, tables, [e for _, e in entries]), allowed, tables["law"])


def _traffic(
    name: str, kept: Sequence[tuple[str, Mapping[str, Any]]], left_out: Mapping[str, int]
) -> Traffic:
    sight = sight_of(kept)
    columns = {model: column for column, model in enumerate(sight.estimate.models)}
    chosen, propensity = np.zeros(len(kept), np.intp), np.full(len(kept), np.nan)
    for row, (place, entry) in enumerate(kept):
        if entry["target"] not in columns or not sight.allowed[row, columns[entry["target"]]]:
            raise OffPolicyError(
                f"{place}: {entry['target']!r} was chosen, but is no candidate that was allowed"
            )
        chosen[row] = columns[entry["target"]]
        propensity[row] = _number(place, "propensity", entry.get("propensity"))
    entries = [entry for _, entry in kept]
    return Traffic(
        name=name,
        ids=tuple(str(e["id"]) for e in entries),
        texts=tuple(e.get("text") or None for e in entries),
        estimate=sight.estimate,
        allowed=sight.allowed,
        logged=Logged(chosen, propensity, _law(sight.told, sight.allowed, chosen, propensity)),
        outcomes=_outcomes(kept),
        policies=Counter(str(e.get("policy") or e.get("policy_name") or "?") for e in entries),
        left_out=dict(left_out),
        fell_back=np.array([_fell_back(e) for e in entries], np.bool_),
    )


def _estimate(
    models: tuple[str, ...], tables: Mapping[str, FloatArray], entries: Sequence[Mapping[str, Any]]
) -> Estimate:
    features = [entry.get("features") or {} for entry in entries]
    novelty = [1.0 if f.get("novelty") is None else float(f["novelty"]) for f in features]
    return Estimate(
        models=models,
        quality=np.nan_to_num(tables["quality"]),
        quality_std=np.nan_to_num(tables["quality_std"]),
        cost=tables["cost"],
        latency=tables["latency"],
        novelty=np.array(novelty, np.float64),
    )


def _law(
    told: FloatArray, allowed: BoolArray, chosen: NDArray[np.intp], propensity: FloatArray
) -> FloatArray | None:
    """`[Q, M]` probability of every target; None where some decision does not tell.

    A certain choice tells without saying so: nothing else had a chance.
    """
    law = np.where(np.isfinite(told), told, 0.0)
    silent = (~np.isfinite(told) & allowed).any(axis=1)
    certain = np.flatnonzero(silent & (propensity == 1.0))
    law[certain] = 0.0
    law[certain, chosen[certain]] = 1.0
    return None if (silent & (propensity != 1.0)).any() else law


def _outcomes(kept: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, FloatArray]:
    found = {figure: np.full(len(kept), np.nan) for figure in ("quality", "cost", "latency")}
    for row, (place, entry) in enumerate(kept):
        outcome = entry.get("outcome") or {}
        quality = _number(place, "quality", entry.get("quality"))
        if not math.isnan(quality) and not 0.0 <= quality <= 1.0:
            raise OffPolicyError(f"{place}: quality is {quality}, expected a number from 0 to 1")
        found["quality"][row] = quality
        found["cost"][row] = _number(place, "cost_usd", outcome.get("cost_usd"))
        # How long a failure took is not how long an answer takes.
        if outcome.get("status", "ok") == "ok":
            found["latency"][row] = _number(place, "latency_s", outcome.get("latency_s"))
    return found


def _fell_back(entry: Mapping[str, Any]) -> bool:
    served = (entry.get("outcome") or {}).get("target")
    return served is not None and served != entry["target"]


def _candidates(place: str, entry: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found = entry["candidates"]
    if not isinstance(found, list) or not all(isinstance(c, Mapping) for c in found) or not found:
        raise OffPolicyError(f"{place}: candidates must be a list of targets with their figures")
    return found


def _target(place: str, candidate: Mapping[str, Any]) -> str:
    if not isinstance(candidate.get("target"), str):
        raise OffPolicyError(f"{place}: a candidate without a target")
    return str(candidate["target"])


def _number(place: str, key: str, value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OffPolicyError(f"{place}: {key} is {value!r}, expected a number")
    return float(value)
