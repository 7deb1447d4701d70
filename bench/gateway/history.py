"""A gateway's past, made up: decisions that its own code makes, over weeks, in its own store.

Questions are those of the embedded set; what is expected of each target on each is drawn, the
choice, its reasons and its record are the gateway's. `PROTOTYPES` decisions are made so and then
repeated with ids, times, outcomes and judgements of their own, which is what makes 100,000 quick.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import sqlalchemy as sa

from wye.data import load_embedded
from wye.gateway.config import Config
from wye.gateway.config_file import parse_config
from wye.gateway.estimates import Expected
from wye.gateway.money.books import Books, Spend
from wye.gateway.money.keys import KeyBook, Limits
from wye.gateway.money.nano import at_least
from wye.gateway.money.usage import Usage
from wye.gateway.openai_api import ChatRequest, parse_chat
from wye.gateway.records import DecisionRecord, FeedbackRecord, OutcomeRecord, Record
from wye.gateway.router_service import RouterService
from wye.gateway.schema import row_of
from wye.query.base import Estimate
from wye.query.decisions import format_id

PROTOTYPES = 2_000
BATCH = 2_000
DAY = 86400.0
# Name, model of the price table, quality on an easy and on a hard question, seconds a token.
TARGETS = (
    ("nano", "gpt-5-nano", 0.90, 0.25, 0.006),
    ("small", "gpt-4o-mini", 0.93, 0.42, 0.009),
    ("medium", "mistral-medium-latest", 0.95, 0.62, 0.014),
    ("large", "gpt-5", 0.98, 0.86, 0.022),
)
POLICIES = """
[policies.utility]
kind = "utility"
cost_weight = 25.0
[policies.quality]
kind = "quality"
[policies.thrifty]
kind = "utility"
cost_weight = 400.0
[policies.explore]
kind = "explore"
epsilon = 0.1
[policies.explore.inner]
kind = "utility"
cost_weight = 25.0
"""
KEYS = {
    "research": Limits(budget_day=12.0, budget_month=220.0, requests_per_minute=120),
    "support-bot": Limits(budget_day=5.0, per_session=0.05, targets=("nano", "small", "medium")),
    "intern": Limits(budget_total=5.0, per_request=0.01, policy="thrifty"),
}


def config_of(store: str, base_url: str, more: str = "") -> Config:
    """A configuration of four targets that ask `base_url`."""
    said = ("for what is easy", "the workhorse", "writes well", "for what is hard")
    targets = "".join(
        f'[[targets]]\nname = "{name}"\nmodel = "{model}"\nbase_url = "{base_url}"\n'
        f'quality = {(easy + hard) / 2:.2f}\ndescription = "{words}"\n'
        for (name, model, easy, hard, _), words in zip(TARGETS, said, strict=True)
    )
    return parse_config(
        f'default_policy = "utility"\nbaseline = "large"\n{targets}{POLICIES}'
        "[router]\nseed = 0\nrepeat_draws = true\n"
        f'[store]\npath = "{store}"\nstore_prompts = true\n{more}'
    )


def write_history(
    engine: sa.Engine, config: Config, number: int, *, days: float, until: float, seed: int = 0
) -> int:
    """Fill a store with `number` decisions of the `days` before `until`; how many judgements."""
    rng = np.random.default_rng(seed)
    book = KeyBook(engine, clock=lambda: until - days * DAY)
    keys = [book.add(name, limits)[0].id for name, limits in KEYS.items()]
    prototypes = _prototypes(config, min(number, PROTOTYPES), rng)
    judgements = 0
    moments = _times(number, days, until, rng)
    while batch := list(islice(moments, BATCH)):
        records = [
            record
            for moment in batch
            for record in _past(prototypes[rng.integers(len(prototypes))], moment, keys, rng)
        ]
        by_kind: dict[sa.Table, list[dict[str, Any]]] = {}
        for table, row in map(row_of, records):
            by_kind.setdefault(table, []).append(row)
        judgements += sum(isinstance(record, FeedbackRecord) for record in records)
        with engine.begin() as connection:
            for table, rows in by_kind.items():
                connection.execute(sa.insert(table), rows)
        _book(engine, records)
    return judgements


def _book(engine: sa.Engine, records: list[Record]) -> None:
    """Enter what the keys spent into their accounts, day by day."""
    made = {r.id: r for r in records if isinstance(r, DecisionRecord) and r.key_id}
    spends: dict[tuple[int, str], float] = {}
    for record in records:
        if isinstance(record, OutcomeRecord) and record.decision_id in made and record.cost_usd:
            decision = made[record.decision_id]
            place = (int(decision.time // DAY), str(decision.key_id))
            spends[place] = spends.get(place, 0.0) + record.cost_usd
    with engine.begin() as connection:
        for (day, key), cost in sorted(spends.items()):
            books = Books("", clock=partial(float, (day + 0.5) * DAY))
            books.book(connection, [Spend(key, None, at_least(cost))])


def _times(number: int, days: float, until: float, rng: np.random.Generator) -> Iterator[float]:
    """Moments in order, more of them by day than by night."""
    spread = np.sort(rng.uniform(0.0, 1.0, number))
    start = until - days * DAY
    wave = spread + 0.1 / days * np.sin(2 * np.pi * spread * days) / (2 * np.pi) * 6
    return iter((start + np.sort(np.clip(wave, 0, 1)) * days * DAY).tolist())


def _prototypes(
    config: Config, number: int, rng: np.random.Generator
) -> list[tuple[DecisionRecord, float, Config]]:
    texts = load_embedded().texts
    service = RouterService(config, None)
    return [
        (*_decided(service, texts[k % len(texts)], rng), config)
        for k in rng.permutation(number).tolist()
    ]


def _decided(
    service: RouterService, text: str, rng: np.random.Generator
) -> tuple[DecisionRecord, float]:
    """A decision by the service's own code, and how hard its question is, from 0 to 1."""
    policy = str(rng.choice(["utility", "utility", "utility", "explore", "quality", "thrifty"]))
    model = "wye" if policy == "utility" else f"wye/{policy}"
    chat = parse_chat({"model": model, "messages": [{"role": "user", "content": text}]})
    hard = float(rng.beta(1.6, 2.2))
    expected = asyncio.run(_expected(service, chat, hard, rng))
    return service.decide(chat, expected, policy, {}).record, hard


async def _expected(
    service: RouterService, chat: ChatRequest, hard: float, rng: np.random.Generator
) -> Expected:
    """The service's own estimate, with the quality and the latency that a router would tell."""
    found = await service.expect(chat)
    quality = [easy + hard * (low - easy) for _, _, easy, low, _ in TARGETS]
    noisy = np.clip(np.array([quality]) + rng.normal(0, 0.04, (1, len(TARGETS))), 0.02, 0.99)
    latency = np.array([[0.3 + 250 * pace for *_, pace in TARGETS]])
    e = found.estimate
    estimate = Estimate(
        models=e.models,
        quality=noisy,
        quality_std=np.full_like(noisy, 0.09),
        cost=e.cost * rng.uniform(0.7, 1.4),
        latency=latency,
        novelty=np.array([rng.uniform(0.05, 0.5)]),
    )
    return replace(found, estimate=estimate, notes={}, seconds=float(rng.gamma(6, 1e-4)))


def _past(
    prototype: tuple[DecisionRecord, float, Config],
    moment: float,
    keys: list[str],
    rng: np.random.Generator,
) -> Iterator[Record]:
    """A decision at a moment, its outcome, and sometimes a judgement."""
    model, hard, config = prototype
    named = {t[0]: t for t in TARGETS}
    lot = rng.random(6)
    who = None if lot[0] < 0.25 else keys[min(int(lot[0] * 4 - 1), len(keys) - 1)]
    random_bits = int(rng.integers(0, 2**61))
    decision = replace(
        model,
        id=format_id(int(moment * 1000) << 80 | 7 << 76 | 0b10 << 62 | random_bits),
        time=moment,
        router_seconds=float(rng.gamma(6, 1e-4)),
        key_id=who,
        session=f"chat-{int(moment // 900)}-{int(lot[1] * 5)}" if lot[1] < 0.6 else None,
        features={**model.features, "surface": "messages" if lot[2] < 0.2 else "chat"},
    )
    yield decision
    target, status = str(model.target), "ok"
    attempts: tuple[dict[str, Any], ...] = ()
    if lot[3] < 0.006:
        status = "error"
    elif lot[3] < 0.02 and target != "large":
        failed = {"error": f"{target}: 503 overloaded", "fault": "refused", "seconds": 0.2}
        attempts, target = ({"target": target, **failed},), "large"
    elif lot[3] < 0.03:
        status = "cancelled"
    usage = Usage(int(rng.gamma(3, 120)) + 20, int(rng.gamma(2.5, 110)) + 5)
    costs = {t.name: t.price(usage) for t in config.targets}
    answered = status != "error"
    yield OutcomeRecord(
        decision.id,
        moment + 1.0,
        target,
        status,  # type: ignore[arg-type]
        200 if answered else 502,
        error=None if answered else f"{target}: the connection was reset",
        input_tokens=usage.input if answered else None,
        output_tokens=usage.output if answered else None,
        cost_usd=costs[target] if answered else None,
        baseline_usd=costs["large"] if answered else None,
        latency_s=float(0.25 + usage.output * named[target][4] * rng.lognormal(0, 0.35)),
        first_byte_s=float(0.2 * rng.lognormal(0, 0.3)),
        finish_reason="stop" if answered else None,
        attempts=attempts,
    )
    if answered and lot[4] < 0.2:
        _, _, easy, low, _ = named[target]
        right = lot[5] < easy + hard * (low - easy)
        yield FeedbackRecord(decision.id, moment + 30, float(right))


if __name__ == "__main__":
    import argparse
    from pathlib import Path

    from wye.gateway.schema import connect

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--decisions", type=int, default=100_000)
    options = parser.parse_args()
    began = time.perf_counter()
    config = config_of(str(options.store), "http://127.0.0.1:9/v1")
    engine = connect(options.store)
    judged = write_history(engine, config, options.decisions, days=30, until=time.time())
    size = options.store.stat().st_size / 1e6
    seconds = time.perf_counter() - began
    print(f"{options.decisions} decisions, {judged} judgements, {size:.0f} MB in {seconds:.0f} s")
