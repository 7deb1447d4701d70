"""Dynamic routing between experts: every token takes the LoRA modules that its activation is like.

Routes tokens, at every adapted linear layer, to the modules of tasks that were learned one after
another, on the layer's input alone. arXiv 2511.01831, whose mechanism is PHATGOOSE (2402.05859):

    stage 1, task i alone    y = W u + s B_i A_i u                       A_i, B_i train
    stage 2, same data       y = W u + sigmoid(v_i . u) s B_i A_i u      v_i trains, from 0
    inference                alpha_i = LN(v_i) . LN(u) / sqrt(n);  w = softmax over all alpha
                             y = W u + sum over the k largest of w_i s B_i A_i u

Each task is trained on its own data only, and a new one adds (A, B, v) and changes nothing else.
The trained v_i travel in the module's own PEFT files, as `lora_gate`.

Ours, where the papers do not say: a null target of score 0 without update takes part (`null`), so
that a token like no task keeps the base model's output; off gives PHATGOOSE. A module whose vector
was never trained is left out. Vision encoder and projector are not touched: keep them out of
`target_modules`. Rank 16 is PHATGOOSE's; stage 2 takes AdamW at 1e-3 for 100 steps, as many for
every task, since the sigmoid saturates.

With many modules the k weights of a softmax over all shrink: `renormalise` divides them by their
sum.

Shape letters: S tokens, T targets (the modules, then null), B batch, L length.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel
from torch import Tensor, nn

from wye.adapter.base import AdapterError, Contracts, RoutedAdapters, read_record, write_record
from wye.adapter.lora_modules import (
    add_module,
    backbone_of,
    layer_config,
    lora_layers,
    read_module,
    write_module,
)
from wye.adapter.lora_modules import decoder_layers as decoder_layers
from wye.adapter.routed_linear import RoutedLinear, TokenRouting, is_trained
from wye.adapter.training import StepLoss, train_tensors
from wye.core import Plan

NULL = "null"
Progress = Callable[[int, float], None]


class DynamicRouting(RoutedAdapters):
    """A registry of LoRA modules in one model, and the rule that chooses among them.

    Args:
        model: Hugging Face causal language model without adapters.
        k: targets of a token at a layer.
        null: whether "no module" takes part, with score 0.
        renormalise: whether the k weights are divided by their sum.

    Raises:
        AdapterError: a model that PEFT has wrapped already, or k below 1.

    Example:
        routed = DynamicRouting(model)
        routed.add("charts")
        routed.train_module("charts", loss, steps=1000)
        routed.train_gate("charts", loss, steps=100)
        routed.generate(**inputs)
    """

    system = "vlm-dynamic-routing"
    source: Literal["query", "token"] = "token"
    contracts = Contracts(causal=True, batch_invariant=True, padding=True)

    def __init__(
        self, model: nn.Module, *, k: int = 2, null: bool = True, renormalise: bool = False
    ) -> None:
        super().__init__()
        if k < 1:
            raise AdapterError(f"k={k}, expected at least 1")
        if isinstance(model, PeftModel) or lora_layers(model):
            raise AdapterError(
                "this model has LoRA layers already, which cannot be routed afterwards: start from "
                "the base model and read its adapters with read(name, folder)"
            )
        self.inner = model
        self.routing = TokenRouting(k=k, null=null, renormalise=renormalise)
        # Held in a tuple: the same modules must not be registered twice.
        self._peft: tuple[PeftModel] | None = None
        backbone = backbone_of(model)
        signature = inspect.signature(backbone.forward)

        def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = signature.bind_partial(*args, **kwargs).arguments
            given = {**given, **given.get("kwargs", {})}
            self._begin(given)

        self._handle = backbone.register_forward_pre_hook(begin, with_kwargs=True)

    @property
    def modules_present(self) -> tuple[str, ...]:
        """Names of the modules, in the order in which they came."""
        return tuple(self.routing.modules)

    @property
    def untrained(self) -> tuple[str, ...]:
        """Modules without any trained vector: nothing is routed to them until `train_gate`."""
        return tuple(
            name
            for name in self.routing.modules
            if not any(is_trained(layer.lora_gate[name]) for layer in self._layers(name).values())
        )

    @property
    def targets(self) -> tuple[str, ...]:
        return (*self.routing.modules, NULL)

    @property
    def trace(self) -> Mapping[str, Plan]:
        if not self.routing.plans:
            raise AdapterError("nothing was routed yet: run the model first")
        return dict(self.routing.plans)

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """The model's own output for the model's own arguments."""
        return self.inner(*args, **inputs)

    def add(self, name: str, config: LoraConfig | None = None, *, rank: int = 16) -> None:
        """A fresh module, which changes nothing until it is trained.

        Args:
            name: of the module.
            config: PEFT's; when None, every linear layer of every decoder layer at `rank`.
            rank: r where `config` is None; the update is scaled by 2, as with alpha = 2 r.

        Raises:
            AdapterError: a name that is taken, or a module that is no plain low-rank update.
        """
        if config is None:
            n_layers = len(decoder_layers(self.inner)[1])
            config = layer_config(self.inner, range(n_layers), rank=rank, alpha=2 * rank)
        peft = add_module(self.inner, self._wrapped, name, config, linear=RoutedLinear)
        self._welcome(name, peft)

    def read(self, name: str, folder: str | Path) -> None:
        """A module from files, of `write` or of plain PEFT; those of PEFT have no vector yet.

        Raises:
            AdapterError: no such files, or tensors that this model has no place for.
        """
        peft = read_module(self.inner, self._wrapped, name, folder, linear=RoutedLinear)
        self._welcome(name, peft)

    def write(self, name: str, directory: str | Path) -> Path:
        """One module and its vectors, as PEFT writes it, into `directory/name`."""
        return write_module(self._need(name), name, directory)

    def remove(self, name: str) -> None:
        """Take a module out; the others and the base stay as they are.

        Raises:
            AdapterError: no such module.
        """
        self._need(name).delete_adapter(name)
        self.routing.modules.remove(name)
        self.routing.plans.clear()

    def train_module(
        self,
        name: str,
        loss: StepLoss,
        *,
        steps: int = 1000,
        rate: float = 1e-3,
        progress: Progress | None = None,
    ) -> list[float]:
        """Stage 1: A_i and B_i on the task's data, no other module in the way.

        Args:
            name: of the module.
            loss: number of the step -> scalar loss of a batch through this model.
            steps: of AdamW.
            rate: its learning rate.
            progress: gets the steps done and the loss.

        Returns:
            The loss of every step.

        Raises:
            AdapterError: no such module, or a loss that is not finite.
        """
        self._need(name)
        layers = self._layers(name).values()
        tensors = [layer.lora_A[name].weight for layer in layers]
        tensors += [layer.lora_B[name].weight for layer in layers]
        with self.alone(name):
            return train_tensors(
                self.inner, tensors, loss, steps=steps, rate=rate, progress=progress
            )

    def train_gate(
        self,
        name: str,
        loss: StepLoss,
        *,
        steps: int = 100,
        rate: float = 1e-3,
        progress: Progress | None = None,
    ) -> list[float]:
        """Stage 2: the vectors v_i alone, through a sigmoid gate. Arguments as in `train_module`.

        Take as many steps for every task: the vectors are compared with each other.
        """
        self._need(name)
        tensors = [layer.lora_gate[name] for layer in self._layers(name).values()]
        with self.routing.using("gate", name):
            return train_tensors(
                self.inner, tensors, loss, steps=steps, rate=rate, progress=progress
            )

    @contextmanager
    def alone(self, name: str) -> Iterator[Self]:
        """Every token takes this module with weight 1 inside: the choice of one who knows the task.

        Raises:
            AdapterError: no such module.
        """
        self._need(name)
        with self.routing.using("plain", name):
            yield self

    @contextmanager
    def mixed(self) -> Iterator[Self]:
        """Every token takes every module with the same weight inside; weights sum to 1."""
        with self.routing.using("mean"):
            yield self

    @contextmanager
    def without(self) -> Iterator[Self]:
        """The base model inside."""
        with self.routing.using("base"):
            yield self

    def load_of(self, layer: str) -> NDArray[np.int64]:
        """Pairs of each target at a layer in the last forward pass, `[T]`, padding left out."""
        plan = self.trace[layer]
        return np.asarray(plan.load().cpu().numpy(), dtype=np.int64)

    def null_share(self) -> dict[str, float]:
        """Weight that went to no module, by layer, as a share of all weight of the last pass."""
        shares = {}
        for layer, plan in self.trace.items():
            to_null = plan.weight[plan.target == plan.n_targets - 1].sum()
            shares[layer] = float(to_null / plan.weight.sum()) if len(plan) else 0.0
        return shares

    def remove_router(self) -> None:
        self._handle.remove()
        for layer in self._layers().values():
            layer.routing = None

    def save(self, directory: str | Path) -> Path:
        for name in self.routing.modules:
            self.write(name, directory)
        settings = {
            "modules": list(self.routing.modules),
            "k": self.routing.k,
            "null": self.routing.null,
            "renormalise": self.routing.renormalise,
        }
        return write_record(directory, self.system, settings, {})

    @classmethod
    def load(cls, model: nn.Module, directory: str | Path) -> Self:
        settings, _ = read_record(directory, cls.system)
        routed = cls(
            model,
            k=int(settings["k"]),
            null=bool(settings["null"]),
            renormalise=bool(settings["renormalise"]),
        )
        for name in settings["modules"]:
            place = Path(directory) if name == "default" else Path(directory) / name
            routed.read(name, place)
        return routed

    @property
    def _wrapped(self) -> PeftModel | None:
        return None if self._peft is None else self._peft[0]

    def _layers(self, name: str | None = None) -> dict[str, Any]:
        return lora_layers(self.inner, name)

    def _need(self, name: str) -> PeftModel:
        if self._peft is None or name not in self.routing.modules:
            raise AdapterError(f"no module {name!r}: there are {self.routing.modules}")
        return self._peft[0]

    def _welcome(self, name: str, peft: PeftModel) -> None:
        self._peft = (peft,)
        for place, layer in self._layers().items():
            layer.routing, layer.place = self.routing, place
        self.routing.modules.append(name)
        self.routing.plans.clear()

    def _begin(self, given: Mapping[str, Any]) -> None:
        self.routing.plans.clear()
        mask, tokens = given.get("attention_mask"), given.get("input_ids")
        tokens = given.get("inputs_embeds") if tokens is None else tokens
        two = isinstance(mask, Tensor) and mask.ndim == 2 and tokens is not None
        # With a cache the mask covers what went before; this pass is its end.
        self.routing.mask = mask[:, -tokens.shape[1] :] != 0 if two else None  # type: ignore[index, union-attr]
