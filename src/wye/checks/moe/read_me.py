"""Read-ME: channels by domain on a real decoder, a router on ids alone, and looking ahead.

Paper: arXiv 2410.19123. SmolLM2-135M, nothing trained but the router. Domains: Python source,
English documentation, German manual pages, C headers, and the questions of the embedded set.
Perplexity of held-out text of each domain with the dense model; its own domain's expert (rho 1/2);
the other domains' experts; as many random channels; as many channels by the pooled profile.
Then the router (2 layers of width 64, 200 steps) learns from the activations of three layers, and
the routes of 200 mixed prompts go through the scheduler and the cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.checks.base import CheckError, CheckResult, Claim
from wye.core import Plan
from wye.moe.models.pregate import Pregate, domain_affinity
from wye.moe.read_me import Extraction, extract_experts, mlps_of, refactor, train_pregate
from wye.moe.serving.expert_cache import POLICIES, simulate_cache
from wye.moe.serving.lookahead import Batch, arrival_batches, lookahead_batches
from wye.moe.surgery.domain_channels import DomainChannels, domain_channels, watching

if TYPE_CHECKING:
    from wye.checks.base import CheckContext

DOMAINS = ("python", "english", "german", "c", "questions")
RHO, LENGTH = 0.5, 256
PROFILED, EVALUATED, ROUTED = 8_192, 2_048, 4_096
SAMPLED_LAYERS = (5, 15, 25)
ROUTER_STEPS, ROUTER_WIDTH = 200, 64
PROMPTS, PROMPT_LENGTH, BATCH, MAX_WAIT, CAPACITY = 200, 32, 8, 25, 2
OWN_IN_DOMAINS, OVER_MAJORITY = 4, 0.10


@dataclass(frozen=True)
class Texts:
    """Ids of one domain.

    Attributes:
        profile: `[n, LENGTH]` for the profiles.
        held_out: `[n, LENGTH]` of other files.
    """

    profile: Tensor
    held_out: Tensor


def check(context: CheckContext) -> CheckResult:
    """Perplexities of slices, accuracy of the router, misses and experts per batch."""
    from wye.checks.moe.smollm import load_smollm

    seed = context.seeds[0]
    texts = {name: domain_texts(name) for name in DOMAINS}
    model: Any = load_smollm()
    context.progress("dense model: perplexities and profiles")
    dense = {name: log_perplexity(model, texts[name].held_out) for name in DOMAINS}
    batches = {name: list(torch.split(texts[name].profile, 4)) for name in DOMAINS}
    # The output layer takes a fifth of the time and profiles need none of it.
    found = extract_experts(model.model, batches, RHO)
    extraction = replace(found, mlps=tuple(f"model.{name}" for name in found.mlps))
    context.progress("router")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pregate = Pregate(
            model.config.hidden_size,
            len(DOMAINS),
            vocabulary=model.config.vocab_size,
            inner=ROUTER_WIDTH,
        )
    pregate.embed_like(model.get_input_embeddings().weight)
    accuracy, majority, domain_share = router_figures(model, extraction, texts, pregate, seed)
    context.progress("perplexities of slices")
    sliced = slice_figures(model, extraction, texts, seed)
    scheduled = scheduler_figures(pregate, texts, seed)

    own = {d: sliced[d, d] for d in DOMAINS}
    others = {d: float(np.mean([sliced[d, e] for e in DOMAINS if e != d])) for d in DOMAINS}
    better = sum(own[d] < others[d] for d in DOMAINS)
    over_random = min(sliced[d, "random"] - own[d] for d in DOMAINS)
    claims = (
        Claim("domains whose own expert beats the mean other", better, ">=", OWN_IN_DOMAINS),
        Claim("log-perplexity(random) - (own expert), worst domain", over_random, ">=", 0.0),
        Claim("router accuracy - majority class", accuracy - majority, ">=", OVER_MAJORITY),
        Claim(
            "misses of Belady - misses of LRU",
            scheduled["belady misses"] - scheduled["lru misses"],
            "<=",
            0.0,
        ),
        Claim(
            "experts per batch, arrival order - look-ahead",
            scheduled["experts, arrival order"] - scheduled["experts, look-ahead"],
            ">=",
            0.0,
        ),
    )
    figures = {
        **{f"{d} dense": dense[d] for d in DOMAINS},
        **{f"{d} own": own[d] for d in DOMAINS},
        **{f"{d} others": others[d] for d in DOMAINS},
        **{f"{d} {kind}": sliced[d, kind] for d in DOMAINS for kind in ("random", "pooled")},
        "core over expert, mean of layers": float(extraction.channels.shared_share.mean()),
        "core over expert, largest layer": float(extraction.channels.shared_share.max()),
        "router accuracy": accuracy,
        "majority class": majority,
        "tokens routed to their own domain": domain_share,
        **scheduled,
    }
    text = (
        f"SmolLM2-135M, profiles of {PROFILED} tokens and log-perplexities (nats per token) of "
        f"{EVALUATED} held-out tokens per domain; {PROMPTS} prompts of {PROMPT_LENGTH} tokens in "
        f"batches of {BATCH}, {CAPACITY} of {len(DOMAINS)} experts in the cache."
    )
    return CheckResult(claims, figures, (seed,), text)


def domain_texts(name: str) -> Texts:
    """Ids for profiles and held out, of different files (questions: of different questions)."""
    from wye.checks.moe.corpus import corpus
    from wye.checks.moe.smollm import tokens_of

    if name == "questions":
        from wye.data import load_embedded

        questions = [" ".join(text.split()) for text in load_embedded().texts]
        train = "\n".join(q for i, q in enumerate(questions) if i % 2)
        held_out = "\n".join(q for i, q in enumerate(questions) if i % 2 == 0)
    else:
        both = corpus(name, 8 * PROFILED, held_out=8 * ROUTED)
        train = both.train.decode("utf-8", errors="ignore")
        held_out = both.held_out.decode("utf-8", errors="ignore")
    return Texts(
        tokens_of(train, PROFILED).view(-1, LENGTH),
        tokens_of(held_out, ROUTED).view(-1, LENGTH),
    )


@torch.no_grad()
def log_perplexity(model: nn.Module, ids_NL: Tensor) -> float:
    """Nats per token of the first `EVALUATED` tokens."""
    total = count = 0.0
    for ids in torch.split(ids_NL[: EVALUATED // LENGTH], 2):
        logits = model(ids).logits[:, :-1].float()
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
        total += float(loss)
        count += ids[:, 1:].numel()
    return total / count


def slice_figures(
    model: nn.Module, extraction: Extraction, texts: dict[str, Texts], seed: int
) -> dict[tuple[str, str], float]:
    """Log-perplexity by (domain of the text, expert), with a random and a pooled expert besides."""
    generator = torch.Generator().manual_seed(seed)
    random = torch.rand(extraction.profile[:1].shape, generator=generator)
    pooled = extraction.profile.mean(dim=0, keepdim=True)
    kept = domain_channels(torch.cat([extraction.profile, random, pooled]), RHO).kept
    names = (*extraction.domains, "random", "pooled")
    wide = replace(extraction, domains=names, channels=DomainChannels(kept))
    width = int(model.config.hidden_size)  # type: ignore[union-attr,arg-type]
    routed = refactor(model, wide, Pregate(width, len(names), vocabulary=1, inner=4))
    figures = {}
    try:
        for expert in names:
            with routed.fixed(expert):
                for domain in DOMAINS:
                    figures[domain, expert] = log_perplexity(model, texts[domain].held_out)
    finally:
        routed.remove()
    return figures


@torch.no_grad()
def affinities(model: Any, extraction: Extraction, ids_NL: Tensor) -> Tensor:
    """`domain_affinity` of every token in the sampled layers, `[layers, N, L, M]`."""
    mlps = list(mlps_of(model.model).items())
    sampled = dict(mlps[layer] for layer in SAMPLED_LAYERS)
    private = extraction.channels.private
    rows: list[list[Tensor]] = [[] for _ in sampled]

    def see(place: int, values_SF: Tensor) -> None:
        rows[place].append(domain_affinity(values_SF, private[:, SAMPLED_LAYERS[place]]))

    with watching(sampled, see):
        for ids in torch.split(ids_NL, 4):
            model.model(ids)
    return torch.stack([torch.cat(parts) for parts in rows]).view(
        len(sampled), *ids_NL.shape, len(DOMAINS)
    )


def router_figures(
    model: nn.Module,
    extraction: Extraction,
    texts: dict[str, Texts],
    pregate: Pregate,
    seed: int,
) -> tuple[float, float, float]:
    """Accuracy and share of the majority class on held-out text, share routed to its own domain."""
    if not bool(extraction.channels.private.any()):
        raise CheckError("all domains keep the same channels: there is nothing to route")
    n = ROUTED // LENGTH
    ids = torch.cat([texts[d].profile[:n] for d in DOMAINS])
    train_pregate(pregate, ids, affinities(model, extraction, ids), steps=ROUTER_STEPS, seed=seed)
    pregate.requires_grad_(False)
    held_out = torch.cat([texts[d].held_out for d in DOMAINS])
    label = affinities(model, extraction, held_out)
    # The label of a token is the domain that it leans to more than the mean token does.
    label = (label - label.mean(dim=(1, 2), keepdim=True)).argmax(dim=3)
    route = pregate.routes(held_out).argmax(dim=2)
    majority = np.mean(
        [float(torch.bincount(layer.flatten()).max()) / layer.numel() for layer in label]
    )
    own = torch.arange(len(DOMAINS)).repeat_interleave(len(texts[DOMAINS[0]].held_out))
    return (
        float((route[None] == label).double().mean()),
        float(majority),
        float((route == own[:, None]).double().mean()),
    )


def scheduler_figures(pregate: Pregate, texts: dict[str, Texts], seed: int) -> dict[str, float]:
    """Experts per batch and misses of every policy on the routes of mixed prompts."""
    pieces = [texts[d].held_out.reshape(-1, PROMPT_LENGTH)[: PROMPTS // 5] for d in DOMAINS]
    prompts = torch.cat(pieces)
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed))
    route = pregate.routes(prompts[order]).argmax(dim=2)
    source = np.repeat(np.arange(len(prompts)), PROMPT_LENGTH)
    target = route.flatten().numpy()
    plan = Plan(source, target, np.ones(len(source)), len(prompts), len(DOMAINS))
    arrival = arrival_batches(plan, batch_size=BATCH)
    ahead = lookahead_batches(plan, batch_size=BATCH, max_wait=MAX_WAIT)
    figures = {
        "experts, arrival order": _experts(arrival),
        "experts, look-ahead": _experts(ahead),
    }
    for policy in POLICIES:
        report = simulate_cache([b.experts for b in ahead], CAPACITY, policy)
        figures[f"{policy} misses"] = float(report.misses)
        figures[f"{policy} misses, arrival order"] = float(
            simulate_cache([b.experts for b in arrival], CAPACITY, policy).misses
        )
        figures["accesses"] = float(report.accesses)
    return figures


def _experts(batches: list[Batch]) -> float:
    return float(np.mean([len(batch.experts) for batch in batches]))
