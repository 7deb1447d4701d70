"""Outcomes to time routers on: real English text, outcomes made by rule.

The text is Python's own manual, which every Python carries: each query is some words in a row of
one of its topics, which is the query's dataset, and each model knows some of the topics. Time
depends on sizes and on the length of the text, never on what the outcomes are.
"""

from __future__ import annotations

from pydoc_data.topics import topics

import numpy as np
import pandas as pd

from wye.data import RoutingData

SHORTEST, LONGEST = 12, 40


def made(n_queries: int, n_models: int, seed: int = 0) -> RoutingData:
    """Outcomes of `n_models` on `n_queries` of 12 to 40 words of the manual."""
    generator = np.random.default_rng(seed)
    names = sorted(topics)
    topic, texts = _passages(names, n_queries, generator)
    skill = generator.normal(0.0, 1.5, (len(names), n_models))
    chance = 1.0 / (1.0 + np.exp(-skill[topic]))
    quality = (generator.random(chance.shape) < chance).astype(float)
    rows, columns = np.divmod(np.arange(quality.size), n_models)
    ids = np.array([f"q{i}" for i in range(n_queries)], dtype=object)
    models = np.array([f"model-{m}" for m in range(n_models)], dtype=object)
    tokens = generator.integers(50, 500, quality.size)
    queries = pd.DataFrame(
        {
            "query_id": ids,
            "dataset": np.array(names, dtype=object)[topic],
            "text": texts,
            "split": "train",
        }
    )
    outcomes = pd.DataFrame(
        {
            "query_id": ids[rows],
            "model": models[columns],
            "quality": quality.ravel(),
            "cost_usd": tokens * (1.0 + columns) * 1e-6,
            "input_tokens": 25,
            "output_tokens": tokens,
            "latency_s": tokens * 0.01,
        }
    )
    prices = pd.DataFrame(
        {
            "model": models,
            "provider": "made",
            "price_in_per_mtok": 1.0,
            "price_out_per_mtok": 1.0,
            "params_b": 1.0,
            "context": 8192,
        }
    )
    return RoutingData(queries, outcomes, prices, "made")


def unseen(count: int, words: int, seed: int = 1) -> list[str]:
    """`count` texts of `words` words of the manual, drawn apart from those of `made`."""
    generator = np.random.default_rng([seed, words])
    spoken = " ".join(topics[name] for name in sorted(topics)).split()
    starts = generator.integers(len(spoken) - words, size=count)
    return [" ".join(spoken[start : start + words]) + "?" for start in starts.tolist()]


def _passages(
    names: list[str], count: int, generator: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """Topic of each of `count` passages, and the passages, numbered so that none occurs twice."""
    spoken = [topics[name].split() for name in names]
    size = np.array([len(words) for words in spoken])
    topic = generator.choice(len(names), count, p=size / size.sum())
    length = generator.integers(SHORTEST, LONGEST + 1, count)
    start = (generator.random(count) * np.maximum(size[topic] - length, 1)).astype(int)
    places = zip(topic.tolist(), start.tolist(), length.tolist(), strict=True)
    return topic, [
        f"{' '.join(spoken[which][first : first + n])} ({i})"
        for i, (which, first, n) in enumerate(places)
    ]
