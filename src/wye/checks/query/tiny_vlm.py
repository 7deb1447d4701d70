"""A tiny VLM that answers questions about digits and letters with one byte.

A causal transformer of 3 layers and width 96 reads 4 image tokens (a real 8x8 digit in 4x4 patches
through a linear projector) and the bytes of a question; questions about letters have no image.

`QUESTIONS` are of two kinds. A general model is trained on those of `BASE` and `GENERAL` at once,
so that it has to read a question in order to answer it: a model that only ever saw one question
need not read it, and its activations then say nothing about what is asked. `TASKS` come afterwards.

Shape letters: B batch, L length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from wye.checks.base import CheckError
from wye.checks.moe.digits import digits

N_TRAIN = 1258  # 70% of 1,797
WIDTH, LAYERS, HEADS, HIDDEN, VOCABULARY = 96, 3, 4, 256, 128
BATCH = 32
RATE = 2e-3
BASE = "digit"
GENERAL = ("next", "ink", "loops", "three", "same", "upper", "vowel", "first")
TASKS = ("parity", "five", "dark", "letter")
QUESTIONS = {
    BASE: "which digit?",
    "next": "one more is?",
    "ink": "much ink?",
    "loops": "holes in it?",
    "three": "divides by three?",
    "same": "copy: ",
    "upper": "capital of: ",
    "vowel": "vowel? ",
    "first": "first of: ",
    "parity": "odd or even?",
    "five": "at least five?",
    "dark": "how dark, left?",
    "letter": "next letter: ",
}
_ON_LETTERS = ("same", "upper", "vowel", "first", "letter")
_LOOPS = (1, 0, 0, 0, 0, 0, 1, 0, 2, 1)  # closed ones in each digit


@dataclass(frozen=True)
class Examples:
    """Images `[n, 4, 16]` or None, question bytes `[n, L]` and answer bytes `[n]` of one task."""

    images: Tensor | None
    text: Tensor
    answer: Tensor

    @property
    def n_images(self) -> int:
        """Image tokens in front of the question."""
        return 0 if self.images is None else self.images.shape[1]

    def at(self, index: Tensor) -> Examples:
        """Some of them."""
        images = None if self.images is None else self.images[index]
        return Examples(images, self.text[index], self.answer[index])


class TinyVLM(nn.Module):
    """[image tokens; question] -> logits `[B, V]` of the answer."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=64,
        )
        self.language: Any = LlamaForCausalLM(config)
        self.projector = nn.Linear(16, WIDTH)

    def forward(self, examples: Examples) -> Tensor:
        x = self.language.get_input_embeddings()(examples.text)
        if examples.images is not None:
            x = torch.cat([self.projector(examples.images), x], dim=1)
        mask = torch.ones(x.shape[:2], dtype=torch.int64)
        out = self.language(inputs_embeds=x, attention_mask=mask, use_cache=False)
        logits: Tensor = out.logits[:, -1]
        return logits


def task_examples(task: str, held_out: bool) -> Examples:
    """All examples of a task in one part of the images.

    Letters are no sample of anything: their tasks are seen and measured on all of them.

    Raises:
        CheckError: an unknown task.
    """
    if task not in QUESTIONS:
        raise CheckError(f"no task is called {task!r}; there are {list(QUESTIONS)}")
    if task in _ON_LETTERS:
        return _on_letters(task)
    data = digits(N_TRAIN)
    images = data.held_out if held_out else data.train
    labels = data.held_out_labels if held_out else data.train_labels
    if task == "parity":
        answer = torch.where(labels % 2 == 0, ord("e"), ord("o"))
    elif task in ("five", "three"):
        is_so = labels >= 5 if task == "five" else labels % 3 == 0
        answer = torch.where(is_so, ord("y"), ord("n"))
    elif task in ("dark", "ink"):
        columns = 4 if task == "dark" else 8
        edges = torch.quantile(_ink(data.train, columns), torch.tensor([0.25, 0.5, 0.75]))
        answer = torch.bucketize(_ink(images, columns), edges) + ord("0")
    elif task == "loops":
        answer = torch.tensor(_LOOPS)[labels] + ord("0")
    else:
        answer = (labels + (task == "next")) % 10 + ord("0")
    patches = images[:, 0].reshape(-1, 2, 4, 2, 4).transpose(2, 3).reshape(-1, 4, 16)
    return Examples(patches, _asked(task, torch.zeros(len(images), 0, dtype=torch.int64)), answer)


def train_base(vlm: TinyVLM, steps: int, generator: Generator) -> None:
    """Train all weights on the questions of `BASE` and `GENERAL` in turn, then freeze them."""
    loss_of = batches_of(vlm, (BASE, *GENERAL), generator)
    optimiser = torch.optim.AdamW(vlm.parameters(), lr=RATE)
    vlm.train()
    for step in range(steps):
        loss = loss_of(step)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(vlm.parameters(), 1.0)
        optimiser.step()
    vlm.requires_grad_(False)


def batches_of(vlm: TinyVLM, tasks: Sequence[str], generator: Generator) -> Callable[[int], Tensor]:
    """Loss of a batch by the number of the step, of the tasks in turn."""
    parts = [task_examples(task, held_out=False) for task in tasks]

    def loss(step: int) -> Tensor:
        examples = parts[step % len(parts)]
        some = examples.at(torch.randint(len(examples.answer), (BATCH,), generator=generator))
        return F.cross_entropy(vlm(some), some.answer)

    return loss


@torch.no_grad()
def accuracy(vlm: TinyVLM, task: str) -> float:
    """Share of held-out questions answered with the right byte of all bytes."""
    examples = task_examples(task, held_out=True)
    vlm.eval()
    return float((vlm(examples).argmax(dim=-1) == examples.answer).float().mean())


def _on_letters(task: str) -> Examples:
    letters = torch.arange(26)
    if task == "first":
        pairs = torch.cartesian_prod(letters, letters) + ord("a")
        return Examples(None, _asked(task, pairs), pairs[:, 0])
    asked = _asked(task, letters[:, None] + ord("a"))
    if task == "vowel":
        is_so = torch.isin(letters + ord("a"), torch.tensor(list(b"aeiou")))
        return Examples(None, asked, torch.where(is_so, ord("v"), ord("c")))
    first = ord("A") if task == "upper" else ord("a")
    return Examples(None, asked, (letters + (task == "letter")) % 26 + first)


def _asked(task: str, last: Tensor) -> Tensor:
    """Question bytes with `last` `[n, 0 or more]` behind them."""
    question = torch.tensor(list(QUESTIONS[task].encode()))
    return torch.cat([question.expand(len(last), -1), last], dim=1)


def _ink(images: Tensor, columns: int) -> Tensor:
    """Mean ink of the first columns, `[n]`."""
    return images[:, 0, :, :columns].mean(dim=(1, 2))
