"""replay: another policy on a store that the real gateway's decisions were written to."""

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wye.data import RoutingData
from wye.errors import WyeError
from wye.gateway.config_file import parse_config
from wye.gateway.log_data import read_log
from wye.gateway.logged_traffic import read_traffic
from wye.gateway.openai_api import parse_chat
from wye.gateway.records import FeedbackRecord, OutcomeRecord
from wye.gateway.replay import BOUNDS, replay
from wye.gateway.reports import decision
from wye.gateway.router_service import RouterService
from wye.gateway.store import Store
from wye.query import load
from wye.query.learning.training import train
from wye.query.off_policy import OffPolicyError
from wye.query.policies import Quality

from .conftest import Wye

EXPLORING = """
[policies.exploring]
kind = "explore"
epsilon = 0.4
inner = { kind = "utility", cost_weight = 3000 }
"""
CERTAIN = """
[policies.certain]
kind = "quality"
"""
FIGURES = ("quality", "cost", "latency")


def config_text(policies: str, data: RoutingData) -> str:
    tables = [policies, "[router]\nseed = 3"]
    tables += [
        f'[[targets]]\nname = "{model}"\nkind = "openai"\nbase_url = "http://127.0.0.1:9/v1"'
        for model in data.model_names
    ]
    return "\n".join(tables)


def gateway_log(path: Path, data: RoutingData, router: Path, policies: str) -> tuple[Path, str]:
    """A store with a real decision, and the true outcome of its choice, for every question."""
    config = config_text(policies, data)
    service = RouterService(parse_config(config), load(router))
    name = next(iter(service.policies))
    store = Store(path, batch_seconds=0.05)
    quality, cost, latency = data.quality, data.cost, data.latency

    async def serve() -> None:
        for row, text in enumerate(data.texts):
            chat = parse_chat({"model": "wye", "messages": [{"role": "user", "content": text}]})
            expected = await service.expect(chat)
            if row % 10 == 9:
                store.add(service.direct(chat, expected, data.model_names[0]).record)
                continue
            routed = service.decide(chat, expected, name, {})
            model = data.model_names.index(str(routed.target))
            record = routed.record
            store.add(record)
            store.add(
                OutcomeRecord(
                    record.id, record.time, routed.target, "ok", 200,
                    cost_usd=cost[row, model], latency_s=latency[row, model],
                )
            )  # fmt: skip
            if row % 3:
                store.add(FeedbackRecord(record.id, record.time, quality[row, model]))

    asyncio.run(serve())
    store.close()
    assert store.health().lost == 0
    return path, config


@pytest.fixture(scope="module")
def data(small_data: Path) -> RoutingData:
    return RoutingData.read(small_data)


@pytest.fixture(scope="module")
def explored(
    data: RoutingData, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("explored")
    path, config = gateway_log(folder / "log.db", data, trained, EXPLORING)
    (folder / "wye.toml").write_text(config)
    return path, config


def test_another_policy_is_judged_with_intervals(
    wye: Wye, explored: tuple[Path, str], data: RoutingData
) -> None:
    ended = wye("replay", explored[0], "--policy", "quality", "--json")
    assert ended.code == 0, ended.err
    told = ended.json
    direct = len(data) // 10
    assert told["left_out"] == {"named their target": direct}
    assert told["decisions"] == len(data) - direct
    assert sum(s["policy"] for s in told["shares"].values()) == pytest.approx(1.0)
    for name in FIGURES:
        found, most = told["figures"][name], BOUNDS[name][1]
        for estimator in ("logged", "ips", "snips", "doubly_robust", "difference"):
            value = found[estimator]
            # What is unbiased may lie beyond all that is possible; an interval is cut to that.
            beyond = estimator in ("ips", "doubly_robust") and value["value"] >= most
            high = np.inf if beyond else value["high"]
            assert value["low"] < value["value"] < high, (name, estimator)
            assert value["low"] < value["high"] <= (np.inf if estimator == "difference" else most)
        assert found["supported_share"] == pytest.approx(1.0)
        # The gateway tells the probability of every target.
        assert not any("rest on the sample" in warning for warning in found["warnings"])
    assert told["figures"]["quality"]["rows"] < told["figures"]["cost"]["rows"]


def test_the_logged_policy_replays_to_its_own_mean(wye: Wye, explored: tuple[Path, str]) -> None:
    path, _ = explored
    told = wye(
        "replay", path, "--policy", "exploring", "--config", path.parent / "wye.toml", "--json"
    ).json
    for name in FIGURES:
        found = told["figures"][name]
        assert found["snips"]["value"] == pytest.approx(found["logged"]["value"])
        assert found["difference"]["value"] == pytest.approx(0.0, abs=1e-9)
        assert found["mean_weight"] == pytest.approx(1.0)
    assert "No difference in quality" in told["verdict"]
    spec = "explore:epsilon=0.4,inner=utility:cost_weight=3000"
    assert wye("replay", path, "--policy", spec, "--json").json["figures"] == told["figures"]


def test_the_screen_shows_every_estimator_and_a_verdict(
    wye: Wye, explored: tuple[Path, str]
) -> None:
    ended = wye("replay", explored[0], "--policy", "utility:cost_weight=10000")
    assert ended.code == 0, ended.err
    for word in (
        "logged policy", "IPS", "SNIPS", "doubly robust", "policy - logged", "effective size",
        "support", "named their target", "Cost: ",
    ):  # fmt: skip
        assert word in ended.out, word


def test_another_router_decides_by_its_own_estimates(
    wye: Wye, explored: tuple[Path, str], small_data: Path
) -> None:
    assert wye("train", small_data, "-o", "other", "--router", "constant").code == 0
    told = wye("replay", explored[0], "--router", "other", "--json").json
    assert told["policy"] == "constant under quality()"
    # A router that knows no question sends all to one target.
    assert sorted(s["policy"] for s in told["shares"].values())[-1] == 1.0


def test_no_router_is_judged_on_questions_that_it_learned_from(
    explored: tuple[Path, str],
) -> None:
    data = read_log(explored[0])
    learned = train(data.part("train"), "constant")
    traffic = read_traffic(explored[0])
    found = replay(traffic, Quality(), router=learned)
    judged = set(data.part("train").outcomes["query_id"])
    assert found.decisions <= len(traffic) - len(judged)
    assert any("learned from their questions" in note for note in found.notes)
    everything = train(data, "constant")
    answered = traffic.take(np.isin(traffic.ids, list(data.outcomes["query_id"])))
    with pytest.raises(OffPolicyError, match="judge itself"):
        replay(answered, Quality(), router=everything)


def test_a_fitted_direct_method_and_none_at_all(explored: tuple[Path, str]) -> None:
    traffic = read_traffic(explored[0])
    fitted = replay(traffic, Quality(), direct="constant").figures["quality"]
    assert fitted.doubly_robust is not None
    assert fitted.best is fitted.doubly_robust
    without = replay(traffic, Quality(), direct="none").figures["quality"]
    assert without.doubly_robust is None
    assert without.best is without.snips


def test_decisions_as_json_lines_give_the_same_figures(
    explored: tuple[Path, str], tmp_path: Path
) -> None:
    path, _ = explored
    store = Store(path)
    with store.engine.connect() as connection:
        ids = [i for (i,) in connection.exec_driver_sql("SELECT id FROM decisions ORDER BY id")]
    lines = [json.dumps(decision(store.engine, one)) for one in ids]
    store.close()
    for number, part in enumerate((lines[:100], lines[100:])):
        (tmp_path / f"{number}.jsonl").write_text("\n".join(part))
    read = replay(read_traffic(tmp_path), Quality()).to_dict()
    stored = replay(read_traffic(path), Quality()).to_dict()
    assert read["figures"] == stored["figures"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"level": 95.0}, "level=95.0"),
        ({"max_weight": 0.5}, "max_weight=0.5"),
        ({"direct": "clustr"}, "clustr"),
    ],
)
def test_options_out_of_range_are_refused(
    explored: tuple[Path, str], options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(WyeError, match=expected):
        replay(read_traffic(explored[0]), Quality(), **options)


def test_a_figure_known_of_some_targets_only_is_said_to_be_uneven(
    explored: tuple[Path, str],
) -> None:
    traffic = read_traffic(explored[0])
    quality = traffic.outcomes["quality"].copy()
    # Nobody judges what the most frequent target answers.
    quality[traffic.logged.chosen == np.bincount(traffic.logged.chosen).argmax()] = np.nan
    uneven = dataclasses.replace(traffic, outcomes={**traffic.outcomes, "quality": quality})
    found = replay(uneven, Quality()).figures["quality"]
    assert any("0% of what went to" in warning for warning in found.warnings)


def test_a_log_without_exploration_is_refused_in_words(
    wye: Wye, data: RoutingData, trained: Path, tmp_path: Path
) -> None:
    path, _ = gateway_log(tmp_path / "certain.db", data, trained, CERTAIN)
    ended = wye("replay", path, "--policy", "utility:cost_weight=10000")
    assert ended.code == 2
    assert "have no support" in ended.err
    assert "explore:epsilon" in ended.err
    assert ended.out == ""
    same = wye("replay", path, "--policy", "quality", "--json").json["figures"]["cost"]
    assert same["ips"]["value"] == same["logged"]["value"]


LINE = {
    "target": "a",
    "propensity": 0.5,
    "candidates": [
        {"target": name, "quality": 0.5, "quality_std": 0.1, "cost_usd": 1.0, "latency_s": None}
        for name in "ab"
    ],
    "outcome": {"status": "ok", "cost_usd": 1.0, "latency_s": 1.0},
}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([{**LINE, "propensity": None}], "propensities are missing"),
        ([{**LINE, "propensity": 0.0}], "0 or less"),
        ([{**LINE, "propensity": 1.5}], "above 1"),
        ([{**LINE, "target": "c"}], "no candidate"),
        ([{**LINE, "policy": "direct"}], "named their target"),
        ([{**LINE, "quality": 7}], "line 1: quality is 7.0"),
        ([{"text": "hello"}], "line 1: expected a decision"),
        ([{**LINE, "candidates": []}], "line 1: candidates"),
        (["no json"], "line 1"),
    ],
)
def test_a_log_that_cannot_be_used_is_refused_with_its_place(
    tmp_path: Path, lines: list[object], expected: str
) -> None:
    text = "\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines)
    log = tmp_path / "log.jsonl"
    log.write_text(text)
    with pytest.raises(OffPolicyError, match=expected):
        read_traffic(log)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("absent.db", "--policy", "quality"), "absent.db does not exist"),
        (("LOG",), "give --policy"),
        (("LOG", "--policy", "budget:total=1"), "account"),
    ],
)
def test_bad_words_get_one_sentence(
    wye: Wye, explored: tuple[Path, str], words: tuple[str, ...], expected: str
) -> None:
    given = [explored[0] if word == "LOG" else word for word in words]
    ended = wye("replay", *given)
    assert ended.code == 2
    assert expected in ended.err
    assert "Traceback" not in ended.err
