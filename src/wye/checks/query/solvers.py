"""Solvers: small byte-level language models that really answer questions, and really err.

A `Solver` is a causal transformer over bytes (`wye.moe.LanguageModel` with dense feed-forwards),
trained on pairs of prompt and answer with the loss on the bytes of the answer alone. It answers
many prompts at once, greedily or by sampling, and gives for every byte its log-probability and that
of the best other byte. How long it trains is a number of steps, not seconds, so that it comes out
the same wherever it runs.

For questions of `wye.checks.query.tasks`:

    >>> recipe = Recipe.of({"sum-easy": 2, "gcd": 1}, SMALL, steps=30, seed=0)
    >>> solver = train_solver(recipe)              # cached in this process
    >>> items = draw(["sum-easy", "gcd"], 5, seed=1)  # held out: no solver trained on them
    >>> replies = solver.answer([i.prompt for i in items], temperature=0.7, samples=3, seed=2)
    >>> len(replies), len(replies[0])
    (5, 3)
    >>> right = [grade(i, r[0].text) for i, r in zip(items, replies)]

Several solvers of one pool: recipes with different mixes, sizes or seeds. Anything else that maps a
prompt to an answer (a prefix that asks for a derivation, solved items in front of the question) is
a list of pairs for `fit_solver(pairs, SMALL, steps=..., seed=...)`; pairs hold any bytes but 0, and
the longest must fit `length`. Solvers of several seeds train side by side under
`wye.checks.moe.trials.run_trials`.

SMALL, MEDIUM and LARGE have 0.07, 0.21 and 1.02 million parameters. Their usual steps on prompts of
about 10 bytes take 8, 32 and 111 seconds of one thread of a server of 2023.

Shape letters: L length, D width, T bytes of a reply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from wye.checks.base import CheckError
from wye.checks.query.decoding import END as END
from wye.checks.query.decoding import Reply as Reply
from wye.checks.query.decoding import padded, write
from wye.checks.query.tasks import draw as draw
from wye.checks.query.tasks import grade as grade
from wye.moe.learning.training import share_of_rate
from wye.moe.models.language_model import LanguageModel

Floats = NDArray[np.float64]
_BATCH = 16
_PRACTICE = 24_000
_AT_ONCE = 512


@dataclass(frozen=True)
class Size:
    """Layers, width D and heads of a solver, and its usual training.

    Attributes:
        n_layers, width, n_heads: of the transformer; feed-forwards are 4 D wide.
        steps: optimiser steps of 16 pairs.
        rate: the highest learning rate at width 64; divided by the square root of D / 64.
    """

    n_layers: int
    width: int
    n_heads: int
    steps: int
    rate: float = 3e-3


SMALL = Size(n_layers=2, width=48, n_heads=4, steps=600)
MEDIUM = Size(n_layers=4, width=64, n_heads=4, steps=1400)
LARGE = Size(n_layers=5, width=128, n_heads=4, steps=2500, rate=1.6e-3)


@dataclass(frozen=True)
class Recipe:
    """All that a solver follows from.

    Attributes:
        families: names of `wye.checks.query.tasks` with their shares of the training questions.
        size: of the model.
        steps: of training.
        seed: of weights, questions and their order.
    """

    families: tuple[tuple[str, float], ...]
    size: Size
    steps: int
    seed: int

    @classmethod
    def of(
        cls,
        families: Sequence[str] | Mapping[str, float],
        size: Size = SMALL,
        *,
        steps: int | None = None,
        seed: int = 0,
    ) -> Recipe:
        """The recipe with equal shares where only names are given, and the steps of the size."""
        shares = dict(families) if isinstance(families, Mapping) else dict.fromkeys(families, 1.0)
        return cls(tuple(shares.items()), size, size.steps if steps is None else steps, seed)


class Solver:
    """A trained byte-level model.

    Attributes:
        model: in evaluation mode.
        parameters: how many.
        losses: `[steps]` training loss in nats per byte of the answers.
    """

    def __init__(self, model: LanguageModel, losses: Floats) -> None:
        self.model = model.eval()
        self.losses = losses
        self.parameters = sum(p.numel() for p in model.parameters())

    def answer(
        self,
        prompts: Sequence[str],
        *,
        temperature: float = 0.0,
        samples: int = 1,
        most: int = 24,
        seed: int = 0,
    ) -> list[list[Reply]]:
        """`samples` replies to each prompt.

        Args:
            prompts: as in training.
            temperature: 0 is greedy.
            samples: of each prompt; its bytes are read once for all of them.
            most: bytes of a reply, the end included.
            seed: of the sampling.

        Raises:
            CheckError: a prompt that is empty or does not fit with `most` bytes behind it.
        """
        if samples < 1 or most < 1 or temperature < 0:
            raise CheckError(
                f"samples={samples}, most={most}, temperature={temperature}; expected at least 1, "
                "at least 1, and at least 0"
            )
        encoded = [self._encoded(p, most) for p in prompts]
        replies: list[list[Reply]] = [[] for _ in prompts]
        generator = torch.Generator().manual_seed(seed)
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        for start in range(0, len(order), _AT_ONCE):
            rows = order[start : start + _AT_ONCE]
            written = write(
                self.model, [encoded[i] for i in rows], temperature, samples, most, generator
            )
            for i, some in zip(rows, written, strict=True):
                replies[i] = some
        return replies

    @torch.no_grad()
    def log_probabilities(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Floats]:
        """Log-probability of each byte of a given answer and of its end, `[T]` for each pair.

        Raises:
            CheckError: a pair that does not fit.
        """
        found: list[Floats] = [np.zeros(0)] * len(prompts)
        for rows, ids, starts, ends in self._pairs(prompts, answers):
            said = torch.log_softmax(self.model(ids[:, :-1]).float(), dim=-1)
            of_byte = said.gather(2, ids[:, 1:, None])[..., 0].double().numpy()
            for k, i in enumerate(rows):
                found[i] = of_byte[k, starts[k] - 1 : ends[k] - 1]
        return found

    @torch.no_grad()
    def hidden_states(self, prompts: Sequence[str], answers: Sequence[str]) -> Floats:
        """`[n, D]` what the last layer holds, normalised, at the end of each given answer.

        Raises:
            CheckError: a pair that does not fit.
        """
        states = np.zeros((len(prompts), self.model.width))
        for rows, ids, _, ends in self._pairs(prompts, answers):
            kept: list[Tensor] = []
            hook = self.model.norm.register_forward_hook(lambda *call, to=kept: to.append(call[2]))
            try:
                self.model(ids)
            finally:
                hook.remove()
            # The end byte itself has been read there, so the whole answer has.
            last = torch.tensor(ends) - 1
            states[rows] = kept[0][torch.arange(len(rows)), last].double().numpy()
        return states

    def _encoded(self, prompt: str, room: int) -> bytes:
        raw = prompt.encode()
        if not raw or END in raw or len(raw) + room > self.model.length:
            raise CheckError(
                f"the prompt {prompt[:60]!r} has {len(raw)} bytes and {room} may follow; expected "
                f"at least 1 byte, none of them {END}, and at most {self.model.length} in all"
            )
        return raw

    def _pairs(
        self, prompts: Sequence[str], answers: Sequence[str]
    ) -> Iterator[tuple[list[int], Tensor, list[int], list[int]]]:
        if len(prompts) != len(answers):
            raise CheckError(f"{len(prompts)} prompts and {len(answers)} answers, expected as many")
        pairs = [
            (self._encoded(p, len(a.encode()) + 1), a.encode() + bytes([END]))
            for p, a in zip(prompts, answers, strict=True)
        ]
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
        for start in range(0, len(order), _AT_ONCE):
            rows = order[start : start + _AT_ONCE]
            ids, starts, ends = padded([pairs[i] for i in rows])
            yield rows, ids.long(), starts.tolist(), ends.tolist()


def train_solver(recipe: Recipe) -> Solver:
    """The solver of a recipe, trained on its practice questions; kept for later calls.

    Raises:
        CheckError: reasoning-gym is missing, or an unknown family.
    """
    return _trained(recipe)


def fit_solver(
    pairs: Sequence[tuple[str, str]],
    size: Size = SMALL,
    *,
    steps: int | None = None,
    seed: int = 0,
    batch: int = _BATCH,
    rate: float | None = None,
    length: int = 160,
    start: Solver | None = None,
) -> Solver:
    """Train on (prompt, answer) pairs with the loss on the bytes of the answers and their ends.

    AdamW (betas 0.9 and 0.95, weight decay 0.01), warm-up and cosine down to a tenth of the rate;
    gradients are clipped to norm 1.

    Args:
        pairs: what to learn; repeat a pair to count it more.
        size: of the model.
        steps: of optimisation; those of the size when None.
        seed: of weights and of the order of pairs.
        batch: pairs of a step.
        rate: as in `Size`; that of the size when None.
        length: the most bytes that a prompt and its answer take together.
        start: a solver of the same size to train further; its weights are copied.

    Raises:
        CheckError: no pairs, or one that is empty or longer than `length`.
    """
    steps = size.steps if steps is None else steps
    rate = size.rate if rate is None else rate
    if not pairs or steps < 1 or batch < 1:
        raise CheckError(
            f"{len(pairs)} pairs, steps={steps}, batch={batch}; expected at least 1 each"
        )
    encoded = [(p.encode(), a.encode() + bytes([END])) for p, a in pairs]
    for p, a in encoded:
        if not p or END in p or END in a[:-1] or len(p) + len(a) > length:
            raise CheckError(
                f"the pair {p[:60]!r}, {a[:-1][:60]!r} has {len(p) + len(a)} bytes; expected a "
                f"prompt, no byte {END}, and at most length={length}"
            )
    ids, starts, ends = padded(encoded)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _new_model(size, length)
        if start is not None:
            model.load_state_dict(start.model.state_dict())
        losses = _train(model, ids, starts, ends, steps, batch, rate * (64 / size.width) ** 0.5)
    return Solver(model, losses)


@lru_cache(maxsize=24)
def _trained(recipe: Recipe) -> Solver:
    n = min(_PRACTICE, recipe.steps * _BATCH)
    items = draw(dict(recipe.families), n, seed=recipe.seed, part="practice", distinct=False)
    pairs = [(i.prompt, i.answer) for i in items]
    return fit_solver(pairs, recipe.size, steps=recipe.steps, seed=recipe.seed)


def _new_model(size: Size, length: int) -> LanguageModel:
    layers = [
        nn.Sequential(
            nn.Linear(size.width, 4 * size.width), nn.GELU(), nn.Linear(4 * size.width, size.width)
        )
        for _ in range(size.n_layers)
    ]
    return LanguageModel(layers, width=size.width, length=length, n_heads=size.n_heads)


def _train(
    model: LanguageModel,
    ids: Tensor,
    starts: Tensor,
    ends: Tensor,
    steps: int,
    batch: int,
    rate: float,
) -> Floats:
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    losses = np.zeros(steps)
    order = torch.randperm(len(ids))
    at = 0
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * share_of_rate(step, steps, "cosine")
        if at + batch > len(order):
            order, at = torch.randperm(len(ids)), 0
        rows = order[at : at + batch]
        at += batch
        width = int(ends[rows].max())
        window = ids[rows, :width].long()
        place = torch.arange(1, width)
        counted = (place >= starts[rows, None]) & (place < ends[rows, None])
        target = window[:, 1:].masked_fill(~counted, -100)
        logits = model(window[:, :-1])
        loss = F.cross_entropy(logits[counted].float(), target[counted])
        losses[step] = float(loss.detach())
        if not np.isfinite(losses[step]):
            raise CheckError(f"the loss of a solver is {losses[step]} in step {step + 1}")
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return losses
