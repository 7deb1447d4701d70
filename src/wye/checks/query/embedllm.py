"""EmbedLLM: factors of models and queries forecast correctness, and a new model joins from few
answers.

Paper: arXiv 2410.02223. Baselines of the paper, in the same run: kNN and each model's own mean.
Forecast accuracy is the share of pairs of query and model whose predicted quality falls on the
right side of one half. The join is against the same router trained with all answers of the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckError, CheckResult, Claim
from wye.checks.query.trials import Trial, averaged, described, trials

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.trials import Floats
    from wye.query.base import Estimate

ANSWERS = (50, 200)
JOINING = 3
MOST_LOSS = 0.01


def check(context: CheckContext) -> CheckResult:
    """Forecast accuracy against kNN, and the loss of joining from 50 and from 200 answers.

    Raises:
        CheckError: fewer than three models, so that leaving one out leaves nothing to route.
    """
    rows = [_trial(trial, context) for trial in trials(context)]
    figures = averaged(rows)
    factors = figures["accuracy factorisation"]
    claims = (
        Claim("accuracy - kNN", factors - figures["accuracy kNN"], ">=", 0.0),
        Claim("accuracy - model means", factors - figures["accuracy model means"], ">=", 0.0),
        *(Claim(f"loss from {n} answers", figures[f"loss from {n}"], "<=", MOST_LOSS)
          for n in ANSWERS),
    )  # fmt: skip
    what = (
        "Forecast accuracy of the factorisation, and the quality of routing that is lost when one "
        f"of {JOINING} models joins from few answers instead of being trained on."
    )
    return CheckResult(claims, figures, context.seeds, described(context, what))


def _trial(trial: Trial, context: CheckContext) -> dict[str, float]:
    from wye.query.factorisation import FactorisationRouter
    from wye.query.knn import KNNRouter

    names = trial.train.model_names
    if len(names) < 3:
        raise CheckError(f"{trial.train.name} has {len(names)} models; one joins two or more")
    whole = FactorisationRouter(seed=trial.seed).fit(trial.train).estimate(trial.test.texts)
    knn = KNNRouter(seed=trial.seed).fit(trial.train).estimate(trial.test.texts)
    means = np.broadcast_to(trial.train.quality.mean(axis=0), trial.quality.shape)
    row = {
        "accuracy factorisation": _accuracy(whole.quality, trial.quality),
        "accuracy kNN": _accuracy(knn.quality, trial.quality),
        "accuracy model means": _accuracy(means, trial.quality),
        "routed, trained": trial.routed(whole),
        "best single": trial.best_single,
    }
    generator = np.random.default_rng(trial.seed)
    others = generator.permutation([m for m in range(len(names)) if m != trial.best])
    losses: dict[int, list[float]] = {n: [] for n in ANSWERS}
    # The best model joins too: it is the one whose loss would hurt most.
    for column in [trial.best, *others[: JOINING - 1]]:
        context.progress(f"seed {trial.seed}, {names[column]} joins")
        for n, estimate in _joined(trial, int(column), generator).items():
            losses[n].append(row["routed, trained"] - trial.routed(estimate.restrict(names)))
    return row | {f"loss from {n}": float(np.mean(lost)) for n, lost in losses.items()}


def _joined(trial: Trial, column: int, generator: np.random.Generator) -> dict[int, Estimate]:
    """Estimates of a router that model `column` joined from each number of answers."""
    from wye.query.factorisation import FactorisationRouter

    name = trial.train.model_names[column]
    router = FactorisationRouter(seed=trial.seed)
    router.fit(trial.train.with_models([m for m in trial.train.model_names if m != name]))
    order = generator.permutation(len(trial.train))
    measured = trial.train.quality[:, column]
    estimates = {}
    for n in ANSWERS:
        rows = order[: min(n, len(order))]
        router.add_model(name, [trial.train.texts[i] for i in rows], measured[rows].tolist())
        estimates[n] = router.estimate(trial.test.texts)
        router.remove_model(name)
    return estimates


def _accuracy(predicted: Floats, quality: Floats) -> float:
    return float(((predicted >= 0.5) == (quality >= 0.5)).mean())
