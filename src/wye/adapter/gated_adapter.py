"""One decision per query: which adapter, if any, answers it.

At prefill the hidden state h of the last query token after an early layer goes through a small
gate; the layers above then run with the chosen adapter or without, for the whole answer. Adapters
stand on layers above the gate's, so that h does not depend on the choice. The choice travels with
the KV cache: a call that continues a cache keeps the choice of the call that made it. Rows of a
batch may choose differently (PEFT's mixed batches).

The decision reads the end of the prompt, so that an output inside the prompt depends on later
tokens of it: not causal there. Behind the query it is.

Shape letters: B batch, L length, D width, T adapters (targets are the T adapters and the base).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self
from weakref import WeakKeyDictionary

import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn

from wye.adapter.base import AdapterError, Contracts, RoutedAdapters, read_record, write_record
from wye.adapter.lora_modules import (
    add_module,
    backbone_of,
    decoder_layers,
    layer_config,
    lora_layers,
    read_module,
    refuse_extras,
    write_module,
)
from wye.adapter.query_gate import QueryGate
from wye.adapter.query_token import last_query_token, states_at
from wye.core import Plan, top_k

BASE = "base"
_PEFT_BASE = "__base__"


@dataclass(frozen=True)
class GateDecision:
    """What was decided for the B queries of a batch.

    Attributes:
        gate: `[B, T]` R of every adapter; NaN where a choice was forced.
        plan: B pairs of queries and targets; the last target is the base.
        names: of the chosen target, by query.
        norm: `[B]` Euclidean norm of h, whose drift says that queries have changed; NaN where
            forced.
    """

    gate: Tensor
    plan: Plan
    names: tuple[str, ...]
    norm: Tensor


class GatedAdapter(RoutedAdapters):
    """A model with LoRA adapters behind a gate that decides once per query.

    Args:
        model: Hugging Face causal language model, or a `PeftModel` around one, whose adapters are
            then taken over as they are.
        layers: decoder layers that get a fresh adapter; all above `gate_layer` when None.
        gate_layer: the layer after which the gate reads.
        rank: r of a fresh adapter.
        alpha: a fresh adapter's update is scaled by alpha / r.
        name: of a fresh adapter.
        threshold: the adapter of largest R answers where R >= threshold, else the base; 0 always
            the adapter, 1 or more always the base.
        tail: constant tokens that follow a query in every prompt (`constant_tail`).
        hidden: widths of the gate.
        seed: of the gate's and a fresh adapter's initial weights.

    Raises:
        AdapterError: adapters on the gate's layer or below, or ones that cannot be switched per
            query; settings out of range.
    """

    system = "prism"
    source: Literal["query", "token"] = "query"
    contracts = Contracts(causal=False, batch_invariant=True, padding=True)

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[int] | None = None,
        *,
        gate_layer: int = 0,
        rank: int = 16,
        alpha: int = 32,
        name: str = "persona",
        threshold: float = 0.5,
        tail: int = 0,
        hidden: tuple[int, int] = (128, 64),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not threshold >= 0.0 or tail < 0:
            raise AdapterError(f"threshold={threshold}, tail={tail}: expected both to be >= 0")
        inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        _, stack = decoder_layers(inner)
        if not 0 <= gate_layer < len(stack) - 1:
            raise AdapterError(
                f"gate_layer={gate_layer}, expected 0 to {len(stack) - 2}: some layer must be left "
                "above it for adapters"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if isinstance(model, PeftModel):
                if layers is not None:
                    raise AdapterError("layers= is for a fresh adapter: this model has adapters")
                peft = model
            else:
                chosen = range(gate_layer + 1, len(stack)) if layers is None else layers
                _refuse_low(chosen, gate_layer)
                config = layer_config(inner, list(chosen), rank=rank, alpha=alpha)
                peft = add_module(inner, None, name, config)
            width = int(inner.config.hidden_size)
            self.gate = QueryGate(width, len(peft.peft_config), hidden)
        self.inner: nn.Module = inner
        self.gate_layer, self.threshold, self.tail = gate_layer, threshold, tail
        self._hidden = tuple(hidden)
        # Held in a tuple: `inner` is the same modules, and must not be registered twice.
        self._peft = (peft,)
        self._check_adapters(stack)
        self._known: WeakKeyDictionary[Any, GateDecision] = WeakKeyDictionary()
        self._now: GateDecision | None = None
        self._pending: tuple[Tensor | None, int, int] | None = None
        self._forced: str | None = None
        self._query_end: Tensor | None = None
        self._states: Tensor | None = None
        self._handles = self._hook(stack)
        self.gate.to(self.device)

    @property
    def peft(self) -> PeftModel:
        """PEFT's view of the same model."""
        return self._peft[0]

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the T adapters, in the order of the gate's columns."""
        return tuple(self.peft.peft_config)

    @property
    def targets(self) -> tuple[str, ...]:
        return (*self.adapters, BASE)

    @property
    def last(self) -> GateDecision:
        """The decision of the last forward pass.

        Raises:
            AdapterError: there was none.
        """
        if self._now is None:
            raise AdapterError("nothing was routed yet: run the model first")
        return self._now

    @property
    def trace(self) -> Mapping[str, Plan]:
        return {f"layer {self.gate_layer}": self.last.plan}

    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        query_end: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
    ) -> Any:
        """The model's own output.

        Args:
            input_ids: `[B, L]`.
            attention_mask: `[B, L]`, and what the cache holds before.
            query_end: `[B]` position of the last query token, where text follows it; found from
                the mask and `tail` when None.
            past_key_values: a cache that an earlier call made, whose decision is kept.
            use_cache: whether a cache is made.
        """
        with self.reading_at(query_end):
            return self.inner(
                input_ids=input_ids,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                use_cache=use_cache,
            )

    @contextmanager
    def reading_at(self, query_end: Tensor | None) -> Iterator[Self]:
        """The gate reads these positions `[B]` inside: for calls of the model with text behind."""
        before, self._query_end = self._query_end, query_end
        try:
            yield self
        finally:
            self._query_end = before

    @contextmanager
    def forced(self, target: str) -> Iterator[Self]:
        """Every query goes to `target` inside, whatever the gate says.

        Raises:
            AdapterError: no such target.
        """
        if target not in self.targets:
            raise AdapterError(f"no target {target!r}: there are {list(self.targets)}")
        before, self._forced = self._forced, target
        try:
            yield self
        finally:
            self._forced = before

    @torch.no_grad()
    def states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """h `[B, D]` of each query: what the gate reads."""
        self.forward(input_ids, attention_mask=attention_mask, use_cache=False)
        assert self._states is not None
        return self._states

    def decide(self, states: Tensor) -> GateDecision:
        """The decision for hidden states `[B, D]`."""
        with torch.no_grad():
            gate = self.gate(states)
        bar = float("inf") if self.threshold >= 1.0 else self.threshold
        base = torch.full_like(gate[:, :1], bar)
        # The base is the last column: at a tie the lower index, an adapter, is chosen.
        plan = top_k(torch.cat([gate, base], dim=1), 1, weight="one")
        names = tuple(self.targets[t] for t in plan.target.tolist())
        return GateDecision(gate, plan, names, states.float().norm(dim=1))

    def remove_router(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def save(self, directory: str | Path) -> Path:
        folder = Path(directory)
        for name in self.adapters:
            write_module(self.peft, name, folder)
        settings = {
            "adapters": list(self.adapters),
            "gate_layer": self.gate_layer,
            "threshold": self.threshold,
            "tail": self.tail,
            "hidden": list(self._hidden),
        }
        return write_record(folder, self.system, settings, self.gate.state_dict())

    @classmethod
    def load(cls, model: nn.Module, directory: str | Path) -> Self:
        folder = Path(directory)
        settings, tensors = read_record(folder, cls.system)
        peft: PeftModel | None = None
        for name in settings["adapters"]:
            place = folder if name == "default" else folder / name
            peft = read_module(model, peft, name, place)
        if peft is None:
            raise AdapterError(f"{folder} names no adapters: {json.dumps(settings)}")
        gated = cls(
            peft,
            gate_layer=int(settings["gate_layer"]),
            threshold=float(settings["threshold"]),
            tail=int(settings["tail"]),
            hidden=(int(settings["hidden"][0]), int(settings["hidden"][1])),
        )
        try:
            gated.gate.load_state_dict(tensors)
        except RuntimeError as error:
            gated.remove_router()
            raise AdapterError(f"the gate in {folder} does not fit this model: {error}") from error
        return gated

    def _check_adapters(self, stack: nn.ModuleList) -> None:
        for name, config in self.peft.peft_config.items():
            if not isinstance(config, LoraConfig):
                raise AdapterError(f"adapter {name!r} is {type(config).__name__}, expected LoRA")
            refuse_extras(name, config)
        above = {id(m) for layer in stack[self.gate_layer + 1 :] for m in layer.modules()}
        model: Any = self.inner
        head = model.get_output_embeddings()
        above |= {id(m) for m in (head.modules() if head is not None else ())}
        low = [place for place, m in lora_layers(self.inner).items() if id(m) not in above]
        if low:
            raise AdapterError(
                f"adapters stand on {low[:3]}, at or below the gate's layer {self.gate_layer}: the "
                "gate would read what its own choice changes. Leave those layers out "
                "(layers_to_transform), or raise gate_layer"
            )

    def _hook(self, stack: nn.ModuleList) -> list[Any]:
        backbone = backbone_of(self.inner)
        signature = inspect.signature(backbone.forward)

        def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._begin(signature.bind_partial(*args, **kwargs).arguments)

        handles = [
            backbone.register_forward_pre_hook(begin, with_kwargs=True),
            backbone.register_forward_hook(self._keep),
            stack[self.gate_layer].register_forward_hook(self._read),
        ]
        handles += [
            layer.register_forward_pre_hook(self._choose, with_kwargs=True)
            for layer in lora_layers(self.inner).values()
        ]
        return handles

    def _begin(self, given: Mapping[str, Any]) -> None:
        """Before the backbone runs: continue the decision of its cache, or ask for one."""
        given = {**given, **given.get("kwargs", {})}
        tokens = given.get("input_ids")
        tokens = given.get("inputs_embeds") if tokens is None else tokens
        assert tokens is not None
        batch, length = int(tokens.shape[0]), int(tokens.shape[1])
        cache = given.get("past_key_values")
        if self._forced is not None:
            # h is read all the same: it does not depend on what is forced.
            self._now = self._decided(self._forced, batch)
            self._pending = (given.get("attention_mask"), batch, length) if _fresh(cache) else None
            return
        if _fresh(cache):
            self._now, self._pending = None, (given.get("attention_mask"), batch, length)
            return
        if cache not in self._known:
            raise AdapterError(
                "this cache was made without the gate, so that no decision belongs to it: start "
                "from the prompt"
            )
        self._now, self._pending = self._known[cache], None
        if len(self._now.names) != batch:
            raise AdapterError(
                f"the cache was made for {len(self._now.names)} queries and {batch} rows came"
            )

    def _read(self, module: nn.Module, args: Any, output: Any) -> None:
        """After the gate's layer: read h and decide, once per prefill."""
        # A layer that is run again by activation checkpointing meets no open question.
        if self._pending is None:
            return
        mask, batch, length = self._pending
        self._pending = None
        hidden = output[0] if isinstance(output, tuple) else output
        position = self._query_end
        if position is None and self._forced is not None and mask is not None and mask.ndim != 2:
            return
        if position is None:
            position = last_query_token(mask, batch, length, tail=self.tail)
        self._states = states_at(hidden, position).detach()
        if self._forced is None:
            self._now = self.decide(self._states)

    def _choose(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self._now is None:
            raise AdapterError("an adapted layer ran before the gate's layer: run the whole model")
        names = [_PEFT_BASE if name == BASE else name for name in self._now.names]
        return args, {**kwargs, "adapter_names": names}

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        cache = getattr(output, "past_key_values", None)
        if cache is not None and self._now is not None:
            self._known[cache] = self._now

    def _decided(self, target: str, batch: int) -> GateDecision:
        index = torch.full((batch,), self.targets.index(target))
        one = torch.ones(batch)
        plan = Plan(torch.arange(batch), index, one, batch, len(self.targets))
        unknown = torch.full((batch, len(self.adapters)), torch.nan)
        return GateDecision(unknown, plan, (target,) * batch, unknown[:, 0])


def _fresh(cache: Any) -> bool:
    return cache is None or int(cache.get_seq_length()) == 0


def _refuse_low(layers: Sequence[int], gate_layer: int) -> None:
    low = [i for i in layers if i <= gate_layer]
    if low:
        raise AdapterError(
            f"layers={list(layers)} holds {low}, at or below gate_layer={gate_layer}: the gate "
            "would read what its own choice changes"
        )
