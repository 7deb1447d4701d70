"""Two worlds: one in which the text says which model is right, and one in which it says nothing."""

import numpy as np
import pandas as pd
import pytest

from wye.data import RoutingData

PLACES = ("France", "Japan", "Peru", "Kenya", "Norway", "Chile", "Ghana", "Nepal")
MODELS = {"calculator": 1e-5, "atlas": 2e-5, "sage": 4e-4}
SKILL = {
    "sums": {"calculator": 0.95, "atlas": 0.15, "sage": 0.75},
    "capitals": {"calculator": 0.1, "atlas": 0.95, "sage": 0.75},
}


def world(*, readable: bool, queries: int = 500, seed: int = 0) -> RoutingData:
    """Bernoulli outcomes of three models on sums and capitals.

    With `readable`, skill follows the kind of question; without, a coin that the text does not
    show. An answer that is right comes with more confidence, and is shorter, than one that is not.
    """
    generator = np.random.default_rng(seed)
    rows, outcomes = [], []
    for i in range(queries):
        kind = "sums" if i % 2 else "capitals"
        text = (
            f"How much is {i} plus {generator.integers(2, 900)}?"
            if kind == "sums"
            else f"Name the capital city of {PLACES[i // 2 % 8]}, question {i}."
        )
        rows.append((f"q{i}", kind if readable else "mixed", text, "train"))
        shown = kind if readable else ("sums", "capitals")[generator.integers(2)]
        for model, cost in MODELS.items():
            right = float(generator.random() < SKILL[shown][model])
            confidence = np.clip(0.35 + 0.35 * right + 0.15 * generator.standard_normal(), 0, 1)
            tokens = int(generator.integers(5, 20) + (0 if right else generator.integers(0, 60)))
            outcomes.append((f"q{i}", model, right, cost, tokens, confidence))
    return RoutingData(
        pd.DataFrame(rows, columns=["query_id", "dataset", "text", "split"]),
        pd.DataFrame(
            outcomes,
            columns=["query_id", "model", "quality", "cost_usd", "output_tokens", "confidence"],
        ),
        pd.DataFrame({"model": list(MODELS)}),
        name="readable" if readable else "unreadable",
    )


@pytest.fixture(scope="session")
def readable() -> RoutingData:
    return world(readable=True)


@pytest.fixture(scope="session")
def unreadable() -> RoutingData:
    return world(readable=False)
