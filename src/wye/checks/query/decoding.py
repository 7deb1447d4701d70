"""Writing many replies at once with a byte-level model that remembers keys and values.

Prompts of different lengths stand in one batch, padded at their ends; every sample of a prompt
continues from one reading of it.

Shape letters: B batch, L length, D width, H heads, A width of a head, V vocabulary, T bytes of a
reply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from wye.moe.models.language_model import Block, LanguageModel
from wye.moe.models.rotary import turned

Floats = NDArray[np.float64]
END = 0
_Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Reply:
    """What a solver wrote.

    Attributes:
        text: without the end byte; bytes that are no UTF-8 are replaced.
        log_probabilities: `[T]` of each byte written, the end included, at temperature 1.
        runner_up: `[T]` of the best other byte at that place.
        ended: False where it was cut at `most` bytes.
    """

    text: str
    log_probabilities: Floats
    runner_up: Floats
    ended: bool


def padded(pairs: Sequence[tuple[bytes, bytes]]) -> tuple[Tensor, Tensor, Tensor]:
    """Bytes `[n, L]`, where each answer starts and where it ends, `[n]`."""
    starts = torch.tensor([len(p) for p, _ in pairs])
    ends = torch.tensor([len(p) + len(a) for p, a in pairs])
    joined = np.full((len(pairs), int(ends.max())), END, np.uint8)
    for i, (prompt, answer) in enumerate(pairs):
        joined[i, : len(prompt) + len(answer)] = np.frombuffer(prompt + answer, np.uint8)
    return torch.from_numpy(joined), starts, ends


@torch.no_grad()
def write(
    model: LanguageModel,
    prompts: Sequence[bytes],
    temperature: float,
    samples: int,
    most: int,
    generator: torch.Generator,
) -> list[list[Reply]]:
    """`samples` replies to each prompt, in order.

    Args:
        model: whose feed-forwards are not routed.
        prompts: at least one byte each, `most` below the length of the model.
        temperature: 0 is greedy.
        samples: of each prompt.
        most: bytes of a reply, the end included.
        generator: of the sampling.
    """
    ids, lengths, _ = padded([(p, b"") for p in prompts])
    memory = Memory(model, len(prompts), ids.shape[1] + most)
    logits = memory.read(ids.long())[torch.arange(len(prompts)), lengths - 1]
    memory.repeat(samples)
    logits = logits.repeat_interleave(samples, 0)
    at = lengths.repeat_interleave(samples)
    total = len(at)
    written = np.zeros((total, most), np.uint8)
    said, other = np.zeros((total, most)), np.zeros((total, most))
    length = np.full(total, most)
    done = np.zeros(total, dtype=bool)
    for t in range(most):
        law = torch.log_softmax(logits.float(), dim=-1)
        if temperature > 0:
            chosen = torch.multinomial((law / temperature).softmax(-1), 1, generator=generator)
        else:
            chosen = law.argmax(dim=-1, keepdim=True)
        said[:, t] = law.gather(1, chosen)[:, 0].double().numpy()
        other[:, t] = law.scatter(1, chosen, -torch.inf).amax(dim=-1).double().numpy()
        written[:, t] = chosen[:, 0].numpy()
        ends = ~done & (written[:, t] == END)
        length[ends] = t + 1
        done |= ends
        if done.all() or t + 1 == most:
            break
        logits = memory.step(chosen[:, 0], at + t)
    return [
        [
            Reply(
                bytes(written[r, : length[r] - int(done[r])]).decode(errors="replace"),
                said[r, : length[r]].copy(),
                other[r, : length[r]].copy(),
                bool(done[r]),
            )
            for r in range(i * samples, (i + 1) * samples)
        ]
        for i in range(len(prompts))
    ]


class Memory:
    """Keys and values of all layers, `[B, H, L, A]`, for rows of different lengths."""

    def __init__(self, model: LanguageModel, rows: int, length: int) -> None:
        self.model, self.length = model, length
        shape = (rows, model.n_heads, length, model.width // model.n_heads)
        self.keys = [torch.zeros(shape) for _ in model.blocks]
        self.values = [torch.zeros(shape) for _ in model.blocks]

    def read(self, ids: Tensor) -> Tensor:
        """Logits `[B, L, V]` of whole prompts, padded at their ends."""
        span = ids.shape[1]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.keys[layer][:, :, :span], self.values[layer][:, :, :span] = k, v
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        return self._through(ids, self.model.turns[:span], attend)

    def repeat(self, samples: int) -> None:
        """Continue each row `samples` times, one after the other."""
        if samples > 1:
            self.keys = [k.repeat_interleave(samples, 0) for k in self.keys]
            self.values = [v.repeat_interleave(samples, 0) for v in self.values]

    def step(self, byte: Tensor, at: Tensor) -> Tensor:
        """Logits `[B, V]` after one more byte in each row, at position `at` `[B]`.

        What padding left in the memory lies at `at` or after it, so it is overwritten before it
        is seen.
        """
        rows = torch.arange(len(byte))
        span = int(at.max()) + 1
        seen = (torch.arange(span) <= at[:, None])[:, None, None, :]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.keys[layer][rows, :, at], self.values[layer][rows, :, at] = k[:, :, 0], v[:, :, 0]
            return F.scaled_dot_product_attention(
                q, self.keys[layer][:, :, :span], self.values[layer][:, :, :span], attn_mask=seen
            )

        return self._through(byte[:, None], self.model.turns[at][:, None, None], attend)[:, 0]

    def _through(self, ids: Tensor, turns: Tensor, attend: _Attend) -> Tensor:
        model = self.model
        x = model.embedding(ids)
        B, L, D = x.shape
        for layer, module in enumerate(model.blocks):
            block = cast(Block, module)
            attention = block.attention
            mixed = attention.input(block.attention_norm(x))
            q, k, v = mixed.view(B, L, 3, model.n_heads, D // model.n_heads).permute(2, 0, 3, 1, 4)
            q, k = turned(q, turns), turned(k, turns)
            y = attend(layer, q, k, v)
            x = x + attention.output(y.transpose(1, 2).reshape(B, L, D))
            x = x + block.feed_forward(block.norm(x))
        logits: Tensor = F.linear(model.norm(x), model.embedding.weight)
        return logits
