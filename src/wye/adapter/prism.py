"""PRISM: expert personas where they help, the untouched model elsewhere.

Routes a query, once, at prefill, to "adapter" or "base" on the hidden state of its last token after
layer 0. The adapter holds what a persona prompt does to the model's answers, so that serving needs
no persona tokens. arXiv 2603.18507. For a model M and K personas c_k, with no outside data:

    1 queries        M writes N queries for each c_k
    2 answers        y_0 = M(x),  y_k = M(c_k, x)
    3 verification   M judges (y_0, y_k) in both orders; t = 1 where y_k wins both
    4 gate           R(x) = sigmoid(g(h)), g = MLP D -> 128 -> 64 -> 1, BCE to t, classes balanced
    5 distillation   LoRA on layers 1.. learns KL(M(. | c_k, x, y) || M+LoRA(. | x, y)) where t = 1
    serving          R >= threshold: M + LoRA for the whole answer; else M

A LoRA above layer 0 never moves h, so that the decision does not read its own outcome.

Ours, where the paper does not say: AdamW at 1e-4 for 3 epochs of batches of 8, the gate at 1e-3 for
up to 50 epochs with early stopping on a fifth held out; standardised gate inputs; forward KL (a
flag turns it). All personas share one adapter, as in the paper. Where several personas were tried
on a query, it counts as won where any of them wins, and the winner that the judge prefers most is
learned. With several adapters (`GatedAdapter` around a model that has them) the one of largest R
answers.

Query writer and judge are callables: a weak model neither writes nor judges well, and a rule that
checks what the persona is for takes their place.

Shape letters: Q queries, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from wye.adapter.base import AdapterError
from wye.adapter.distillation import Direction, Distilled, distil
from wye.adapter.gated_adapter import BASE, GatedAdapter, GateDecision
from wye.adapter.judging import Judge, SelfJudge, wins_both_orders
from wye.adapter.prompts import PromptFormat, answers, padded
from wye.adapter.query_gate import GateFit, train_query_gate

QueryWriter = Callable[[str, int], Sequence[str]]
"""(persona, n) -> n queries that would profit from it."""

_ADAPTER = "persona"
_ASK = (
    "Write {n} different questions that somebody would ask this expert. One question a line, no "
    "numbers, nothing else.\n\nThe expert: {persona}"
)


@dataclass(frozen=True)
class Comparison:
    """One query, what was answered, and which persona won it.

    Attributes:
        query: x.
        plain: ids of y_0.
        winner: name of the persona whose answer won both orders; None where none did.
        answer: ids of the winner's answer; empty where none won.
    """

    query: str
    plain: tuple[int, ...]
    winner: str | None
    answer: tuple[int, ...] = ()


@dataclass(frozen=True)
class Bootstrapped:
    """What a bootstrap made and how the training went.

    Attributes:
        comparisons: all queries; t = 1 where one has a winner.
        gate: how the gate was trained; None where every target was the same.
        distillation: loss of every step; empty where no persona won.
    """

    comparisons: tuple[Comparison, ...]
    gate: GateFit | None
    distillation: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class BootstrapSettings:
    """Sizes of a bootstrap.

    Attributes:
        queries_per_persona: N.
        samples: persona answers tried for each query; the first that wins is learned.
        temperature: of those answers when there are several; the plain answer takes the likeliest
            tokens.
        max_new_tokens: longest answer.
        batch: answers written side by side.
        gate_epochs: passes of the gate, at most.
        gate_rate: its learning rate.
        steps: of distillation; `epochs` when None.
        epochs: passes over the answers that won.
        distil_batch: answers of a step.
        distil_rate: learning rate of the adapter.
        direction: of the divergence.
    """

    queries_per_persona: int = 100
    samples: int = 1
    temperature: float = 0.7
    max_new_tokens: int = 256
    batch: int = 16
    gate_epochs: int = 50
    gate_rate: float = 1e-3
    steps: int | None = None
    epochs: int = 3
    distil_batch: int = 8
    distil_rate: float = 1e-4
    direction: Direction = "forward"


@dataclass(frozen=True)
class PersonaRouter:
    """A gated adapter that holds personas, and how to ask it.

    Attributes:
        gated: the model with adapter and gate.
        form: how the model wants to be asked.
        history: what it was made from; None where it was loaded.
    """

    gated: GatedAdapter
    form: PromptFormat
    history: Bootstrapped | None = field(default=None, repr=False)

    @classmethod
    def bootstrap(
        cls,
        model: nn.Module,
        form: PromptFormat,
        personas: Mapping[str, str],
        *,
        queries: QueryWriter | Mapping[str, Sequence[str]] | None = None,
        retain: Sequence[str] = (),
        judge: Judge | None = None,
        layers: Sequence[int] | None = None,
        gate_layer: int = 0,
        rank: int = 16,
        alpha: int = 32,
        threshold: float = 0.5,
        settings: BootstrapSettings | None = None,
        seed: int = 0,
        progress: Callable[[str], None] | None = None,
    ) -> Self:
        """Make gate and adapter from the model's own answers.

        Args:
            model: Hugging Face causal language model, without adapters.
            form: how it wants to be asked.
            personas: text by name.
            queries: writes them, or the queries themselves by persona; the model writes them when
                None.
            retain: further queries on which every persona is tried as well; they are mostly lost,
                and tell the gate what to leave alone.
            judge: says which of two answers is better; the model itself when None.
            layers: decoder layers with LoRA; all above `gate_layer` when None.
            gate_layer: the layer after which the gate reads.
            rank: of the LoRA.
            alpha: of the LoRA.
            threshold: of R.
            settings: sizes; those of `BootstrapSettings` when None.
            seed: of everything random.
            progress: is told what is going on.

        Raises:
            AdapterError: no personas or no queries.

        Warns:
            UserWarning: no persona ever wins, or always: the gate is constant then.
        """
        settings = settings or BootstrapSettings()
        say = progress or (lambda message: None)
        if not personas:
            raise AdapterError("expected at least one persona")
        gated = GatedAdapter(
            model,
            layers,
            gate_layer=gate_layer,
            rank=rank,
            alpha=alpha,
            name=_ADAPTER,
            threshold=threshold,
            tail=form.tail,
            seed=seed,
        )
        gated.eval()
        with gated.forced(BASE):
            asked = _asked(gated.inner, form, personas, queries, retain, settings, seed)
            say(f"{len(asked)} queries")
            comparisons = _compare(
                gated.inner, form, personas, asked, judge or SelfJudge(gated.inner, form), settings,
                seed, say,
            )  # fmt: skip
        router = cls(gated, form)
        won = [c for c in comparisons if c.winner is not None]
        say(f"personas won {len(won)} of {len(comparisons)} queries")
        states = router.states([c.query for c in comparisons])
        targets = torch.tensor([[float(c.winner is not None)] for c in comparisons])
        fit = train_query_gate(
            gated.gate,
            states,
            targets,
            epochs=settings.gate_epochs,
            rate=settings.gate_rate,
            seed=seed,
        )
        losses: list[float] = []
        if won:
            losses = distil(
                gated,
                _ADAPTER,
                [_item(form, personas, c) for c in won],
                steps=settings.steps,
                epochs=settings.epochs,
                batch=settings.distil_batch,
                rate=settings.distil_rate,
                direction=settings.direction,
                seed=seed,
                progress=lambda step, loss: say(f"distillation step {step}, loss {loss:.3f}"),
            )
        history = Bootstrapped(tuple(comparisons), fit, tuple(losses))
        return cls(gated, form, history)

    @torch.no_grad()
    def states(self, queries: Sequence[str], *, batch: int = 32) -> Tensor:
        """h `[Q, D]` of queries as they are served."""
        parts = (queries[start : start + batch] for start in range(0, len(queries), batch))
        return torch.cat([self.gated.states(*self._batch(part)) for part in parts])

    def decide(self, queries: Sequence[str]) -> GateDecision:
        """Where queries would go, without answering them."""
        return self.gated.decide(self.states(queries))

    def answer(
        self,
        queries: Sequence[str],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        batch: int = 16,
        seed: int = 0,
    ) -> list[str]:
        """Answers, each from the target that the gate chose for its query."""
        found = answers(
            self.gated.inner,
            self.form,
            [self.form.encode(query) for query in queries],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            batch=batch,
            seed=seed,
        )
        return [self.form.decode(ids) for ids in found]

    def save(self, directory: str | Path) -> Path:
        """Write adapter and gate."""
        return self.gated.save(directory)

    @classmethod
    def load(cls, model: nn.Module, form: PromptFormat, directory: str | Path) -> Self:
        """Put what `save` wrote into `model`.

        Raises:
            AdapterError: no such files, or the gate was trained on prompts that end otherwise.
        """
        gated = GatedAdapter.load(model, directory)
        if gated.tail != form.tail:
            raise AdapterError(
                f"the gate was trained on prompts with {gated.tail} tokens after the query, this "
                f"format has {form.tail}: use the format that it was trained with"
            )
        return cls(gated, form)

    def _batch(self, queries: Sequence[str]) -> tuple[Tensor, Tensor]:
        rows = [self.form.encode(query) for query in queries]
        return padded(rows, self.form.padding, self.gated.device)


def model_writer(model: nn.Module, form: PromptFormat, *, seed: int = 0) -> QueryWriter:
    """The model writes the queries: lines of sampled answers, without doubles."""

    def write(persona: str, n: int) -> list[str]:
        found: dict[str, None] = {}
        prompt = form.encode(_ASK.format(n=min(n, 10), persona=persona))
        for attempt in range(4 * n):
            if len(found) >= n:
                break
            [ids] = answers(
                model, form, [prompt], max_new_tokens=256, temperature=1.0, seed=seed + attempt
            )
            lines = (line.strip(" -*0123456789.)") for line in form.decode(ids).splitlines())
            found |= dict.fromkeys(line for line in lines if line)
        if len(found) < n:
            warnings.warn(
                f"the model wrote {len(found)} different queries of {n} for a persona: give "
                "queries, or a writer that can",
                stacklevel=2,
            )
        return list(found)[:n]

    return write


def _asked(
    model: nn.Module,
    form: PromptFormat,
    personas: Mapping[str, str],
    queries: QueryWriter | Mapping[str, Sequence[str]] | None,
    retain: Sequence[str],
    settings: BootstrapSettings,
    seed: int,
) -> list[tuple[str, tuple[str, ...]]]:
    """Every query with the names of the personas to try on it."""
    if isinstance(queries, Mapping):
        unknown = [name for name in queries if name not in personas]
        if unknown:
            raise AdapterError(f"queries for {unknown}, which are no personas: {list(personas)}")
        given = queries
    else:
        write = queries if queries is not None else model_writer(model, form, seed=seed)
        given = {n: write(text, settings.queries_per_persona) for n, text in personas.items()}
    asked: dict[str, tuple[str, ...]] = {}
    for name, some in given.items():
        for query in some:
            asked[query] = (*asked.get(query, ()), name)
    for query in retain:
        asked[query] = tuple(personas)
    if not asked:
        raise AdapterError("there are no queries to learn from: give some, or a writer of them")
    return list(asked.items())


def _compare(
    model: nn.Module,
    form: PromptFormat,
    personas: Mapping[str, str],
    asked: Sequence[tuple[str, tuple[str, ...]]],
    judge: Judge,
    settings: BootstrapSettings,
    seed: int,
    say: Callable[[str], None],
) -> list[Comparison]:
    def write(prompts: list[list[int]], temperature: float, draw: int) -> list[list[int]]:
        return answers(
            model,
            form,
            prompts,
            max_new_tokens=settings.max_new_tokens,
            temperature=temperature,
            batch=settings.batch,
            seed=seed + draw,
        )

    plain = write([form.encode(query) for query, _ in asked], 0.0, 0)
    say("plain answers written")
    best: list[tuple[float, str, list[int]] | None] = [None] * len(asked)
    for sample in range(settings.samples):
        tries = [
            (i, name)
            for i, (_, names) in enumerate(asked)
            for name in names
            if best[i] is None or sample == 0
        ]
        prompts = [form.encode(asked[i][0], personas[name]) for i, name in tries]
        warm = settings.temperature if settings.samples > 1 else 0.0
        for (i, name), ids in zip(tries, write(prompts, warm, sample + 1), strict=True):
            query, text, other = asked[i][0], form.decode(ids), form.decode(plain[i])
            if not ids or not wins_both_orders(judge, query, text, other):
                continue
            margin = judge(query, text, other) - judge(query, other, text)
            held = best[i]
            if held is None or margin > held[0]:
                best[i] = (margin, name, ids)
        say(f"persona answers written and judged, draw {sample + 1} of {settings.samples}")
    return [
        Comparison(query, tuple(y_0), None if b is None else b[1], () if b is None else tuple(b[2]))
        for (query, _), y_0, b in zip(asked, plain, best, strict=True)
    ]


def _item(form: PromptFormat, personas: Mapping[str, str], won: Comparison) -> Distilled:
    assert won.winner is not None
    end = () if form.stop is None else (form.stop,)
    return Distilled(
        student=tuple(form.encode(won.query)),
        teacher=tuple(form.encode(won.query, personas[won.winner])),
        answer=(*won.answer, *end),
    )


__all__ = [
    "BootstrapSettings",
    "Bootstrapped",
    "Comparison",
    "GatedAdapter",
    "PersonaRouter",
    "QueryWriter",
    "model_writer",
]
