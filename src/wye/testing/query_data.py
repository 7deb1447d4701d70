"""Small sets of outcomes, made by rule, for trying routers on.

They are no benchmark: which model is right follows from the kind of question, so a router that
learns anything at all can be told from one that does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from wye.data import RoutingData
    from wye.query.learning.inputs import QueryInputs

_PLACES = ("France", "Peru", "Kenya", "Japan", "Norway", "Chile", "Egypt", "Canada", "India")
_KINDS = (
    ("geography", "What is the capital of {place} and which river flows through region {n}?"),
    ("sums", "Compute {n} + {m} * {k} and give the result as a number."),
    ("code", "def f{n}(x):\n    return x * {m} - {k}\nWrite a test for this Python function."),
)
_MODELS = ("generalist", "calculator", "coder", "weak")
# Chance that a model answers a kind of question well.
_SKILL = np.array([[0.9, 0.5, 0.5], [0.2, 0.95, 0.4], [0.3, 0.4, 0.95], [0.2, 0.2, 0.1]])
_PRICES = (3.0, 0.5, 1.0, 0.1)


def made_outcomes(n_queries: int = 120, *, seed: int = 0, density: float = 1.0) -> RoutingData:
    """Outcomes of four models on three kinds of questions.

    Args:
        n_queries: Q.
        seed: of the questions and the outcomes.
        density: share of the outcomes that are known; every query keeps one at least.
    """
    import pandas as pd

    from wye.data import RoutingData

    generator = np.random.default_rng(seed)
    kinds = generator.integers(len(_KINDS), size=n_queries)
    numbers = generator.integers(2, 999, size=(n_queries, 3))
    places = generator.choice(_PLACES, n_queries)
    texts = [
        _KINDS[kind][1].format(place=place, n=n, m=m, k=k)
        for kind, place, (n, m, k) in zip(kinds, places, numbers.tolist(), strict=True)
    ]
    quality = (generator.random((n_queries, len(_MODELS))) < _SKILL[:, kinds].T).astype(float)
    known = generator.random(quality.shape) < density
    known[np.arange(n_queries), generator.integers(len(_MODELS), size=n_queries)] = True
    rows, columns = np.nonzero(known)
    ids = np.array([f"q{i}" for i in range(n_queries)], dtype=object)
    tokens = np.array([len(t) // 4 for t in texts])
    prices = np.array(_PRICES)
    output = 20 + 10 * columns
    cost = (tokens[rows] + output) * prices[columns] / 1e6
    return RoutingData(
        queries=pd.DataFrame(
            {
                "query_id": ids,
                "dataset": [_KINDS[k][0] for k in kinds],
                "text": texts,
                "split": np.where(np.arange(n_queries) % 4 == 0, "test", "train"),
            }
        ),
        outcomes=pd.DataFrame(
            {
                "query_id": ids[rows],
                "model": [_MODELS[c] for c in columns],
                "quality": quality[rows, columns],
                "cost_usd": cost,
                "input_tokens": tokens[rows],
                "output_tokens": output,
                "latency_s": 0.1 + 0.01 * output,
            }
        ),
        models=pd.DataFrame(
            {
                "model": _MODELS,
                "provider": "made",
                "price_in_per_mtok": _PRICES,
                "price_out_per_mtok": _PRICES,
                "params_b": np.nan,
                "context": 8192,
            }
        ),
        name="made",
    )


def chance_of_success(data: RoutingData) -> NDArray[np.float64]:
    """`[Q, M]` the chances from which the outcomes of `made_outcomes` were drawn."""
    kinds = [kind for kind, _ in _KINDS]
    columns = [_MODELS.index(m) for m in data.model_names]
    rows = [kinds.index(d) for d in data.datasets]
    return np.asarray(_SKILL.T[np.ix_(rows, columns)], np.float64)


def made_inputs(
    vectors: NDArray[np.float64], *, n_models: int = 3, k: int = 8, dataset: str = ""
) -> QueryInputs:
    """Training inputs of an estimator from vectors alone: every query is a reference.

    Args:
        vectors: `[Q, D]`, of any length but zero; they are scaled to one.
        n_models: M, of unknown costs and sizes.
        k: neighbours of each query, itself left out.
        dataset: of all queries; by the sign of the first component when not given.
    """
    from wye.query.learning.inputs import Logged, QueryInputs, nearest

    n = len(vectors)
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    own = np.arange(n)
    named = np.where(unit[:, 0] > 0, "positive", "negative") if not dataset else [dataset] * n
    return QueryInputs(
        texts=("",) * n,
        vectors=unit,
        features=np.zeros((n, 1), np.float32),
        neighbours=nearest(unit, unit, k, exclude=own),
        reference=own,
        n_references=n,
        logged=Logged(
            datasets=np.asarray(named),
            cost=np.full((n, n_models), np.nan),
            names=tuple(f"model {m}" for m in range(n_models)),
            params_b=np.full(n_models, np.nan),
        ),
    )
