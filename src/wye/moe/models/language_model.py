"""A small decoder (or encoder) over bytes whose feed-forward layers are whatever it is given.

Pre-norm blocks with RMSNorm, attention with rotary positions (arXiv 2104.09864), embeddings tied
to the output:
    x <- x + attention(norm(x)),  x <- x + feed_forward(norm(x)),  logits = norm(x) W_emb^T

It hands every routed layer a `Context`: token ids, labels, mask ratio, what the router below
handed up, and the attention weights of its own block where its router asks for them
(`needs_attention = True` on any of the router's modules). Padding is left out of attention and
routing.

Shape letters: B batch, L length, V vocabulary, D width, H heads, S tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from wye.moe.base import Context, MoEError, RoutedModule, make_context
from wye.moe.build import Shape
from wye.moe.models.rotary import rotary_turns, turned
from wye.moe.registry import build_layers

_FORMAT = 1
_SETTINGS, _WEIGHTS = "language_model.json", "language_model.safetensors"


class LanguageModel(nn.Module):
    """Attention blocks around given feed-forward modules.

    Args:
        feed_forwards: one module per layer. A `RoutedModule` is run with a context; any other is
            called on `[B, L, D]`, with `mask=` under padding where it has `takes_mask = True`. Mix
            both for dense layers between routed ones.
        width: D.
        length: largest L.
        vocabulary: V; 256 for bytes.
        n_heads: H, a divisor of D that leaves an even width per head.
        causal: a token attends to itself and to those before it, else to all.
        checkpointing: keep only the input of every block for the backward pass, and run the block
            again there.

    Raises:
        MoEError: no layers, or sizes that do not fit together.

    Example:
        >>> from wye.moe import Shape
        >>> shape = Shape(n_layers=1, width=16, hidden=8, n_experts=4)
        >>> model = LanguageModel.build("top_k", shape, length=32)
        >>> model(torch.zeros(2, 5, dtype=torch.int64)).shape
        torch.Size([2, 5, 256])
    """

    def __init__(
        self,
        feed_forwards: Sequence[nn.Module],
        *,
        width: int,
        length: int,
        vocabulary: int = 256,
        n_heads: int = 4,
        causal: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"width": width, "length": length, "vocabulary": vocabulary, "n_heads": n_heads}
        for name, value in sizes.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise MoEError(f"{name}={value!r}, expected an integer of at least 1")
        if width % n_heads or width // n_heads % 2:
            raise MoEError(
                f"width={width} with n_heads={n_heads}, expected a width per head that is whole "
                "and even (rotary positions turn pairs)"
            )
        if not feed_forwards:
            raise MoEError("feed_forwards is empty, expected one module per layer")
        self.width, self.length, self.vocabulary = width, length, vocabulary
        self.n_heads, self.causal, self.checkpointing = n_heads, causal, checkpointing
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.blocks = nn.ModuleList(Block(f, width, n_heads, causal) for f in feed_forwards)
        self.norm = nn.RMSNorm(width)
        turns = rotary_turns(torch.arange(length), width // n_heads)
        self.register_buffer("turns", turns, persistent=False)
        self.turns: Tensor
        self._recipe: dict[str, Any] | None = None

    @classmethod
    def build(
        cls,
        system: str,
        shape: Shape,
        *,
        length: int,
        vocabulary: int = 256,
        n_heads: int = 4,
        causal: bool = True,
        checkpointing: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> LanguageModel:
        """A model whose layers are those of a system; `save` writes down how it was built.

        Args:
            system: one of `wye.moe.system_names()`.
            shape: sizes of the layers.
            length, vocabulary, n_heads, causal, checkpointing: as in the constructor.
            options: of the system.

        Raises:
            MoEError: an unknown system or option, or sizes that do not fit together.
        """
        options = dict(options or {})
        model = cls(
            build_layers(system, shape, **options),
            width=shape.width,
            length=length,
            vocabulary=vocabulary,
            n_heads=n_heads,
            causal=causal,
            checkpointing=checkpointing,
        )
        model._recipe = {"system": system, "shape": asdict(shape), "options": options}
        return model

    def forward(
        self,
        ids_BL: Tensor,
        *,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
        mask_ratio: Tensor | None = None,
    ) -> Tensor:
        """Logits `[B, L, V]` in the dtype of the parameters.

        Args:
            ids_BL: integers in [0, V).
            mask: `[B, L]`, False or 0 at padding, whose logits mean nothing.
            labels: `[B]`, for routers that read the class of a sequence.
            mask_ratio: `[B]`, for routers that read the share of masked tokens.

        Raises:
            MoEError: another shape, or more tokens than the model was built for.
        """
        if ids_BL.ndim != 2 or ids_BL.shape[1] > self.length:
            raise MoEError(
                f"ids have shape {tuple(ids_BL.shape)}, expected [B, L] with L <= {self.length}: "
                "the model was built with that length"
            )
        if mask is not None:
            if mask.shape != ids_BL.shape:
                raise MoEError(
                    f"mask has shape {tuple(mask.shape)}, expected {tuple(ids_BL.shape)}"
                )
            mask = mask.to(torch.bool)
        x = self.embedding(ids_BL)
        context = make_context(x, token_ids=ids_BL, labels=labels, mask_ratio=mask_ratio)
        turns = self.turns[: ids_BL.shape[1]]
        seen = _visible(mask, self.causal)
        state: Tensor | None = None
        again = self.checkpointing and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            if again:
                x, state = checkpoint(
                    block, x, state, turns, context, mask, seen, use_reentrant=False
                )
            else:
                x, state = block(x, state, turns, context, mask, seen)
        logits: Tensor = F.linear(self.norm(x), self.embedding.weight)
        return logits

    def save(self, directory: str | Path) -> Path:
        """Write the model to a folder: how it was built (JSON) and its weights (safetensors).

        Raises:
            MoEError: options of the system that JSON cannot hold.
        """
        from safetensors.torch import save_model

        directory = Path(directory)
        settings = {
            "format": _FORMAT,
            "built": self._recipe,
            "width": self.width,
            "length": self.length,
            "vocabulary": self.vocabulary,
            "n_heads": self.n_heads,
            "causal": self.causal,
            "checkpointing": self.checkpointing,
        }
        try:
            text = json.dumps(settings, indent=2) + "\n"
        except TypeError as error:
            raise MoEError(
                f"the options of the system cannot be written as JSON ({error}): build the model "
                "from its layers, and hand them to load_language_model again"
            ) from error
        directory.mkdir(parents=True, exist_ok=True)
        temporary = directory / (_WEIGHTS + ".part")
        save_model(self, str(temporary))
        temporary.replace(directory / _WEIGHTS)
        (directory / _SETTINGS).write_text(text, encoding="utf-8")
        return directory


def load_language_model(
    directory: str | Path, *, feed_forwards: Sequence[nn.Module] | None = None
) -> LanguageModel:
    """The model that `save` wrote, in evaluation mode.

    Args:
        directory: the folder.
        feed_forwards: modules as those that it was built from, where it was not built from a
            system by `LanguageModel.build`.

    Raises:
        MoEError: no saved model there, weights of other shapes, or `feed_forwards` is missing.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    directory = Path(directory)
    try:
        settings = json.loads((directory / _SETTINGS).read_text(encoding="utf-8"))
        built = settings.pop("built")
        found = settings.pop("format")
    except (OSError, ValueError, KeyError) as error:
        raise MoEError(f"{directory} holds no saved language model: {error}") from error
    if found != _FORMAT:
        raise MoEError(f"{directory} has format {found}, this version reads {_FORMAT}")
    if feed_forwards is not None:
        model = LanguageModel(feed_forwards, **settings)
    elif built is not None:
        settings.pop("width")
        shape = Shape(**built["shape"])
        model = LanguageModel.build(built["system"], shape, options=built["options"], **settings)
    else:
        raise MoEError(
            f"the model in {directory} was built from modules of your own: pass the same as "
            "feed_forwards=..."
        )
    try:
        load_model(model, str(directory / _WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise MoEError(f"the weights in {directory} do not fit the model: {error}") from error
    return model.eval()


class Block(nn.Module):
    """Attention and a feed-forward module, each after a norm and around a residual."""

    def __init__(self, feed_forward: nn.Module, width: int, n_heads: int, causal: bool) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width)
        self.attention = Attention(width, n_heads, causal)
        self.norm = nn.RMSNorm(width)
        self.feed_forward = feed_forward

    def forward(
        self,
        x: Tensor,
        state: Tensor | None,
        turns: Tensor,
        context: Context,
        mask: Tensor | None,
        seen: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden states `[B, L, D]` and what the routers hand up, before and after."""
        wanted = needs_attention(self.feed_forward)
        y, attention = self.attention(self.attention_norm(x), turns, seen, wanted)
        x = x + y
        h = self.norm(x)
        if not isinstance(self.feed_forward, RoutedModule):
            told = {"mask": mask} if getattr(self.feed_forward, "takes_mask", False) else {}
            return x + self.feed_forward(h, **told), state
        here = _with(context, state, attention)
        z, routing = self.feed_forward.run_masked(h, here, mask)
        return x + z, state if routing.state is None else routing.state


class Attention(nn.Module):
    """Multi-head attention with rotary positions."""

    def __init__(self, width: int, n_heads: int, causal: bool) -> None:
        super().__init__()
        self.n_heads, self.causal = n_heads, causal
        self.input = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, turns: Tensor, seen: Tensor | None, explicit: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Output `[B, L, D]`, and the weights `[B, H, L, L]` where `explicit`.

        Args:
            x: `[B, L, D]`.
            turns: `[L, D / (2 H), 2]` cosines and sines.
            seen: `[B, 1, L, L]` booleans, who attends to whom; None for no padding.
            explicit: compute and return the weights.
        """
        B, L, D = x.shape
        q, k, v = (
            self.input(x).view(B, L, 3, self.n_heads, D // self.n_heads).permute(2, 0, 3, 1, 4)
        )
        q, k = turned(q, turns), turned(k, turns)
        weights = None
        if explicit:
            weights = self._weights(q, k, seen)
            y = weights.to(v.dtype) @ v
        else:
            alone = seen is None and self.causal
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=alone)
        return self.output(y.transpose(1, 2).reshape(B, L, D)), weights

    def _weights(self, q: Tensor, k: Tensor, seen: Tensor | None) -> Tensor:
        scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1])
        if seen is None and self.causal:
            seen = _lower(q.shape[-2], q.device)
        if seen is not None:
            scores = scores.masked_fill(~seen, -math.inf)
        return torch.softmax(scores, dim=-1)


def needs_attention(feed_forward: nn.Module) -> bool:
    """Whether a router in `feed_forward` reads the attention of its block."""
    return any(getattr(module, "needs_attention", False) for module in feed_forward.modules())


def _with(context: Context, state: Tensor | None, attention: Tensor | None) -> Context:
    if state is None and attention is None:
        return context
    return replace(context, state=state, attention=attention)


def _lower(length: int, device: torch.device) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def _visible(mask: Tensor | None, causal: bool) -> Tensor | None:
    """Who attends to whom under padding, `[B, 1, L, L]`; None without padding.

    A padded token attends to itself, so that no row of the softmax is empty.
    """
    if mask is None:
        return None
    length = mask.shape[1]
    seen = mask[:, None, None, :]
    if causal:
        seen = seen & _lower(length, mask.device)
    return seen | torch.eye(length, dtype=torch.bool, device=mask.device)
