"""Queries and personas as token ids, and answers to them, for a causal language model.

Shape letters: B batch, L length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wye.adapter.base import AdapterError
from wye.adapter.query_token import constant_tail


class PromptFormat(Protocol):
    """How a model wants to be asked.

    Attributes:
        tail: constant tokens after the query in every prompt.
        stop: id that ends an answer; None where none does.
        padding: id that fills a batch.
    """

    tail: int
    stop: int | None
    padding: int

    def encode(self, query: str, persona: str | None = None) -> list[int]:
        """Ids of the whole prompt, with the persona before the query where one is given."""
        ...

    def encode_answer(self, text: str) -> list[int]:
        """Ids of an answer, as they follow a prompt."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer, without special tokens."""
        ...


class ChatFormat:
    """A tokenizer's own chat template; the persona is the system message.

    Args:
        tokenizer: of transformers, with a chat template.
        examples: questions and answers shown as earlier turns wherever a persona is: small models
            do what they see rather than what they are told.

    Raises:
        AdapterError: it has no chat template.
    """

    def __init__(self, tokenizer: Any, examples: Sequence[tuple[str, str]] = ()) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise AdapterError(
                f"{type(tokenizer).__name__} has no chat template: set one, or pass a PromptFormat "
                "of your own"
            )
        self.tokenizer = tokenizer
        self.examples = tuple(examples)
        self.stop: int | None = tokenizer.eos_token_id
        self.padding = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)
        self.tail = constant_tail(self.encode)

    def encode(self, query: str, persona: str | None = None) -> list[int]:
        messages = []
        if persona is not None:
            messages.append({"role": "system", "content": persona})
            for question, answer in self.examples:
                messages.append({"role": "user", "content": question})
                messages.append({"role": "assistant", "content": answer})
        messages.append({"role": "user", "content": query})
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def encode_answer(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


def padded(
    rows: Sequence[Sequence[int]], padding: int, device: Any = None
) -> tuple[Tensor, Tensor]:
    """Ids and attention mask `[B, L]`, padded on the left, as generation wants them.

    Raises:
        AdapterError: no rows, or an empty one.
    """
    if not rows or not all(rows):
        raise AdapterError("expected at least one prompt, each of at least one token")
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), padding)
    mask = torch.zeros((len(rows), length), dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, length - len(row) :] = torch.tensor(list(row))
        mask[i, length - len(row) :] = 1
    return ids.to(device), mask.to(device)


@torch.no_grad()
def answers(
    model: nn.Module,
    form: PromptFormat,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    batch: int = 16,
    seed: int = 0,
) -> list[list[int]]:
    """Ids of one answer to each prompt, without what ends it.

    Args:
        model: anything with transformers' `generate`.
        form: gives padding and the id that ends an answer.
        prompts: ids.
        max_new_tokens: longest answer.
        temperature: 0 takes the likeliest token.
        batch: prompts side by side, of similar length.
        seed: of sampling; the global generator is left as it was.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, list[int]] = {}
    device = next(model.parameters()).device
    generate: Any = model.generate
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {
        "do_sample": False
    }  # fmt: skip
    mode = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for start in range(0, len(order), batch):
                some = order[start : start + batch]
                ids, mask = padded([prompts[i] for i in some], form.padding, device)
                out = generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=max_new_tokens,
                    pad_token_id=form.padding,
                    eos_token_id=form.stop,
                    **drawn,
                )
                for i, row in zip(some, out[:, ids.shape[1] :].tolist(), strict=True):
                    found[i] = row[: row.index(form.stop)] if form.stop in row else row
    finally:
        model.train(mode)
    return [found[i] for i in range(len(prompts))]


@torch.no_grad()
def log_probability(model: nn.Module, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """Log-probability in nats of `answer` after `prompt`.

    Raises:
        AdapterError: an empty answer.
    """
    if not answer:
        raise AdapterError("expected an answer of at least one token")
    ids = torch.tensor([[*prompt, *answer]], device=next(model.parameters()).device)
    logits = answer_logits(model, ids, len(prompt))
    logs = torch.log_softmax(logits.float(), dim=-1)
    picked = logs.gather(-1, ids[:, len(prompt) :, None])
    return float(picked.sum())


def answer_logits(model: nn.Module, ids: Tensor, prompt_length: int) -> Tensor:
    """Logits `[B, answer, V]` of the tokens from `prompt_length` on; the gate reads the prompt."""
    n = ids.shape[1] - prompt_length
    call: Any = model
    out = call(input_ids=ids, use_cache=False, logits_to_keep=n + 1)
    logits: Tensor = out.logits[:, :-1]
    return logits
