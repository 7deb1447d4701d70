"""The committed embedded set: large, varied, honest about who is right, and worth routing on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import wye.data
from wye.data import load_embedded, normalise, split_by_question
from wye.gateway.pool import STRATEGIES
from wye.gateway.pool import nearest as pool_tables

FOLDER = Path(wye.data.__file__).with_name("embedded")


@pytest.fixture(scope="module")
def data():
    return load_embedded()


def test_it_has_questions_enough_of_kinds_enough(data):
    assert len(data.queries) >= 1500
    assert data.queries["dataset"].nunique() >= 16
    assert data.queries["dataset"].value_counts().min() >= 50


def test_its_models_are_the_strategies_of_the_pool(data):
    assert data.model_names == tuple(STRATEGIES)


def test_every_strategy_answered_every_question(data):
    assert np.isin(data.quality, (0.0, 1.0)).all()
    assert np.isfinite(data.cost).all()
    assert np.isfinite(data.latency).all()


def test_no_question_occurs_twice_and_the_split_is_that_of_its_text(data):
    questions = [normalise(text) for text in data.texts]
    assert len(set(questions)) == len(questions)
    sides = split_by_question(data.texts, test_share=0.2, seed=0)
    assert list(data.queries["split"]) == list(sides)
    assert 0.15 < np.mean(sides == "test") < 0.25


def test_the_oracle_is_ten_points_above_the_best_strategy_in_both_parts(data):
    for part in (data, data.part("train"), data.part("test")):
        best = part.quality.mean(axis=0).max()
        assert part.quality.max(axis=1).mean() >= best + 0.10


def test_no_strategy_is_best_everywhere_and_each_is_alone_right_somewhere(data):
    right = pd.DataFrame(data.quality, columns=list(data.model_names))
    by_kind = right.groupby(data.datasets).mean()
    best = by_kind.eq(by_kind.max(axis=1), axis=0)
    assert best.mean().max() < 0.5
    alone = right[right.sum(axis=1) == 1].sum()
    assert (alone > 0).all()


def test_the_cheapest_strategy_is_right_on_a_good_share(data):
    cheapest = int(np.argmin(data.cost.mean(axis=0)))
    assert data.model_names[cheapest] == "direct"
    assert data.quality[:, cheapest].mean() >= 0.25


def test_the_strategies_really_differ_in_cost(data):
    cost = data.cost.mean(axis=0)
    assert cost.max() > 5 * cost.min()


def test_the_cost_is_the_price_of_all_tokens(data):
    priced = data.outcomes.merge(data.models, on="model")
    expected = (
        priced["input_tokens"] * priced["price_in_per_mtok"]
        + priced["output_tokens"] * priced["price_out_per_mtok"]
    ) / 1e6
    np.testing.assert_allclose(priced["cost_usd"], expected, rtol=1e-12)


def test_answers_and_their_confidence_are_kept(data):
    outcomes = data.outcomes
    assert outcomes["answer"].str.len().max() <= 120
    assert (outcomes["answer"].str.len() > 0).mean() > 0.99
    known = outcomes["confidence"].dropna()
    assert len(known) > 0.99 * len(outcomes)
    assert known.between(0, 1).all()


def test_right_answers_are_given_with_more_confidence(data):
    outcomes = data.outcomes.dropna(subset=["confidence"])
    mean = outcomes.groupby("quality")["confidence"].mean()
    assert mean[1.0] > mean[0.0]


def test_no_question_is_among_the_worked_examples(data):
    lines = (Path(pool_tables.__file__).with_name("tables") / "examples.jsonl").read_text("utf-8")
    shown = {normalise(json.loads(line)["question"]) for line in lines.splitlines()}
    assert not shown & {normalise(text) for text in data.texts}


def test_it_is_small_and_its_report_says_what_it_holds(data):
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 2e6
    text = (FOLDER / "README.md").read_text("utf-8")
    best = data.quality.mean(axis=0)
    name = data.model_names[int(np.argmax(best))]
    oracle = data.quality.max(axis=1).mean()
    assert f"{len(data.queries)} questions of {data.queries['dataset'].nunique()} kinds" in text
    assert f"best single strategy: {name}, right on {best.max():.1%}" in text
    assert f"oracle (any strategy right): {oracle:.1%}" in text
