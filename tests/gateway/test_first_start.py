"""`wye up`: a configuration, a router and a frontier from outcomes of the embedded strategies."""

from __future__ import annotations

import pandas as pd
import pytest

from wye.data import RoutingData
from wye.gateway.first_start import embedded_config, embedded_router, playground
from wye.gateway.pool import STRATEGIES

KINDS = {
    "sum": ("What is {i} + {i}?", {"tool", "majority"}),
    "fact": ("Name the capital of land number {i}.", {"retrieval"}),
    "easy": ("Say hello to person {i}.", set(STRATEGIES)),
}
COST = {name: 1e-6 * (rank + 1) for rank, name in enumerate(STRATEGIES)}


@pytest.fixture(scope="module")
def data() -> RoutingData:
    """Outcomes in which each kind of question has strategies that are right."""
    queries, outcomes = [], []
    for kind, (template, right) in KINDS.items():
        for i in range(60):
            query = {"query_id": f"{kind}{i}", "dataset": kind, "text": template.format(i=i)}
            queries.append({**query, "split": "test" if i % 4 == 0 else "train"})
            outcomes += [
                {
                    "query_id": query["query_id"],
                    "model": name,
                    "quality": float(name in right),
                    "cost_usd": COST[name],
                    "input_tokens": 10,
                    "output_tokens": 5,
                    "latency_s": 0.1,
                }
                for name in STRATEGIES
            ]
    models = pd.DataFrame({"model": list(STRATEGIES)}).assign(
        provider="embedded",
        price_in_per_mtok=0.01,
        price_out_per_mtok=0.02,
        params_b=0.135,
        context=2048,
    )
    return RoutingData(pd.DataFrame(queries), pd.DataFrame(outcomes), models, name="strategies")


def test_every_strategy_is_a_target_at_the_prices_of_the_outcomes(data):
    config = embedded_config(data)
    assert [t.name for t in config.targets] == list(STRATEGIES)
    assert {t.kind for t in config.targets} == {"embedded"}
    assert {(t.price_in_per_mtok, t.price_out_per_mtok) for t in config.targets} == {(0.01, 0.02)}
    assert all(t.description for t in config.targets)


def test_the_default_policy_weighs_the_dearest_against_the_cheapest(data):
    config = embedded_config(data)
    assert config.first_policy == "balanced"
    weight = config.policies["balanced"].params["cost_weight"]
    spread = max(COST.values()) - min(COST.values())
    assert weight * spread == pytest.approx(0.1, rel=0.05)


def test_the_baseline_is_the_best_single_strategy_of_the_outcomes(data):
    assert embedded_config(data).baseline in {"tool", "majority", "retrieval"}


def test_the_playground_shows_prompts_that_divide_the_strategies(data):
    prompts = {p["kind"]: p for p in playground(data)}
    assert set(prompts) == {"sum", "fact"}
    assert "right when measured: retrieval;" in prompts["fact"]["why"]
    test = set(data.part("test").texts)
    assert all(p["text"] in test for p in prompts.values())


def test_the_router_is_trained_once_and_then_read_from_the_cache(data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said: list[str] = []
    first = embedded_router(data, said.append, system="knn")
    assert len(said) == 1
    second = embedded_router(data, said.append, system="knn")
    assert len(said) == 1
    texts = ["What is 9 + 9?", "Name the capital of land number 99."]
    assert (first.router.estimate(texts).quality == second.router.estimate(texts).quality).all()
    assert first.frontier == second.frontier

    points = first.frontier["points"]
    singles = {p["label"]: p for p in points if p["kind"] == "single"}
    assert set(singles) == set(STRATEGIES)
    assert singles["direct"]["quality"] == pytest.approx(1 / 3)
    [oracle] = [p for p in points if p["kind"] == "oracle"]
    assert oracle["quality"] == 1.0
    best = max(p["quality"] for p in points if p["kind"] == "router")
    assert best > max(p["quality"] for p in singles.values())
    assert "45 questions" in first.frontier["note"]


def test_a_cache_that_cannot_be_read_is_made_anew(data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    embedded_router(data, lambda _: None, system="knn")
    [folder] = (tmp_path / "wye" / "routers").iterdir()
    for path in folder.iterdir():
        if path.suffix == ".json" and path.name != "frontier.json":
            path.write_text("{")
    said: list[str] = []
    assert embedded_router(data, said.append, system="knn").router.models_
    assert len(said) == 1
    again: list[str] = []
    embedded_router(data, again.append, system="knn")
    assert again == []
