"""HyPER: which instances of a preference data set are worth a human annotator.

Routes an instance (a prompt and two answers) to a human or to a language model as annotator, before
it is annotated, on features of the texts. Paper: Miranda et al., Hybrid Preferences: Learning to
Route Instances for Human vs. AI Feedback, arXiv 2410.19133.

    runs: sets S_r of instances labelled by humans, the rest by the model, each with the metric y_r
    of a reward model trained on these labels;  f: n(S) -> y by `SetOutcome`;  n(S)_j counts the
    instances of S with feature j
    gain of an instance:  g_i = f(phi_i) - f(0)   (for a linear f: sum_j w_j phi_ij)
    topk          the best B by gain
    simulated     500 random mixes of size B, the one with the best predicted metric
    optimal_pos   all with g_i > 0
    optimal_grad  all with g_i > epsilon (1e-4 linear, 1e-5 otherwise)

The metric is the one that matters in the end, not the agreement of labels. Any two sources of
labels will do where one is dear and the other cheap.

Ours: shares instead of counts, half-open bins, ridge with a cross-validated penalty where the
quadratic form is under-determined, the gain at a reference mix as an alternative to the published
one (`reference`), and ties by a digest of the id, so that the order of the instances is without
effect. Gains are per instance times the size of the data set, so that epsilon keeps its meaning.

Shape letters: N instances, J features, R runs, B budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from wye.query.base import BoolArray, FloatArray, NotFittedError, RouterError
from wye.query.learning.preference_features import InstanceFeatures
from wye.query.learning.set_outcome import Kind, Regressor, SetOutcome, shares_of
from wye.query.stored_system import StoredSystem

if TYPE_CHECKING:
    from wye.core import Plan

STRATEGIES = ("topk", "simulated", "optimal_pos", "optimal_grad")
CHEAP, DEAR = 0, 1
EPSILON = {"linear": 1e-4, "quadratic": 1e-5}
Strategy = Literal["topk", "simulated", "optimal_pos", "optimal_grad"]


class AnnotatorRouter(StoredSystem):
    """Sends the instances to a human from which the end metric gains most.

    Args:
        outcome: `linear`, `quadratic`, or a regressor with `fit` and `predict`.
        strategy: `topk`, `simulated`, `optimal_pos` or `optimal_grad`.
        reference: share of the instances in the mix at which gains are taken, from 0 (the empty
            mix, as published) to 1; of a mix that is composed as the whole data set.
        draws: mixes that `simulated` draws.
        epsilon: least gain of `optimal_grad`; as published for None.
        seed: of the draws.

    Attributes:
        outcome_: the fitted `SetOutcome`.
        names_: J features that it was fitted on.

    Raises:
        RouterError: an unknown strategy or form, or a number out of range.
    """

    name = "hybrid-preferences"

    def __init__(
        self,
        *,
        outcome: Kind | Regressor = "quadratic",
        strategy: Strategy = "topk",
        reference: float = 0.0,
        draws: int = 500,
        epsilon: float | None = None,
        seed: int = 0,
    ) -> None:
        if strategy not in STRATEGIES:
            raise RouterError(f"strategy is {strategy!r}, expected one of {list(STRATEGIES)}")
        if not 0.0 <= reference <= 1.0 or draws < 1:
            raise RouterError(
                f"reference is {reference} and draws {draws}, expected a share from 0 to 1 and at "
                "least one draw"
            )
        SetOutcome(outcome)
        self.outcome = outcome
        self.strategy = strategy
        self.reference = reference
        self.draws = draws
        self.epsilon = epsilon
        self.seed = seed

    def propose_runs(self, features: InstanceFeatures, n_runs: int) -> list[frozenset[str]]:
        """Sets of instances to label by humans and train on, of different size and composition.

        Budgets are drawn without replacement from 1..N while there are enough; each set is filled
        feature by feature in random order (`knapsack`).

        Raises:
            RouterError: no instances, or `n_runs` below 1.
        """
        if not len(features) or n_runs < 1:
            raise RouterError(f"{n_runs} runs of {len(features)} instances, expected at least 1")
        generator = np.random.default_rng(self.seed)
        order = _canonical(features.ids)
        n = len(features)
        sizes = generator.choice(n, n_runs, replace=n_runs > n) + 1
        active = features.active[order]
        sets = [knapsack(active, int(size), generator) for size in sizes]
        return [frozenset(features.ids[order[i]] for i in rows) for rows in sets]

    def fit(
        self, features: InstanceFeatures, runs: Sequence[tuple[Iterable[str], float]]
    ) -> AnnotatorRouter:
        """Learn from runs: which ids were labelled by humans, and the metric that came out.

        Raises:
            RouterError: fewer than two runs, an unknown id, or a metric that is not finite.
        """
        row = {i: r for r, i in enumerate(features.ids)}
        sets = [_rows(row, chosen) for chosen, _ in runs]
        metric = np.array([m for _, m in runs], np.float64)
        self.outcome_ = SetOutcome(self.outcome).fit(shares_of(features.active, sets), metric)
        self.names_ = features.names
        return self

    def predict(self, features: InstanceFeatures, chosen: Iterable[str]) -> float:
        """Expected metric when humans label the `chosen` ids and the model all others."""
        self._check(features)
        rows = _rows({i: r for r, i in enumerate(features.ids)}, chosen)
        return float(self.outcome_.predict(shares_of(features.active, [rows]))[0])

    def gains(self, features: InstanceFeatures) -> FloatArray:
        """`[N]` by how much the metric rises with each instance, times N.

        For a linear form the predicted metric of a set is the intercept plus the mean over all N of
        the gains of its members.
        """
        self._check(features)
        mix = self.reference * features.active.mean(axis=0)
        gain = self.outcome_.gains(features.active, len(features), mix)
        return np.asarray(len(features) * gain, np.float64)

    def explain(self, features: InstanceFeatures, instance: str) -> dict[str, float]:
        """What each active feature adds to the gain of one instance: the gain without it, less.

        Raises:
            RouterError: no such instance.
        """
        self._check(features)
        at = _rows({i: r for r, i in enumerate(features.ids)}, [instance])[0]
        on = np.flatnonzero(features.active[at])
        variants = np.repeat(features.active[at][None], on.size + 1, axis=0)
        variants[np.arange(on.size) + 1, on] = False
        mix = self.reference * features.active.mean(axis=0)
        gain = len(features) * self.outcome_.gains(variants, len(features), mix)
        return {features.names[j]: float(gain[0] - gain[k + 1]) for k, j in enumerate(on.tolist())}

    def choose(
        self, features: InstanceFeatures, budget: float | int | None = None
    ) -> frozenset[str]:
        """Ids that go to humans.

        Args:
            features: of N instances; no labels are needed.
            budget: how many at most (an integer), or which share of all (a float from 0 to 1); with
                `topk` and `simulated` exactly so many. None: as many as are worth it.

        Raises:
            RouterError: a budget out of range, `topk` without one, or features that were not
                fitted.
        """
        self._check(features)
        most = None if budget is None else _count(budget, len(features))
        order = _canonical(features.ids)
        if self.strategy == "simulated":
            rows = self._simulated(features.active[order], most)
            return frozenset(features.ids[order[i]] for i in rows)
        # Rounded, since the order of a sum differs from machine to machine.
        gain = np.round(self.gains(features)[order], 10)
        ranked = order[np.argsort(-gain, kind="stable")]
        if self.strategy == "topk":
            if most is None:
                raise RouterError("topk needs a budget; optimal_pos and optimal_grad do not")
            return frozenset(features.ids[i] for i in ranked[:most])
        least = 0.0 if self.strategy == "optimal_pos" else self._epsilon()
        worth = int((gain > least).sum())
        kept = worth if most is None else min(worth, most)
        return frozenset(features.ids[i] for i in ranked[:kept])

    def plan(self, features: InstanceFeatures, budget: float | int | None = None) -> Plan:
        """Who annotates what: N sources, targets 0 (the model) and 1 (humans); see `choose`."""
        from wye.core import Plan

        chosen = self.choose(features, budget)
        n = len(features)
        return Plan(
            source=np.arange(n),
            target=np.array([DEAR if i in chosen else CHEAP for i in features.ids], np.intp),
            weight=np.ones(n),
            n_sources=n,
            n_targets=2,
        )

    def get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """The fitted form and its features.

        Raises:
            NotFittedError: before `fit`.
            RouterError: the outcome is a regressor from elsewhere.
        """
        self._require_fitted()
        arrays, values = self.outcome_.get_state()
        return arrays, {"outcome": values, "features": list(self.names_)}

    def set_state(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Restore what `get_state` returned."""
        self.outcome_ = SetOutcome(self.outcome)
        self.outcome_.set_state(arrays, values["outcome"])
        self.names_ = tuple(values["features"])

    def _simulated(self, active: BoolArray, most: int | None) -> list[int]:
        generator = np.random.default_rng(self.seed)
        n = len(active)
        drawn = generator.integers(n + 1, size=self.draws).tolist()
        sizes = drawn if most is None else [most] * self.draws
        sets = [knapsack(active, int(size), generator) for size in sizes]
        best = int(self.outcome_.predict(shares_of(active, sets)).argmax())
        return [int(i) for i in sets[best]]

    def _epsilon(self) -> float:
        if self.epsilon is not None:
            return self.epsilon
        return EPSILON.get(self.outcome, 1e-5) if isinstance(self.outcome, str) else 1e-5

    def _require_fitted(self) -> None:
        if not hasattr(self, "outcome_"):
            raise NotFittedError("the router is not fitted; call fit(features, runs) first")

    def _check(self, features: InstanceFeatures) -> None:
        self._require_fitted()
        if features.names != self.names_:
            odd = sorted(set(features.names) ^ set(self.names_))
            raise RouterError(f"the features differ from those of the runs: {odd[:6]}")


def knapsack(active: BoolArray, size: int, generator: np.random.Generator) -> NDArray[np.intp]:
    """`size` rows of instances `[N, J]`, filled feature by feature in random order.

    Mixes that are filled so differ in composition and not in size alone. Instances without any
    feature come last.
    """
    taken = np.zeros(len(active), np.bool_)
    chosen: list[NDArray[np.intp]] = []
    left = min(size, len(active))
    for j in [*generator.permutation(active.shape[1]).tolist(), None]:
        if left <= 0:
            break
        there = ~taken if j is None else active[:, j] & ~taken
        fresh = generator.permutation(np.flatnonzero(there))[:left]
        taken[fresh] = True
        chosen.append(fresh)
        left -= fresh.size
    return np.concatenate(chosen) if chosen else np.zeros(0, np.intp)


def _canonical(ids: Sequence[str]) -> NDArray[np.intp]:
    """An order of the instances that depends on their ids alone, and not on their meaning."""
    digests = [sha256(i.encode()).hexdigest() for i in ids]
    return np.array(sorted(range(len(ids)), key=digests.__getitem__), np.intp)


def _rows(row: Mapping[str, int], chosen: Iterable[str]) -> NDArray[np.intp]:
    listed = list(chosen)
    unknown = sorted(i for i in listed if i not in row)
    if unknown:
        raise RouterError(f"unknown instances {unknown[:5]} ({len(unknown)} in all)")
    return np.array(sorted({row[i] for i in listed}), np.intp)


def _count(budget: Any, n: int) -> int:
    if isinstance(budget, bool) or not isinstance(budget, int | float):
        raise RouterError(f"budget is {budget!r}, expected a share or a number of instances")
    if isinstance(budget, float):
        if not 0.0 <= budget <= 1.0:
            raise RouterError(f"budget is the share {budget}, expected 0 to 1")
        return round(budget * n)
    if budget < 0:
        raise RouterError(f"budget is {budget} instances, expected 0 or more")
    return min(budget, n)
