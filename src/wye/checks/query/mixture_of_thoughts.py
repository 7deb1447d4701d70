"""Mixture of Thoughts: are the peers' hidden states worth more than the layers that read them?

Paper: arXiv 2509.21164. Three language models over bytes with shapes of their own, each trained on
one skill (sums, reversal, lookup). A router and interaction layers are trained on a mix of these
and of composed items, which need two skills in one line and which no model has seen. Beside it, of
as many trainable parameters: the same with the peers' texts shuffled among the questions of the
batch, in training and in the test, which takes the content of their thoughts away and nothing else;
the best single model; a router that sends each question to one model; and this with a low-rank
change of every model. Exact match of greedy answers.

The paper's models have 7 billion weights, and its gains are about a point. On SmolLM2-135M, with a
changed copy as peer, the check asks that untrained interactions leave the primary's logits exactly
as they are. Prompts are embedded by the default static embedder.

Tables of lookups list their keys in one order, without which the lookup model did not learn its
skill (`thought_tasks`); that was decided by the models' accuracies on their own skills alone, which
are among the figures ("trained on it").

The claims on the mixture do not hold, since its router ends with one model as the primary of every
task (seed 0: after 200 of 600 steps), while a router trained on the likelihoods of the models' own
answers reads the task off the same embeddings without error. What reaches the router through a is
whether the update of the primary, or the states of a peer, should be larger. That another model
would have spoken better is on no path that has a gradient, and the model that speaks most learns
most. Scaling the logits of the primary by a as well ended with one primary too, another one.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from wye.checks.base import CheckContext, CheckResult, Claim
from wye.checks.moe.smollm import load_smollm, tokens_of
from wye.checks.moe.trials import run_trials
from wye.checks.query.byte_members import byte_member
from wye.checks.query.decoding import END, padded
from wye.checks.query.low_rank import add_low_rank, low_rank_size
from wye.checks.query.solvers import Size, fit_solver
from wye.checks.query.thought_tasks import COMPOSED, SKILLS, task_items
from wye.checks.query.trials import averaged
from wye.embed import StaticEmbedder
from wye.lockstep import (
    HuggingFaceMember,
    Member,
    MixtureOfThoughts,
    Questions,
    ThoughtRouter,
    fit_thoughts,
    shared_questions,
)

SHAPES = {"sum": (2, 96), "reversal": (3, 128), "lookup": (4, 64)}
EXPERT_STEPS, MIX_STEPS, BATCH = 1500, 600, 16
STACKS, ACTIVE, SHARED = 2, 2, 64
TRAIN, COMPOSED_SHARE, TEST = 6000, 0.3, 250
ROUTER_RATE, RATE = 1e-3, 3e-4
LENGTH = 32
GAIN, LOSS = 0.10, 0.02
PROMPT = "The junction where one railway track becomes two is called"
TASKS = (*SKILLS, COMPOSED)


def check(context: CheckContext) -> CheckResult:
    """Exact match with and without the content of the peers' thoughts."""
    results = run_trials(_trial, ["tasks"], context.seeds, context)
    mean = averaged(list(results.values()))
    gain = mean[f"mixture, {COMPOSED}"] - mean[f"shuffled peers, {COMPOSED}"]
    pure = _pure(mean, "mixture") - _pure(mean, "router alone")
    for arm in ("mixture", "shuffled peers", "router alone", "low rank", "best single model"):
        mean[f"{arm}, pure skills"] = _pure(mean, arm)
    context.progress("SmolLM2-135M as the primary of a changed copy")
    difference = _untrained_difference()
    return CheckResult(
        claims=(
            Claim("exact match, composed: mixture - shuffled peers", gain, ">=", GAIN),
            Claim("exact match, pure skills: mixture - router alone", pure, ">=", -LOSS),
            Claim("SmolLM2-135M, largest change of a logit before training", difference, "<=", 0.0),
        ),
        figures=mean,
        seeds=context.seeds,
        text=(
            f"Models of {', '.join(f'{n} layers, width {d}' for n, d in SHAPES.values())}, "
            f"{EXPERT_STEPS} steps on a skill each; {STACKS} stacks, {ACTIVE} active, shared width "
            f"{SHARED}, {MIX_STEPS} steps of {BATCH} on a mix with {COMPOSED_SHARE:.0%} composed "
            f"items; {TEST} test items of each task. Sums have 100 items in all, so that those of "
            "the test were trained on."
        ),
    )


def _pure(figures: dict[str, float], arm: str) -> float:
    return sum(figures[f"{arm}, {skill}"] for skill in SKILLS) / len(SKILLS)


def _trial(arm: str, seed: int) -> dict[str, float]:
    members = [_expert(skill, seed) for skill in SKILLS]
    trained, test = _mix(seed, TRAIN), _test(seed)
    figures: dict[str, float] = {}
    for label, shuffled in (("mixture", False), ("shuffled peers", True)):
        mixture = _mixture(members, trained.z.shape[1], seed)
        fit_thoughts(
            mixture,
            trained,
            steps=MIX_STEPS,
            batch=BATCH,
            router_rate=ROUTER_RATE,
            interaction_rate=RATE,
            shuffle_peers=shuffled,
            seed=seed,
        )
        figures |= _mixed(label, mixture, test, shuffled, seed)
    figures |= _singles(members, test)
    router = _fit_router(members, trained, seed)
    figures |= _scores("router alone", _routed_right(router, members, test))
    budget = sum(p.numel() for p in mixture.interactions.parameters())
    changed = _fit_low_rank(router, members, trained, budget, seed)
    figures |= _scores("low rank", _routed_right(router, changed, test))
    return figures


def _expert(skill: str, seed: int) -> Member:
    n_layers, width = SHAPES[skill]
    size = Size(n_layers=n_layers, width=width, n_heads=4, steps=EXPERT_STEPS)
    pairs = task_items(skill, EXPERT_STEPS * BATCH // 4, seed)
    return byte_member(fit_solver(pairs, size, seed=seed, batch=BATCH, length=LENGTH).model)


def _mixture(members: list[Member], width: int, seed: int) -> MixtureOfThoughts:
    return MixtureOfThoughts(
        members, width=width, k=ACTIVE, n_stacks=STACKS, shared=SHARED, seed=seed
    )


def _mix(seed: int, n: int) -> Questions:
    """Training questions: composed ones, and the skills in equal parts."""
    composed = round(n * COMPOSED_SHARE)
    each = (n - composed) // len(SKILLS)
    items = task_items(COMPOSED, composed, 100 + seed)
    for skill in SKILLS:
        items += task_items(skill, each, 100 + seed)
    return _questions(items)


def _test(seed: int) -> Questions:
    """`TEST` questions of each of `TASKS`, one task after the other."""
    return _questions([item for task in TASKS for item in task_items(task, TEST, 200 + seed)])


def _questions(items: list[tuple[str, str]]) -> Questions:
    encoded = [(p.encode(), a.encode() + bytes([END])) for p, a in items]
    ids, starts, ends = padded(encoded)
    place = torch.arange(1, ids.shape[1])
    counted = (place >= starts[:, None]) & (place < ends[:, None])
    z = torch.from_numpy(StaticEmbedder().embed([p for p, _ in items])).float()
    return shared_questions(ids.long(), counted, z)


@torch.no_grad()
def _mixed(
    label: str, mixture: MixtureOfThoughts, test: Questions, shuffled: bool, seed: int
) -> dict[str, float]:
    ids = test.text(0).ids
    generator = torch.Generator().manual_seed(seed)
    peers = torch.randperm(len(ids), generator=generator) if shuffled else None
    thoughts = mixture.eval()(ids[:, :-1], test.z, peer_rows=peers)
    figures = _scores(label, _right(thoughts.logits(), test))
    own = torch.zeros(len(ids))
    for group in thoughts.groups:
        own[group.rows] = group.attention[:, :, group.primary].mean(dim=1)
    figures[f"{label}, attention that peers get"] = 1.0 - float(own.mean())
    for n, task in enumerate(TASKS):
        spoken = thoughts.roles.primary[n * TEST : (n + 1) * TEST]
        share = torch.bincount(spoken, minlength=len(SKILLS)) / TEST
        figures[f"{label}, {task}: share of its commonest primary"] = float(share.max())
    return figures


def _right(logits: Tensor, test: Questions) -> Tensor:
    """Whose greedy answer is exact: where every byte is the likeliest behind the ones before."""
    counted = test.answers(0)
    return ((logits.argmax(dim=-1) == test.text(0).ids[:, 1:]) | ~counted).all(dim=1)


def _scores(label: str, right: Tensor) -> dict[str, float]:
    return {
        f"{label}, {task}": float(right[n * TEST : (n + 1) * TEST].float().mean())
        for n, task in enumerate(TASKS)
    }


@torch.no_grad()
def _singles(members: list[Member], test: Questions) -> dict[str, float]:
    """The model that is best on the average of the tasks, and each on its own skill."""
    each = [
        _scores("best single model", _right(m.read(test.text(0).ids[:, :-1]).logits, test))
        for m in members
    ]
    own = {
        f"trained on it, {skill}": scores[f"best single model, {skill}"]
        for skill, scores in zip(SKILLS, each, strict=True)
    }
    return own | max(each, key=lambda scores: sum(scores.values()))


@torch.no_grad()
def _routed_right(router: ThoughtRouter, members: list[Member], test: Questions) -> Tensor:
    spoken = router.eval()(test.z).primary
    ids = test.text(0).ids[:, :-1]
    right = torch.stack([_right(m.read(ids).logits, test) for m in members], dim=1)
    return right.gather(1, spoken[:, None])[:, 0]


def _fit_router(members: list[Member], trained: Questions, seed: int) -> ThoughtRouter:
    """A router of one model a question, on the likelihood of the answer under its mixture."""
    torch.manual_seed(seed)
    router = ThoughtRouter(trained.z.shape[1], len(members), k=1)
    with torch.no_grad():
        said = torch.stack([_log_likelihood(m, trained) for m in members], dim=1)
    optimiser = torch.optim.AdamW(router.parameters(), lr=ROUTER_RATE)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(MIX_STEPS):
        rows = torch.randint(len(said), (BATCH,), generator=generator)
        law = torch.log_softmax(router(trained.z[rows]).scores, dim=-1)
        loss = -torch.logsumexp(law + said[rows], dim=-1).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    return router.eval()


def _log_likelihood(member: Member, questions: Questions) -> Tensor:
    """Log-probability of each answer, `[n]` nats."""
    ids, counted = questions.text(0).ids, questions.answers(0)
    parts = []
    for some, kept in zip(torch.split(ids, 512), torch.split(counted, 512), strict=True):
        law = torch.log_softmax(member.read(some[:, :-1]).logits, dim=-1)
        parts.append((law.gather(-1, some[:, 1:, None])[..., 0] * kept).sum(dim=1))
    return torch.cat(parts)


def _fit_low_rank(
    router: ThoughtRouter, members: list[Member], trained: Questions, budget: int, seed: int
) -> list[Member]:
    """Copies of the models with low-rank changes of about `budget` parameters in all.

    Each learns from the questions that the router sends to it.
    """
    torch.manual_seed(seed)
    models = [copy.deepcopy(m.module) for m in members]
    rank = max(1, round(budget / sum(low_rank_size(model) for model in models)))
    learned = [p for model in models for p in add_low_rank(model, rank)]
    changed: list[Member] = [byte_member(model) for model in models]  # type: ignore[arg-type]
    with torch.no_grad():
        spoken = router(trained.z).primary
    optimiser = torch.optim.AdamW(learned, lr=RATE)
    generator = torch.Generator().manual_seed(seed)
    ids, counted = trained.text(0).ids, trained.answers(0)
    for _ in range(MIX_STEPS):
        rows = torch.randint(len(ids), (BATCH,), generator=generator)
        loss = torch.zeros(())
        for number, member in enumerate(changed):
            own = rows[spoken[rows] == number]
            if len(own):
                said = member.read(ids[own, :-1]).logits[counted[own]]
                target = ids[own, 1:][counted[own]]
                loss = loss + F.cross_entropy(said, target, reduction="sum")
        optimiser.zero_grad()
        torch.autograd.backward(loss / counted[rows].sum())
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
    return changed


@torch.no_grad()
def _untrained_difference() -> float:
    """Largest change of a logit of SmolLM2-135M by an untrained mixture with a changed copy."""
    torch.manual_seed(0)
    model = load_smollm()
    other = copy.deepcopy(model)
    for parameter in add_low_rank(other, 4):
        parameter.normal_(std=0.02)
    ids = tokens_of(PROMPT)[None]
    members = [HuggingFaceMember(model), HuggingFaceMember(other)]
    mixture = MixtureOfThoughts(members, width=1, k=2).eval()
    roles = mixture.router(torch.zeros(1, 1), primary=torch.zeros(1, dtype=torch.int64))
    alone = members[0].read(ids).logits
    if bool(torch.equal(alone, members[1].read(ids).logits)):
        return float("inf")
    return float((mixture(ids, torch.zeros(1, 1), roles=roles).logits() - alone).abs().max())
