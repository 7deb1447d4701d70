"""What choosing a newcomer's questions is worth: `python bench/query/joining.py FOLDER`.

Each model of a set joins a factorisation router of the others, from 20 and from 40 answers to
training queries that are drawn at random or chosen (`suggest`, both criteria). Prints, over models
and seeds, on test queries: the error of the newcomer's forecast quality against its outcomes (mean
squared; lower is better), routed quality, and each difference from random with its standard error
over models, seeds averaged first.
"""

from __future__ import annotations

import argparse
import sys
import tempfile

import numpy as np

from wye.data import RoutingData, load_embedded
from wye.embed import CachedEmbedder, get_embedder
from wye.query import FactorisationRouter
from wye.query.learning.active import CRITERIA

ANSWERS = (20, 40)
DRAWS = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", default="embedded")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    data = load_embedded() if options.data == "embedded" else RoutingData.read(options.data)
    data = data.where(np.isfinite(data.quality).all(axis=1))
    rows: dict[tuple[str, int], list[list[tuple[float, float]]]] = {}
    with tempfile.TemporaryDirectory() as cache:
        embedder = CachedEmbedder(get_embedder("static"), cache)
        for seed in range(options.seeds):
            for name, answers, forecast, routed in run(data, embedder, seed):
                rows.setdefault((name, answers), [[] for _ in range(options.seeds)])
                rows[name, answers][seed].append((forecast, routed))
            print(f"seed {seed} done", file=sys.stderr, flush=True)
    # [seeds, models, 2] -> per model, averaged over the seeds.
    means = {key: np.array(values).mean(axis=0) for key, values in rows.items()}
    print(f"{data.name}: {len(data)} queries, {len(data.model_names)} models join in turn")
    for answers in ANSWERS:
        random = means["random", answers]
        for name in ("random", *CRITERIA):
            made = means[name, answers]
            gap = made - random
            error = gap.std(axis=0, ddof=1) / np.sqrt(len(gap))
            print(
                f"{answers} answers, {name:11s} forecast error {made[:, 0].mean():.4f} "
                f"({gap[:, 0].mean():+.4f} +- {error[0]:.4f}), routed quality "
                f"{made[:, 1].mean():.4f} ({gap[:, 1].mean():+.4f} +- {error[1]:.4f})"
            )
    whole = means["trained", 0]
    print(
        f"trained on all   forecast error {whole[:, 0].mean():.4f}, "
        f"routed quality {whole[:, 1].mean():.4f}"
    )
    return 0


def run(
    data: RoutingData, embedder: CachedEmbedder, seed: int
) -> list[tuple[str, int, float, float]]:
    """Every model joins; (way, answers, forecast error, routed quality) of each."""
    parts = data.split(test_share=0.3, seed=seed)
    train, test = parts.part("train"), parts.part("test")
    names = data.model_names
    generator = np.random.default_rng(seed)
    trained = FactorisationRouter(embedder=embedder, seed=seed).fit(train).estimate(test.texts)
    made = []
    for column, name in enumerate(names):
        router = FactorisationRouter(embedder=embedder, seed=seed)
        router.fit(train.with_models([m for m in names if m != name]))
        made.append(("trained", 0, *figures(trained.quality, test.quality, column)))
        for answers in ANSWERS:
            drawn = [
                joined(router, name, train, test, generator.permutation(len(train))[:answers])
                for _ in range(DRAWS)
            ]
            made.append(("random", answers, *np.mean(drawn, axis=0).tolist()))
            for criterion in CRITERIA:
                chosen = np.array(router.suggest(train.texts, answers, criterion=criterion))
                made.append((criterion, answers, *joined(router, name, train, test, chosen)))
    return made


def joined(
    router: FactorisationRouter,
    name: str,
    train: RoutingData,
    test: RoutingData,
    rows: np.ndarray,
) -> tuple[float, float]:
    """`figures` once the model has joined from its answers to `rows` of the training set."""
    column = train.model_names.index(name)
    measured = train.quality[rows, column]
    router.add_model(name, [train.texts[i] for i in rows.tolist()], measured.tolist())
    estimate = router.estimate(test.texts).restrict(train.model_names)
    router.remove_model(name)
    return figures(estimate.quality, test.quality, column)


def figures(estimate: np.ndarray, truth: np.ndarray, column: int) -> tuple[float, float]:
    """Forecast error of one model, and quality where each query goes to the best estimate."""
    error = float(((estimate[:, column] - truth[:, column]) ** 2).mean())
    routed = truth[np.arange(len(truth)), estimate.argmax(axis=1)].mean()
    return error, float(routed)


if __name__ == "__main__":
    sys.exit(main())
