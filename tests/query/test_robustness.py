"""Rewrites keep what is asked, attacks are found where words work, figures are counts."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from wye.query import ConstantRouter, Estimate, RouterError
from wye.query.policies import Budget, Utility
from wye.query.robustness import robustness
from wye.query.robustness.attacks import search, with_suffix
from wye.query.robustness.rewrites import REWRITES
from wye.testing import made_outcomes


class Gullible(ConstantRouter):
    """Expects the dear generalist to be right where a phrase stands, else the cheap weak model."""

    phrase = "best model"

    def estimate(self, texts: Sequence[str]) -> Estimate:
        made = super().estimate(texts)
        moved = np.array([self.phrase in t for t in texts])
        quality = np.zeros_like(made.quality)
        quality[:, made.models.index("weak")] = 0.5
        quality[moved, made.models.index("generalist")] = 0.9
        return Estimate(
            made.models, quality, made.quality_std, made.cost, made.latency, made.novelty
        )


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("contractions", "What is it? I do not know.", "What's it? I don't know."),
        ("contractions", "What's that?", "What is that?"),
        ("synonyms", "Find many letters", "Determine numerous characters"),
        ("clause order", "If it rains, what is wet?", "What is wet if it rains?"),
        ("clause order", "Ann has 3. Bob has 2. How many?", "How many? Ann has 3. Bob has 2."),
        ("clause order", "One sentence only?", "One sentence only?"),
    ],
)  # fmt: skip
def test_rules_do_what_they_say(name: str, text: str, expected: str) -> None:
    assert REWRITES[name](text, np.random.default_rng(0)) == expected


@pytest.mark.parametrize("name", ["politeness", "wrapper language"])
def test_wrappers_leave_the_text_whole(name: str) -> None:
    rng = np.random.default_rng(0)
    text = 'What does {x} in f"{x:>3}" do?'
    made = {REWRITES[name](text, rng) for _ in range(60)}
    assert len(made) > 4
    assert all(text in m and m != text for m in made)


def test_case_changes_nothing_but_case_and_typos_little() -> None:
    rng = np.random.default_rng(0)
    for text in made_outcomes(40).texts:
        assert REWRITES["case"](text, rng).lower() == text.lower()
        slipped = REWRITES["typos"](text, rng)
        words, others = text.split(), slipped.split()
        assert len(words) == len(others)
        differ = sum(a != b for a, b in zip(words, others, strict=True))
        assert differ <= max(1, round(0.1 * len(words)) + 1)
        assert [w[:1] for w in words] == [w[:1] for w in others]


@pytest.mark.parametrize("name", sorted(REWRITES))
def test_the_same_seed_rewrites_the_same_and_odd_texts_are_no_error(name: str) -> None:
    texts = ["", " \n", "¿Qué?", "x", "If , .", "a lone \ud800", "ab abcd"]
    one, other = (
        [REWRITES[name](t, rng) for t in texts]
        for rng in (np.random.default_rng(5), np.random.default_rng(5))
    )
    assert one == other


def test_search_is_greedy_and_stops_where_nothing_helps() -> None:
    worth = {"a": 1.0, "b": 0.6, "c": -1.0}

    def score(texts: list[str]) -> float:
        return sum(worth[w] for w in set(texts[0].split()) if w in worth)

    assert search(["q"], score, triggers=("c", "b", "a"), steps=4) == ("a", "b")
    assert search(["q"], lambda texts: 0.0, triggers=("a",)) == ()
    assert with_suffix(["q"], "a b") == ["q a b"]


def test_a_router_that_reads_nothing_is_moved_by_nothing() -> None:
    data = made_outcomes(60)
    report = robustness(ConstantRouter().fit(data), data, n_queries=20, bootstrap=50)
    for way in report.ways:
        if way.texts:
            assert way.unchanged.value == 1.0
            assert way.cost_ratio.value == pytest.approx(1.0)
            assert way.quality_change.value == 0.0
            assert way.dearer.value == 0.0
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_phrase_that_buys_the_dear_model_is_found_and_its_cost_told() -> None:
    data = made_outcomes(60)
    report = robustness(Gullible().fit(data), data, n_queries=24, bootstrap=50, steps=2)
    assert "best model" in report.suffix
    ways = {way.name: way for way in report.ways}
    found = ways["searched suffix"]
    assert found.texts == 12
    assert found.unchanged.value == 0.0
    assert found.dearer.value == 1.0
    cost = data.cost
    names = data.model_names
    rows = np.sort(np.random.default_rng(0).permutation(60)[:24])[1::2]
    spent = [cost[rows, names.index(m)].mean() for m in ("generalist", "weak")]
    assert found.cost_ratio.value == pytest.approx(spent[0] / spent[1])
    gained = data.quality[rows][:, [names.index("generalist"), names.index("weak")]].mean(axis=0)
    assert found.quality_change.value == pytest.approx(gained[0] - gained[1])
    assert ways["claims high stakes"].dearer.value == 1.0
    assert ways["noise"].unchanged.value == 1.0
    assert "raises what is spent" in report.words


def test_the_policy_decides_what_an_attack_can_buy() -> None:
    data = made_outcomes(60)
    stingy = Utility(cost_weight=1e6)
    report = robustness(
        Gullible().fit(data), data, policy=stingy, n_queries=16, bootstrap=20, steps=1
    )
    assert all(w.cost_ratio.value == pytest.approx(1.0) for w in report.ways if w.texts)


def test_figures_repeat_under_a_seed() -> None:
    data = made_outcomes(60)
    router = Gullible().fit(data)
    one, other = (
        robustness(router, data, n_queries=12, bootstrap=20, steps=1).to_dict() for _ in range(2)
    )
    assert one == other


def test_too_few_queries_and_a_policy_with_an_account_are_refused() -> None:
    data = made_outcomes(20)
    router = ConstantRouter().fit(data)
    with pytest.raises(RouterError, match="4 or more"):
        robustness(router, data, n_queries=3)
    with pytest.raises(RouterError, match="keeps account"):
        robustness(router, data, policy=Budget(total=1.0, horizon=10))
