"""HyPER: are the instances that it gives to humans worth more than others of the same number?

Paper: arXiv 2410.19133. Real images with an exact metric: pairs of scikit-learn's digits, of which
the larger digit is preferred; half of the pairs are blurred. The human is right in 98% of the
pairs; the model's label is that of a classifier trained on 40 clean images. A reward model (one
hidden layer on the pixels, trained on 1,500 labels by Bradley and Terry's loss) is measured by its
share of right preferences on 2,000 clean pairs of other images. 120 proxy runs, human budget 25%.
Baselines in the same run: the model alone, humans alone, and 25% to humans at random (the paper's
control) and by the classifier's smallest margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wye.checks.base import CheckResult, Claim
from wye.checks.query.trials import averaged

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.checks.query.trials import Floats
    from wye.query.learning.preference_features import InstanceFeatures

ITEMS, TEST_PAIRS, WEAK_IMAGES, TRAIN_IMAGES = 1500, 2000, 40, 1000
RUNS, HELD_OUT_RUNS, BUDGET = 120, 24, 0.25
HUMAN_NOISE, BLUR = 0.02, 1.0
HIDDEN, EPOCHS, BATCH, RATE = 32, 15, 64, 3e-3
# Reward models behind each figure that is compared, trained from different starts.
REPEATS = 3
# Features whose linear weight is shown: the metric per share of all pairs that have it.
WEIGHT, TOP = "weight of: ", 5

Labels = NDArray[np.bool_]


def check(context: CheckContext) -> CheckResult:
    """Routed, random, uncertain, human and model labels, and the regressor on held-out mixes.

    Raises:
        RouterError: PyTorch is not installed.
    """
    rows = []
    for number, seed in enumerate(context.seeds, start=1):
        context.progress(f"seed {number} of {len(context.seeds)}")
        rows.append(_seed(seed, context))
    shared = set.intersection(*(set(row) for row in rows))
    figures = averaged([{k: v for k, v in row.items() if k in shared} for row in rows])
    weights = sorted((k for k in figures if k.startswith(WEIGHT)), key=lambda k: -figures[k])
    figures = {k: v for k, v in figures.items() if k not in weights[TOP:]}
    routed, random = figures["routed 25%, quadratic"], figures["random 25%"]
    gap = figures["human only"] - random
    claims = (
        Claim("routed 25% - random 25%", routed - random, ">=", 0.01),
        Claim("share of the gap to humans closed", (routed - random) / gap, ">=", 0.5),
        Claim("R2 on held-out mixes, quadratic", figures["R2, quadratic"], ">=", 0.3),
    )
    return CheckResult(
        claims,
        figures,
        context.seeds,
        f"{ITEMS} pairs of digits, {RUNS} proxy runs, each figure the mean of {REPEATS} reward "
        f"models on {TEST_PAIRS} clean pairs.",
    )


@dataclass(frozen=True)
class Pairs:
    """Pairs of images: pixels `[N, 2, 64]`, digits `[N, 2]`, and which pairs are blurred `[N]`."""

    pixels: Floats
    digits: NDArray[np.int64]
    blurred: Labels

    @property
    def truth(self) -> Labels:
        """`[N]` whether the first image is preferred."""
        return np.asarray(self.digits[:, 0] > self.digits[:, 1], np.bool_)


def _seed(seed: int, context: CheckContext) -> dict[str, float]:
    from sklearn.datasets import load_digits

    from wye.query.hybrid_preferences import AnnotatorRouter

    generator = np.random.default_rng(seed)
    loaded = load_digits()
    order = generator.permutation(len(loaded.target))
    images, digits = loaded.images[order] / 16.0, loaded.target[order]
    items = _pairs(images[:TRAIN_IMAGES], digits[:TRAIN_IMAGES], ITEMS, 0.5, generator)
    test = _pairs(images[TRAIN_IMAGES:], digits[TRAIN_IMAGES:], TEST_PAIRS, 0.0, generator)
    weak = _Weak(images[:WEAK_IMAGES].reshape(WEAK_IMAGES, -1), digits[:WEAK_IMAGES], items)
    human = items.truth ^ (generator.random(ITEMS) < HUMAN_NOISE)
    features = _features(items, weak)
    bench = _Bench(items, test, human, weak.label, seed)

    linear = AnnotatorRouter(outcome="linear", seed=seed)
    quadratic = AnnotatorRouter(outcome="quadratic", seed=seed)
    proposed = quadratic.propose_runs(features, RUNS)
    runs = []
    for number, chosen in enumerate(proposed, start=1):
        context.progress(f"seed {seed}: proxy run {number} of {RUNS}")
        runs.append((chosen, bench.metric(_mask(features, chosen), repeats=1)))
    figures = _regressors(features, runs)
    linear.fit(features, runs)
    quadratic.fit(features, runs)
    at_mix = AnnotatorRouter(outcome="quadratic", reference=BUDGET, seed=seed)
    simulated = AnnotatorRouter(outcome="quadratic", strategy="simulated", seed=seed)
    n = round(BUDGET * ITEMS)
    masks = {
        "LLM only": np.zeros(ITEMS, np.bool_),
        "human only": np.ones(ITEMS, np.bool_),
        "uncertain 25%": _first(np.argsort(weak.margin, kind="stable"), n),
        "routed 25%, quadratic": _mask(features, quadratic.choose(features, BUDGET)),
        "routed 25%, linear": _mask(features, linear.choose(features, BUDGET)),
        "routed 25%, quadratic at the mix": _mask(
            features, at_mix.fit(features, runs).choose(features, BUDGET)
        ),
        "routed 25%, simulated": _mask(
            features, simulated.fit(features, runs).choose(features, BUDGET)
        ),
    }
    figures |= {name: bench.metric(mask, repeats=REPEATS) for name, mask in masks.items()}
    # A random choice is a draw itself: as many draws as reward models.
    figures["random 25%"] = float(
        np.mean(
            [
                bench.metric(_first(generator.permutation(ITEMS), n), repeats=1, start=r)
                for r in range(REPEATS)
            ]
        )
    )
    figures["LLM labels right"] = float((weak.label == items.truth).mean())
    routed = masks["routed 25%, quadratic"]
    figures["LLM labels right among the routed"] = float((weak.label == items.truth)[routed].mean())
    weights = zip(features.names, linear.outcome_.coef_.tolist(), strict=True)
    return figures | {f"{WEIGHT}{name}": value for name, value in weights}


def _regressors(
    features: InstanceFeatures, runs: list[tuple[frozenset[str], float]]
) -> dict[str, float]:
    """Error of both forms on the last runs when fitted on the others; and of the mean."""
    from wye.query.hybrid_preferences import AnnotatorRouter

    seen, unseen = runs[:-HELD_OUT_RUNS], runs[-HELD_OUT_RUNS:]
    metric = np.array([y for _, y in unseen])
    spread = metric - np.mean([y for _, y in seen])
    figures = {"RMSE, mean": float(np.sqrt((spread**2).mean()))}
    for form in ("linear", "quadratic"):
        router = AnnotatorRouter(outcome=form).fit(features, seen)
        error = metric - np.array([router.predict(features, chosen) for chosen, _ in unseen])
        figures[f"RMSE, {form}"] = float(np.sqrt((error**2).mean()))
        figures[f"R2, {form}"] = float(1.0 - (error**2).sum() / (spread**2).sum())
    return figures


class _Bench:
    """Trains a reward model on mixed labels and measures it."""

    def __init__(self, items: Pairs, test: Pairs, human: Labels, model: Labels, seed: int) -> None:
        self.items, self.test = items, test
        self.human, self.model = human, model
        self.seed = seed

    def metric(self, by_human: Labels, *, repeats: int, start: int = 0) -> float:
        """Share of right preferences on the test pairs, mean over reward models."""
        labels = np.where(by_human, self.human, self.model)
        return float(np.mean([self._one(labels, start + r) for r in range(repeats)]))

    def _one(self, labels: Labels, repeat: int) -> float:
        from wye.query.learning.heads import require_torch, train_head

        torch = require_torch("the reward model")
        generator = np.random.default_rng((self.seed, repeat))
        pixels = torch.tensor(self.items.pixels, dtype=torch.float32)
        target = torch.tensor(labels, dtype=torch.float32)

        def loss(p, rows, _):  # type: ignore[no-untyped-def]
            hidden = torch.relu(pixels[rows] @ p["first"] + p["bias"])
            score = hidden @ p["second"]
            return torch.nn.functional.binary_cross_entropy_with_logits(
                score[:, 0] - score[:, 1], target[rows]
            )

        found = train_head(
            "the reward model",
            {
                "first": generator.normal(size=(64, HIDDEN)) / 8.0,
                "bias": np.zeros(HIDDEN),
                "second": generator.normal(size=HIDDEN) / np.sqrt(HIDDEN),
            },
            loss,
            len(labels),
            epochs=EPOCHS,
            batch=BATCH,
            learning_rate=RATE,
            seed=repeat,
        )
        hidden = np.maximum(self.test.pixels @ found["first"] + found["bias"], 0.0)
        score = hidden @ found["second"]
        return float(((score[:, 0] > score[:, 1]) == self.test.truth).mean())


class _Weak:
    """The classifier of a few clean images: its guesses, labels and margins on the items."""

    def __init__(self, images: Floats, digits: NDArray[np.int64], items: Pairs) -> None:
        from sklearn.linear_model import LogisticRegression

        fitted = LogisticRegression(max_iter=1000).fit(images, digits)
        chance = np.zeros((len(items.pixels), 2, 10))
        flat = fitted.predict_proba(items.pixels.reshape(-1, 64))
        chance[:, :, fitted.classes_] = flat.reshape(len(items.pixels), 2, -1)
        self.guess = chance.argmax(axis=2)
        expected = chance @ np.arange(10)
        # Equal guesses are told apart by the expected digit.
        first = self.guess[:, 0] - self.guess[:, 1] + 1e-3 * (expected[:, 0] - expected[:, 1])
        self.label: Labels = np.asarray(first > 0, np.bool_)
        self.margin: Floats = np.abs(expected[:, 0] - expected[:, 1])


def _features(items: Pairs, weak: _Weak) -> InstanceFeatures:
    """What is known before annotation: guessed digits, their difference, blur and ink."""
    from wye.query.learning.preference_features import (
        binned_features,
        percentile_ranks,
        tag_features,
    )

    ids = [f"pair {i}" for i in range(len(items.pixels))]
    difference = np.abs(weak.guess[:, 0] - weak.guess[:, 1])
    near = np.array(["same", "1 apart", "2 apart", "3 or more apart"])[np.minimum(difference, 3)]
    tags = {
        name: [
            f"first looks like {a}",
            f"second looks like {b}",
            f"guesses {how}",
            "blurred" if soft else "sharp",
        ]
        for name, (a, b), how, soft in zip(ids, weak.guess, near, items.blurred, strict=True)
    }
    ink = items.pixels.mean(axis=(1, 2))
    return tag_features(ids, tags).joined(binned_features(ids, {"ink": percentile_ranks(ink)}))


def _pairs(
    images: Floats, digits: NDArray[np.int64], n: int, share: float, generator: np.random.Generator
) -> Pairs:
    """`n` pairs of images of different digits, a `share` of them blurred."""
    from scipy.ndimage import gaussian_filter

    drawn = generator.integers(len(images), size=(4 * n, 2))
    drawn = drawn[digits[drawn[:, 0]] != digits[drawn[:, 1]]][:n]
    blurred = generator.random(n) < share
    soft = gaussian_filter(images, sigma=(0.0, BLUR, BLUR))
    chosen = np.where(blurred[:, None, None, None], soft[drawn], images[drawn])
    return Pairs(chosen.reshape(n, 2, 64), digits[drawn], blurred)


def _mask(features: InstanceFeatures, chosen: frozenset[str]) -> Labels:
    return np.array([i in chosen for i in features.ids], np.bool_)


def _first(order: NDArray[np.intp], n: int) -> Labels:
    mask = np.zeros(order.size, np.bool_)
    mask[order[:n]] = True
    return mask
