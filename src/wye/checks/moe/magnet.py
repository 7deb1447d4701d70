"""MAGNET: routing settles when its entropies say so, and content helps the rare items.

Paper: arXiv 2602.20723. Files and the modules they import, one import of every file left out. Arms
with equal width and epochs: behaviour alone (LightGCN); one perceptron over all modalities; nine
experts without roles; MAGNET with both entropy terms from the start; MAGNET in two stages; and
MAGNET that never sharpens, the control of the second claim.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wye.checks.base import CheckResult, Claim
from wye.checks.moe.imports import Imports, read_imports
from wye.checks.moe.trials import run_trials
from wye.core import entropy
from wye.moe.base import after_step
from wye.moe.magnet import Magnet, Role, RoleMixture, pairwise_loss, role_templates
from wye.moe.parts.entropy_schedule import EntropySchedule

if TYPE_CHECKING:
    from wye.checks.base import CheckContext

ARMS = (
    "behaviour alone",
    "concatenated",
    "experts without roles",
    "one stage",
    "two stages",
    "never sharpened",
)
MODALITIES = ("behaviour", "about", "members")
FILES = 600
WIDTH, EPOCHS, BATCH, RATE, DECAY = 64, 30, 128, 1e-3, 1e-4
TOP = 10
SHARPER = 0.1
COVERED = 0.6


def check(context: CheckContext) -> CheckResult:
    """Recall, its part on rare items, and the entropies of the router, arm by arm."""
    results = run_trials(trial, ARMS, context.seeds, context)
    figures = {
        f"{arm}: {name}": float(np.mean([results[arm, s][name] for s in context.seeds]))
        for arm in ARMS
        for name in results[arm, context.seeds[0]]
    }

    def each(arm: str, name: str) -> list[float]:
        return [results[arm, s][name] for s in context.seeds]

    two, never = (
        each("two stages", "confidence entropy"),
        each("never sharpened", "confidence entropy"),
    )
    rare = np.array(each("two stages", "rare recall")) - each("behaviour alone", "rare recall")
    by_itself = float(np.mean([1.0 - f for f in each("two stages", "switch forced")]))
    figures["share of seeds in which the switch came by itself"] = by_itself
    claims = (
        Claim(
            "confidence entropy, never sharpened - two stages (least)",
            min(n - t for n, t in zip(never, two, strict=True)),
            ">=",
            SHARPER,
        ),
        Claim(
            "coverage entropy of two stages (least)",
            min(each("two stages", "coverage entropy")),
            ">=",
            COVERED,
        ),
        Claim(
            "share of seeds in which rare items gain over behaviour alone",
            float(np.mean(rare >= 0)),
            ">=",
            2 / 3 - 1e-9,
        ),
    )
    data = read_imports(FILES)
    text = (
        f"{data.n_users} files, {data.n_items} modules, {len(data.items)} imports; {EPOCHS} epochs "
        f"of batch {BATCH}. Recall and NDCG at {TOP} of the one import left out, rare ones being "
        "the less imported half of the modules."
    )
    return CheckResult(claims, figures, context.seeds, text)


def trial(arm: str, seed: int, *, epochs: int = EPOCHS) -> dict[str, float]:
    """Train one arm and measure it.

    Args:
        arm: one of `ARMS`.
        seed: of the weights, the order and the negatives.
        epochs: passes over the interactions.
    """
    torch.manual_seed(seed)
    data = read_imports(FILES)
    steps = epochs * -(-len(data.items) // BATCH)
    schedule = _schedule(arm, steps)
    model = Magnet(
        data.n_users,
        data.n_items,
        torch.from_numpy(data.users),
        torch.from_numpy(data.items),
        _content(),
        width=WIDTH,
        roles=_roles(arm),
        balance=[] if schedule is None else [schedule],
        fuse={"behaviour alone": "none", "concatenated": "concatenate"}.get(arm, "experts"),  # type: ignore[arg-type]
    )
    _train(model, data, seed, epochs)
    figures = _ranking(model.eval(), data)
    if model.experts is not None:
        figures |= _routing(model, model.experts, data)
    if schedule is not None:
        figures["switch at step"] = float(schedule.switched_at or 0)
        figures["switch forced"] = float(schedule.forced)
    return figures


def _schedule(arm: str, steps: int) -> EntropySchedule | None:
    options: dict[str, dict[str, Any]] = {
        "experts without roles": {},
        "one stage": {"earliest": 0.0, "latest": 0.0, "ramp": 0},
        "two stages": {},
        "never sharpened": {"confidence": 0.0},
    }
    if arm not in options:
        return None
    return EntropySchedule(steps, len(_roles(arm)), **options[arm])


def _roles(arm: str) -> tuple[Role, ...]:
    roles = role_templates(MODALITIES)
    if arm != "experts without roles":
        return roles
    return tuple(Role(f"even {e + 1}", (1 / 3,) * 3) for e in range(len(roles)))


@lru_cache(maxsize=1)
def _content() -> dict[str, Tensor]:
    from wye.embed import get_embedder

    data = read_imports(FILES)
    return {
        "about": torch.from_numpy(get_embedder("minilm").embed(list(data.about))),
        "members": torch.from_numpy(get_embedder("static").embed(list(data.members))),
    }


def _train(model: Magnet, data: Imports, seed: int, epochs: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    users, items = torch.from_numpy(data.users), torch.from_numpy(data.items)
    seen = _seen(data)
    optimiser = torch.optim.Adam(model.parameters(), RATE, fused=True)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(users), generator=generator)
        for start in range(0, len(users), BATCH):
            chosen = order[start : start + BATCH]
            u, i = users[chosen], items[chosen]
            j = _negatives(u, seen, generator)
            z = model.encode()
            both = model.score(z, torch.cat([u, u]), torch.cat([i, j]))
            positive, negative = both.chunk(2)
            nodes = torch.cat([u, i + data.n_users, j + data.n_users])
            size = sum(v[nodes].square().sum() for v in z.values()) / len(u)
            loss = pairwise_loss(positive, negative) + DECAY * size
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if model.experts is not None:
                after_step(model.experts)


def _negatives(users: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
    """One item per user, drawn uniformly from those that the user has not."""
    return torch.multinomial((~seen[users]).float(), 1, generator=generator)[:, 0]


def _seen(data: Imports) -> Tensor:
    seen = torch.zeros(data.n_users, data.n_items, dtype=torch.bool)
    seen[torch.from_numpy(data.users), torch.from_numpy(data.items)] = True
    return seen


def _ranking(model: Magnet, data: Imports) -> dict[str, float]:
    test = torch.from_numpy(data.test)
    seen = _seen(data)
    ranks, short = [], []
    for start in range(0, data.n_users, 128):
        users = torch.arange(start, min(start + 128, data.n_users))
        ranked = model.rank(users, seen=seen[users])
        hit = ranked == test[users][:, None]
        short.append(hit.any(dim=1))
        ranks.append(torch.where(hit.any(dim=1), hit.int().argmax(dim=1), ranked.shape[1]))
    rank, found = torch.cat(ranks).numpy(), torch.cat(short).numpy()
    popularity = np.bincount(data.items, minlength=data.n_items)
    rare = popularity[data.test] <= np.median(popularity)
    recall = rank < TOP
    gain = np.where(recall, 1.0 / np.log2(rank + 2.0), 0.0)
    return {
        "recall": float(recall.mean()),
        "ndcg": float(gain.mean()),
        "rare recall": float(recall[rare].mean()),
        "rare ndcg": float(gain[rare].mean()),
        "recall of the shortlist": float(found.mean()),
    }


@torch.no_grad()
def _routing(model: Magnet, experts: RoleMixture, data: Imports) -> dict[str, float]:
    z = model.encode()
    model.score(z, torch.from_numpy(data.users), torch.from_numpy(data.items))
    last = experts.last
    p = last.probabilities
    scale = float(np.log(p.shape[1]))
    load = last.plan.load().float() / len(last.plan)
    shares: dict[str, float] = {}
    for role, share in zip(experts.roles, load.tolist(), strict=True):
        kind = f"share of {role.name.split()[0]} experts"
        shares[kind] = shares.get(kind, 0.0) + share
    return {
        "confidence entropy": float(entropy(p)) / scale,
        "coverage entropy": float(entropy(p.mean(dim=0, keepdim=True))) / scale,
        **shares,
    }
