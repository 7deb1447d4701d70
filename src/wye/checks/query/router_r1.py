"""Router-R1: a policy that may call several models in one answer against one that calls once.

Paper: arXiv 2506.09033. The world and the policy are those of `wye.checks.query.fact_pool`: a
transformer of 2 layers and width 128 imitates random well-formed episodes for 300 steps and then
learns by 250 PPO steps of 64 episodes at alpha 0, 0.6 and 0.9. Baseline, in the same run: the same
network with one call, whose reply is copied as the answer, trained with the same reward at alpha 0.
Figures are of greedy episodes on every question, three times each (the generalist is right by
chance). Learning rates are those of a network that starts from nothing: 5e-4 for the policy, 1e-3
for the critic.

Besides, the loop runs once with SmolLM2-135M-Instruct as an untrained policy on five questions;
nothing is asked of it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckResult, Claim
from wye.checks.moe.trials import run_trials
from wye.checks.query.trials import averaged

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.query.router_r1.router import Episode, Writer

IMITATION_STEPS = 300
PPO_STEPS = 250
BATCH = 64
IMITATED = 32
MOST_CALLS = 3
REPEATS = 3
ALPHAS = (0.0, 0.6, 0.9)
SINGLE = "single round"
LEAST_GAIN = 0.2
MOST_FAILURES = 0.05
# What a strict inequality asks of a difference of means.
ABOVE_ZERO = 1e-9
_QUESTIONS = (
    "What is the capital of Peru?",
    "How many legs do three cows have?",
    "Which river flows through Cairo?",
    "What is 17 times 4?",
    "Who wrote the play Hamlet?",
)


def check(context: CheckContext) -> CheckResult:
    """Two hops against one round, calls by hops, cost by alpha, broken formats.

    Raises:
        CheckError: the weights of SmolLM2 are not on this machine.
    """
    arms = [SINGLE, *(f"alpha {a:g}" for a in ALPHAS)]
    found = run_trials(trial, arms, context.seeds, context)
    figures: dict[str, float] = {}
    for arm in arms:
        mean = averaged([found[arm, seed] for seed in context.seeds])
        figures |= {f"{name}, {arm}": value for name, value in mean.items()}
    context.progress("SmolLM2 as an untrained policy")
    figures |= untrained()
    free = f"alpha {ALPHAS[0]:g}"
    costs = [figures[f"cost, alpha {a:g}"] for a in ALPHAS]
    gain = figures[f"2-hop EM, {free}"] - figures[f"2-hop EM, {SINGLE}"]
    calls = figures[f"2-hop calls, {free}"] - figures[f"1-hop calls, {free}"]
    failures = max(figures[f"format failures, alpha {a:g}"] for a in ALPHAS)
    claims = (
        Claim("2-hop EM - single round, alpha 0", gain, ">=", LEAST_GAIN),
        Claim("calls on 2 hops - on 1 hop, alpha 0", calls, ">=", ABOVE_ZERO),
        Claim("cost at alpha 0 - at 0.6", costs[0] - costs[1], ">=", ABOVE_ZERO),
        Claim("cost at alpha 0.6 - at 0.9", costs[1] - costs[2], ">=", ABOVE_ZERO),
        Claim("format failures, largest over alpha", failures, "<=", MOST_FAILURES),
    )
    text = (
        f"A tiny policy over four specialists and a generalist, {IMITATION_STEPS} steps of "
        f"imitation and {PPO_STEPS} PPO steps of {BATCH} episodes, against the same policy with a "
        "single call. Cost in millionths of a dollar for a question. The named data are not used."
    )
    return CheckResult(claims, figures, context.seeds, text)


def trial(
    arm: str,
    seed: int,
    imitation_steps: int = IMITATION_STEPS,
    ppo_steps: int = PPO_STEPS,
    repeats: int = REPEATS,
) -> dict[str, float]:
    """Train one policy and measure it on every question of its world."""
    from wye.checks.query.fact_pool import (
        FactWorld,
        SymbolPolicy,
        ValueModel,
        made_up,
        world_prompt,
    )
    from wye.query.router_r1.reward import EpisodeReward
    from wye.query.router_r1.router import MultiRoundRouter
    from wye.query.router_r1.training import PolicyTrainer, Settings, imitate

    single = arm == SINGLE
    world, policy = FactWorld(seed), SymbolPolicy(seed)
    pool = world.pool()
    draw = np.random.default_rng([seed, 2])
    calls = 1 if single else MOST_CALLS
    imitate(
        policy,
        lambda step: made_up(world, pool, IMITATED, calls, draw),
        steps=imitation_steps,
        rate=3e-3,
    )
    writer: Writer = _Copying(policy) if single else policy
    router = MultiRoundRouter(writer, pool, max_turns=1 if single else 4, prompt=world_prompt)
    reward = EpisodeReward(alpha=0.0 if single else float(arm.split()[1]))
    rates = Settings(actor_rate=5e-4, critic_rate=1e-3)
    trainer = PolicyTrainer(
        policy, ValueModel(copy.deepcopy(policy.model)), settings=rates, seed=seed
    )
    for _ in range(ppo_steps):
        asked = world.questions(BATCH, draw)
        episodes = router.episodes([q.text for q in asked])
        rewards = reward.learn(episodes, [[q.answer] for q in asked])
        trainer.step([_own_part(e) for e in episodes] if single else episodes, rewards)
    policy.greedy = True
    row: dict[str, float] = {}
    everything = []
    for hops, kind in ((1, world.one_hop), (2, world.two_hops)):
        asked = list(kind) * repeats
        episodes = router.episodes([q.text for q in asked])
        judged = [reward.judge(e, [q.answer]) for e, q in zip(episodes, asked, strict=True)]
        row[f"{hops}-hop EM"] = float(np.mean([r.outcome for r in judged]))
        row[f"{hops}-hop calls"] = float(np.mean([len(e.calls) for e in episodes]))
        everything.append(
            [
                (e.cost, float(bool(r.broken)), e.invalid)
                for e, r in zip(episodes, judged, strict=True)
            ]
        )
    # Both kinds count the same, as in training.
    cost, broken, invalid = np.mean([np.mean(kind, axis=0) for kind in everything], axis=0).tolist()
    return row | {"cost": cost, "format failures": broken, "invalid calls": invalid}


def untrained() -> dict[str, float]:
    """Episodes of SmolLM2 that was never trained for the protocol, on five questions."""
    from wye.checks.query.smollm_chat import smollm_chat
    from wye.query.chat_models import ProgramChatModel
    from wye.query.prompts.token_cutting import TokenizerCutter
    from wye.query.router_r1.protocol import violations
    from wye.query.router_r1.router import ChatWriter, Limits, MultiRoundRouter, PoolModel

    chat = smollm_chat()
    echo = ProgramChatModel("echo", lambda messages: messages[-1]["content"].splitlines()[-1])
    pool = [
        PoolModel("clerk", echo, "knows places and books, cheap", 1.0),
        PoolModel("abacus", echo, "calculates, cheap", 1.0),
    ]
    router = MultiRoundRouter(
        ChatWriter(chat, max_tokens=40, seed=0),
        pool,
        max_turns=2,
        limits=Limits(start=400, context=600, call=60, reply=60),
        cutter=TokenizerCutter(chat.tokenizer),
    )
    episodes = router.episodes(_QUESTIONS)
    broken = [bool(violations(e.response, e.names, e.aliases)) for e in episodes]
    return {
        "untrained SmolLM2: answered": float(np.mean([e.answer is not None for e in episodes])),
        "untrained SmolLM2: calls": float(np.mean([len(e.calls) for e in episodes])),
        "untrained SmolLM2: format failures": float(np.mean(broken)),
    }


class _Copying:
    """A policy that writes its own first turn only; then the reply is copied as the answer."""

    def __init__(self, policy: Writer) -> None:
        self.policy = policy

    def __call__(self, contexts: Sequence[str]) -> list[str]:
        fresh = [c for c in contexts if "</information>" not in c]
        own = iter(self.policy(fresh) if fresh else [])
        return [
            f" <think> know </think> <answer> {_reply(c)} </answer>"
            if "</information>" in c
            else next(own)
            for c in contexts
        ]


def _reply(context: str) -> str:
    return context.split("<information>")[-1].split("</information>")[0].strip()


def _own_part(episode: Episode) -> Episode:
    """The same episode, in which the copied answer is not the policy's own."""
    pieces, copied = [], False
    for piece in episode.pieces:
        pieces.append(replace(piece, own=piece.own and not copied))
        copied = copied or not piece.own
    return replace(episode, pieces=tuple(pieces))
