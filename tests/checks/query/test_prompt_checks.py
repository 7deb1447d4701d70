"""The worlds of the checks of RoutingGen and Router-R1 are what they say they are."""

from __future__ import annotations

import re

import numpy as np
import pytest

from wye.checks.base import CheckError

pytest.importorskip("torch")
pytest.importorskip("reasoning_gym")
pytestmark = pytest.mark.torch


def test_every_derivation_leads_to_the_answer() -> None:
    from wye.checks.query.derivations import FAMILIES, answer_of, derivation
    from wye.checks.query.tasks import draw

    ends = {
        "sum": lambda steps: int(re.findall(r"=(-?\d+)", steps)[-1]),
        "letters": lambda steps: sum(int(s[-1]) for s in steps.split(";")),
        "legs": lambda steps: sum(int(n) for n in re.findall(r"=(\d+)", steps)),
        "gcd": lambda steps: int(re.findall(r"%(\d+)=0$", steps)[0]),
    }
    for item in draw(list(FAMILIES), 200, seed=0):
        steps = derivation(item)
        assert ends[item.task](steps) == int(item.answer), (item, steps)
        assert answer_of(f"{steps}>{item.answer}") == item.answer
    with pytest.raises(CheckError, match="no derivation"):
        derivation(draw(["product"], 1, seed=0)[0])


def test_a_specialist_knows_its_topic_and_two_hops_need_two_of_them() -> None:
    from wye.checks.query.fact_pool import N_SUBJECTS, SPECIALISTS, FactWorld

    world = FactWorld(0)
    pool = {m.name: m for m in world.pool()}
    assert np.bincount(world.owner).tolist() == [15] * 4
    assert len(world.one_hop) == 2 * N_SUBJECTS
    for (relation, subject), answer in world.facts.items():
        ask = [{"role": "user", "content": f"{relation} of {subject}"}]
        right = [n for n in SPECIALISTS if pool[n].model.generate(ask).text == answer]
        again = [n for n in right if pool[n].model.generate(ask).text == answer]
        assert len(again) >= 1
    for question in world.two_hops:
        subject = " ".join(question.text.split()[-3:-1])
        boss = world.facts["boss", subject]
        assert boss.split()[0] != subject.split()[0]
        assert world.facts["city", boss] == question.answer


def test_made_up_episodes_are_well_formed_and_the_policy_reads_what_it_writes() -> None:
    from wye.checks.query.fact_pool import FactWorld, SymbolPolicy, made_up
    from wye.query.router_r1.protocol import violations

    world = FactWorld(1)
    pool = world.pool()
    names = [m.name for m in pool]
    policy = SymbolPolicy(0, n_layers=1, width=16)
    for prompt, pieces in made_up(world, pool, 20, 3, np.random.default_rng(0)):
        assert violations("".join(p.text for p in pieces), names) == ()
        assert 0 not in policy.encode(prompt + "".join(p.text for p in pieces))
    policy.greedy = True
    contexts = [q.text for q in world.one_hop[:3]]
    together = policy(contexts)
    assert together == [policy([c])[0] for c in contexts]
    assert policy.encode(together[0])


def test_a_trial_of_each_arm_runs_from_end_to_end() -> None:
    from wye.checks.query.router_r1 import SINGLE, trial

    for arm in (SINGLE, "alpha 0.6"):
        # One repeat: the figures are of no interest here.
        row = trial(arm, 0, imitation_steps=1, ppo_steps=1, repeats=1)
        assert 0.0 <= row["2-hop EM"] <= 1.0
        assert row["2-hop calls"] <= (1.0 if arm == SINGLE else 4.0)
