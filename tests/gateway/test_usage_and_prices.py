"""Usage objects of several APIs, the price table, and prices in `wye.toml`."""

from __future__ import annotations

import tomllib
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.gateway.config_file import parse_config
from wye.gateway.money.prices import CONFIGURED, Prices, listed
from wye.gateway.money.usage import Usage, read_usage, usage_of

COUNTS = st.integers(0, 10**6)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
FIELDS = (
    "prompt_tokens",
    "completion_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
    "input_tokens",
    "output_tokens",
    "input_tokens_details",
    "output_tokens_details",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation",
)


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 32},
            },
            Usage(input=100, output=50, cached_input=64, reasoning=32),
        ),
        (
            {
                "input_tokens": 100,
                "output_tokens": 50,
                "input_tokens_details": {"cached_tokens": 64},
                "output_tokens_details": {"reasoning_tokens": 32},
            },
            Usage(input=100, output=50, cached_input=64, reasoning=32),
        ),
        (
            {
                "input_tokens": 10,
                "output_tokens": 50,
                "cache_read_input_tokens": 64,
                "cache_creation_input_tokens": 26,
                "cache_creation": {"ephemeral_5m_input_tokens": 6, "ephemeral_1h_input_tokens": 20},
            },
            Usage(100, 50, cached_input=64, cache_write=26, cache_write_1h=20),
        ),
        ({"prompt_tokens": 8, "total_tokens": 8}, Usage(input=8)),
        (
            {"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 4},
            Usage(9, 1, cached_input=4),
        ),
        ({"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": None}, Usage(9, 1)),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 1,
                "prompt_tokens_details": {"cached_tokens": 10},
            },
            Usage(9, 1, cached_input=9),
        ),
        ({"prompt_tokens": -1, "completion_tokens": 1}, None),
        ({"prompt_tokens": True, "completion_tokens": 1}, None),
        ({"prompt_tokens": 10**9, "completion_tokens": 1}, None),
        ({"prompt_tokens": 1, "completion_tokens": 2**60}, None),
        ({"completion_tokens": 1}, None),
    ],
)
def test_usage_is_read_as_each_api_counts_it(usage, read):
    assert read_usage(usage) == read


@given(st.dictionaries(st.sampled_from(FIELDS), COUNTS | ANYTHING))
def test_whatever_an_upstream_reports_the_parts_stay_within_the_whole(usage):
    found = usage_of({"usage": usage})
    if found is not None:
        assert 0 <= found.cached_input + found.cache_write <= found.input
        assert 0 <= found.cache_write_1h <= found.cache_write
        assert 0 <= found.reasoning <= found.output


@given(ANYTHING)
def test_what_is_no_usage_object_is_none(usage):
    found = usage_of({"usage": usage})
    assert found is None or isinstance(usage, dict)


PRICES = st.floats(0, 100)


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.tuples(PRICES, PRICES, PRICES, PRICES, PRICES))
def test_the_price_is_the_sum_over_kinds_of_tokens_and_never_above_the_most(
    fresh, cached, written, output, prices
):
    table = Prices(*prices)
    usage = Usage(fresh + cached + written, output, cached, written, written // 2)
    expected = fresh * prices[0] + output * prices[1] + cached * prices[2]
    expected += (written - written // 2) * prices[3] + (written // 2) * prices[4]
    assert table.price(usage) == pytest.approx(expected / 1e6)
    assert table.price(usage) <= table.most(usage.input, usage.output) * (1 + 1e-12)


@given(COUNTS, COUNTS, COUNTS)
def test_kinds_of_input_without_a_price_cost_as_fresh_input(fresh, cached, written):
    usage = Usage(fresh + cached + written, 0, cached, written, written)
    assert Prices(3.0, 9.0).price(usage) == pytest.approx(usage.input * 3.0 / 1e6)


def test_every_entry_of_the_table_says_where_and_when_and_is_plausible():
    text = files("wye.gateway.money").joinpath("prices.toml").read_text(encoding="utf-8")
    providers = tomllib.loads(text)["provider"]
    hosts = {n: p.get("hosts") for p in providers for m in p["model"] for n in m["names"]}
    assert len(hosts) > 30
    for name, places in hosts.items():
        found = listed(name, f"https://{places[0]}/v1" if places else None)
        assert found.source.startswith("https://")
        assert found.date.year >= 2025
        assert found.date.isoformat() in found.prices.origin
        prices = found.prices
        assert prices.output >= prices.input or found.max_output == 0
        assert prices.cached_input is None or prices.cached_input < prices.input
        assert prices.cache_write is None or prices.cache_write > prices.input
        if places:
            assert listed(name, "http://127.0.0.1:8000/v1") is None


def target(extra: str, url: str = "http://127.0.0.1:1/v1"):
    return parse_config(f'[[targets]]\nname = "t"\nbase_url = "{url}"\n{extra}').targets[0]


def test_a_target_without_prices_gets_those_of_its_model_in_the_table():
    known = target('model = "gpt-4o-mini"')
    assert known.price(Usage(1_000_000, 0)) == pytest.approx(0.15)
    assert known.price(Usage(1_000_000, 0, cached_input=1_000_000)) == pytest.approx(0.075)
    assert "openai.com" in known.prices.origin


def test_a_similar_name_gets_no_price():
    for name in ("gpt-4o-mini-2099-01-01", "GPT-4o-mini", "my/gpt-4o-mini", "gpt-4"):
        assert target(f'model = "{name}"').price(Usage(1, 1)) is None


def test_prices_of_open_models_hold_where_they_were_read_only():
    model = 'model = "llama-3.1-8b-instant"'
    assert target(model, "https://api.groq.com/openai/v1").price(Usage(10, 10)) > 0
    assert target(model).price(Usage(10, 10)) is None


def test_what_wye_toml_says_comes_first():
    own = target('model = "gpt-4o"\nprice_in_per_mtok = 1\nprice_out_per_mtok = 2')
    assert own.prices == Prices(1.0, 2.0, origin=CONFIGURED)
    part = target('model = "gpt-4o"\nprice_cached_per_mtok = 0.5')
    assert (part.prices.input, part.prices.cached_input) == (2.5, 0.5)
    assert part.prices.origin.startswith("wye.toml and wye's price table")
    assert target("price_in_per_mtok = 1").prices is None


def test_the_decision_says_where_the_prices_are_from(serve, world):
    targets = [
        {"name": "gpt-4o-mini", "base_url": world.base_url, "quality": 0.9},
        world.target("ok", quality=0.1),
    ]
    served = serve(targets=targets)
    decision = served.decision(served.ask())
    assert decision["target"] == "gpt-4o-mini"
    assert any("wye's price table" in reason for reason in decision["reasons"])
    cost = (11 * 0.15 + 6 * 0.6) / 1e6
    assert decision["outcome"]["cost_usd"] == pytest.approx(cost)
    summary = served.http.get("/api/summary").json()
    assert {t["name"]: t["price_in"] for t in summary["targets"]} == {
        "gpt-4o-mini": 0.15,
        "ok": 1.0,
    }
