"""What another policy, or another router, would have cost and reached on logged traffic.

Quality, cost and latency are each evaluated on the decisions where they are known, as if those had
been drawn at random from the traffic: where feedback is given more readily for some answers than
for others, no weight can mend it, and a warning says so where it shows.

Shape letters: Q decisions, M targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.gateway.logged_traffic import Traffic
from wye.query.base import Estimate, FloatArray, QueryRouter
from wye.query.off_policy import (
    Evaluation,
    OffPolicyError,
    cross_fitted_direct,
    evaluate,
)
from wye.query.off_policy.intervals import Bounds
from wye.query.policy import Policy, PolicyError

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from wye.data import RoutingData
    from wye.query.base import BoolArray

FOLDS = 5
# Quality is 0 to 1; money and time have no upper end.
BOUNDS: Mapping[str, Bounds] = {
    "quality": (0.0, 1.0),
    "cost": (0.0, np.inf),
    "latency": (0.0, np.inf),
}
# What is known of one target's answers rather than of another's by chance, once in a thousand logs.
_UNEVEN_P, _UNEVEN_SHARE = 1e-3, 0.05
Direct = Callable[[str], FloatArray | None]


@dataclass(frozen=True)
class Replay:
    """A policy on logged traffic.

    Attributes:
        log: name of the log.
        policy: what was evaluated.
        logged_policies: how many decisions each logged policy made.
        decisions: Q.
        left_out: decisions not evaluated on, by the reason.
        shares: of the targets: share of decisions in the log, and under the policy.
        figures: the evaluation of `quality`, `cost` and `latency`.
        silent: why there is no evaluation of a figure, by its name.
        notes: sentences that concern all of it.
    """

    log: str
    policy: str
    logged_policies: Mapping[str, int]
    decisions: int
    left_out: Mapping[str, int]
    shares: Mapping[str, tuple[float, float]]
    figures: Mapping[str, Evaluation]
    silent: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What it comes to, in words."""
        from wye.gateway.replay_view import verdict

        return verdict(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return {
            "log": self.log,
            "policy": self.policy,
            "logged_policies": dict(self.logged_policies),
            "decisions": self.decisions,
            "left_out": dict(self.left_out),
            "shares": {
                name: {"logged": before, "policy": after}
                for name, (before, after) in self.shares.items()
            },
            "figures": {name: found.to_dict() for name, found in self.figures.items()},
            "silent": dict(self.silent),
            "notes": list(self.notes),
            "verdict": self.verdict,
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from wye.gateway.replay_view import as_screen

        yield from as_screen(self)


def replay(
    traffic: Traffic,
    policy: Policy,
    *,
    router: QueryRouter | None = None,
    columns: Mapping[str, str] | None = None,
    direct: str = "logged",
    embedder: str = "static",
    level: float = 0.95,
    max_weight: float | None = None,
    most_unsupported: float | None = None,
    seed: int = 0,
) -> Replay:
    """Evaluate `policy` on `traffic`.

    Args:
        traffic: logged decisions.
        policy: the rule to evaluate; one that keeps account of its own choices cannot be.
        router: whose estimates the rule sees instead of the logged ones. Targets that it does not
            know keep theirs, as in the gateway. Questions that it learned from are left out.
        columns: the router's name of each target that it knows (`estimates.known_columns`); by the
            target's own name when None.
        direct: of the doubly robust estimate: `logged` estimates brought to the level of other
            folds' outcomes; the name of a router, fitted on the log fold by fold; or `none`.
        embedder: of that router.
        level: nominal coverage of the intervals.
        max_weight: cap on a weight; None for none.
        most_unsupported: share of the policy's choices without support that is tolerated; as in
            `evaluate` when None.
        seed: of the folds and of that router.

    Raises:
        OffPolicyError: the log cannot speak for this policy; the message says why.
        PolicyError: the policy cannot choose, or does not tell its probabilities.
        RouterError: the router cannot estimate the texts.
    """
    notes: list[str] = []
    if router is not None:
        traffic, notes = _new_to(router, traffic)
    if traffic.fell_back.any():
        notes.append(
            f"{int(traffic.fell_back.sum())} decisions were answered by another target than was "
            "chosen; what came of them counts for the choice"
        )
    estimate = traffic.estimate if router is None else _of_router(traffic, router, columns)
    target = _probabilities(policy, estimate, traffic)
    expected = _direct(traffic, direct, embedder, seed)
    figures, silent = {}, {}
    options: dict[str, Any] = {"level": level, "max_weight": max_weight}
    if most_unsupported is not None:
        options["most_unsupported"] = most_unsupported
    for name, outcome in traffic.outcomes.items():
        known = np.isfinite(outcome)
        if known.sum() < 2:
            silent[name] = f"known of {int(known.sum())} of {len(traffic)} decisions"
            continue
        guess = expected(name)
        found = evaluate(
            traffic.logged.take(known),
            target[known],
            outcome[known],
            direct=None if guess is None else guess[known],
            bounds=BOUNDS[name],
            **options,
        )
        more = _uneven(name, known, traffic)
        figures[name] = replace(found, warnings=(*found.warnings, *more))
    if not figures:
        raise OffPolicyError(
            f"{traffic.name} holds no known quality, cost or latency; give feedback, or set prices"
        )
    before = np.bincount(traffic.logged.chosen, minlength=target.shape[1]) / len(traffic)
    after = target.mean(axis=0)
    described = policy.describe() if router is None else f"{router.name} under {policy.describe()}"
    return Replay(
        log=traffic.name,
        policy=described,
        logged_policies=traffic.policies,
        decisions=len(traffic),
        left_out=traffic.left_out,
        shares={
            name: (float(before[m]), float(after[m])) for m, name in enumerate(estimate.models)
        },
        figures=figures,
        silent=silent,
        notes=tuple(notes),
    )


def _probabilities(policy: Policy, estimate: Estimate, traffic: Traffic) -> FloatArray:
    """`[Q, M]`; where a figure that the policy needs is unknown, it chooses among the others."""
    allowed = traffic.allowed
    failed: PolicyError | None = None
    for unknown in (None, "cost", "latency"):
        if unknown is not None:
            allowed = allowed & np.isfinite(getattr(estimate, unknown))
        try:
            return policy.probabilities(estimate, allowed=allowed)
        except PolicyError as error:
            failed = failed or error
    assert failed is not None
    raise failed


def _new_to(router: QueryRouter, traffic: Traffic) -> tuple[Traffic, list[str]]:
    """The decisions that may judge `router`, and what was left out, in words.

    A router would be praised for knowing answers that it learned from.
    """
    from wye.query.learning.seen import seen

    with_text = np.array([bool(t and t.strip()) for t in traffic.texts])
    if not with_text.any():
        raise OffPolicyError(
            f"{traffic.name} holds no texts, which another router needs; set store_prompts = true "
            "under [store] in wye.toml and replay what is logged then"
        )
    learned = seen(router, [t or "" for t in traffic.texts]) & with_text
    kept = with_text & ~learned
    if not kept.any():
        raise OffPolicyError(
            f"the router {router.name} learned from every question of {traffic.name}, which would "
            "judge itself; replay a log that came after its training"
        )
    notes = []
    if not with_text.all():
        n = int((~with_text).sum())
        notes.append(f"{n} decisions are left out, since their text was not kept")
    if learned.any():
        notes.append(
            f"{int(learned.sum())} decisions are left out, since the router {router.name} learned "
            "from their questions"
        )
    if router.learned_from_ is None:
        notes.append(
            f"the router {router.name} does not say which questions it learned from; if it learned "
            "from these, the figures praise it too much"
        )
    return traffic.take(kept), notes


def _of_router(
    traffic: Traffic, router: QueryRouter, columns: Mapping[str, str] | None
) -> Estimate:
    """What `router` expects of the targets that it knows, beside what was logged of the others."""
    logged = traffic.estimate
    known = columns or {m: m for m in logged.models if m in router.models_}
    if not any(m in known for m in logged.models):
        raise OffPolicyError(
            f"the router {router.name} knows {list(router.models_)}, none of the log's targets "
            f"{list(logged.models)}; with --config the names of wye.toml connect them"
        )
    learned = router.estimate([t for t in traffic.texts if t is not None])
    tables = {
        figure: getattr(logged, figure).copy()
        for figure in ("quality", "quality_std", "cost", "latency")
    }
    for column, target in enumerate(logged.models):
        if target in known:
            source = learned.models.index(known[target])
            for figure, table in tables.items():
                told = getattr(learned, figure)[:, source]
                table[:, column] = np.where(np.isfinite(told), told, table[:, column])
    return Estimate(
        models=logged.models,
        novelty=learned.novelty,
        router_cost=learned.router_cost,
        router_seconds=learned.router_seconds,
        **tables,
    )


def _direct(traffic: Traffic, kind: str, embedder: str, seed: int) -> Direct:
    """The direct method of each figure; None where there is none."""
    from wye.data.questions import folds_by_question

    if kind == "none":
        return lambda figure: None
    parts = folds_by_question(traffic.questions, FOLDS, seed=seed)
    chosen = traffic.logged.chosen
    fitted = None if kind == "logged" else _cross_fitted(traffic, kind, embedder, seed)

    def direct(figure: str) -> FloatArray | None:
        if fitted is not None:
            table = np.asarray(getattr(fitted, figure), np.float64)
            return table if np.isfinite(table).all() else None
        outcome = traffic.outcomes[figure]
        known = np.isfinite(outcome)
        if np.unique(parts[known]).size < 2:
            return None
        made = np.full(traffic.estimate.quality.shape, np.nan)
        # No candidate of a decision: what stands for its quality there was never expected.
        raw = getattr(traffic.estimate, figure)
        expected = np.where(traffic.allowed, raw, np.nan)[known]
        made[known] = cross_fitted_direct(expected, chosen[known], outcome[known], parts[known])
        return made

    return direct


def _cross_fitted(traffic: Traffic, kind: str, embedder: str, seed: int) -> Estimate:
    """Estimates by routers called `kind` that had not seen the question."""
    import inspect

    from wye.query.cross_fit import cross_fit
    from wye.query.registry import get_router, router_class

    wanted: dict[str, Any] = {"embedder": embedder, "seed": seed}
    takes = inspect.signature(router_class(kind)).parameters
    params = {name: value for name, value in wanted.items() if name in takes}
    data = _as_data(traffic)
    made = cross_fit(lambda: get_router(kind, **params), data, folds=FOLDS, seed=seed)
    return made.estimate.restrict(traffic.estimate.models)


def _as_data(traffic: Traffic) -> RoutingData:
    import pandas as pd

    from wye.data import RoutingData

    if any(text is None for text in traffic.texts):
        raise OffPolicyError(
            f"some decisions of {traffic.name} have no text, which a fitted direct method needs; "
            "leave --direct out, or set store_prompts = true under [store] in wye.toml"
        )
    models = traffic.estimate.models
    queries = pd.DataFrame({"query_id": traffic.ids, "text": traffic.texts})
    outcomes = pd.DataFrame(
        {
            "query_id": traffic.ids,
            "model": [models[m] for m in traffic.logged.chosen],
            "quality": traffic.outcomes["quality"],
            "cost_usd": traffic.outcomes["cost"],
            "latency_s": traffic.outcomes["latency"],
        }
    ).dropna(subset=["quality"])
    return RoutingData(
        queries.assign(dataset="log", split="train"),
        outcomes.assign(input_tokens=None, output_tokens=None),
        pd.DataFrame({"model": models}),
        name=traffic.name,
    )


def _uneven(name: str, known: BoolArray, traffic: Traffic) -> list[str]:
    """A warning where `name` is known of one target's answers far more often than of another's."""
    from scipy.special import chdtrc

    if known.all():
        return []
    models = traffic.estimate.models
    asked = np.bincount(traffic.logged.chosen, minlength=len(models)).astype(np.float64)
    told = np.bincount(traffic.logged.chosen[known], minlength=len(models)).astype(np.float64)
    there = asked > 0
    share, overall = told[there] / asked[there], float(known.mean())
    statistic = (asked[there] * np.square(share - overall)).sum() / (overall * (1.0 - overall))
    uneven = chdtrc(max(int(there.sum()) - 1, 1), statistic) < _UNEVEN_P
    if not uneven or share.max() - share.min() < _UNEVEN_SHARE:
        return []
    names = np.array(models, dtype=object)[there]
    said = (
        f"{name} is known of {share.max():.0%} of what went to {names[share.argmax()]}, but of "
        f"{share.min():.0%} of what went to {names[share.argmin()]}; if that depends on the "
        "answer, the figures are off"
    )
    return [said]
