"""A Hugging Face causal language model in this process as a chat model."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Self

import numpy as np

from wye.query.base import FloatArray
from wye.query.chat_models.asking import call_cost, check_call, check_labels, cut_at_stop
from wye.query.chat_models.base import ChatModel, ChatModelError, Generation, Message, normalised


class TransformersChatModel(ChatModel):
    """A causal language model and its tokenizer, with the tokenizer's chat template.

    Any model of a hub serves: `TransformersChatModel.from_pretrained("name/of-the-model")`, or load
    `AutoModelForCausalLM` and `AutoTokenizer` yourself and hand them over.

    Args:
        model: a causal language model of the library transformers, in evaluation mode.
        tokenizer: its tokenizer.
        name: identity; the model's own name or path when not given.
        price_in_per_mtok, price_out_per_mtok: USD per million tokens; NaN leaves the cost unknown.

    Raises:
        ChatModelError: the tokenizer has no chat template.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str | None = None,
        *,
        price_in_per_mtok: float = math.nan,
        price_out_per_mtok: float = math.nan,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.price_in_per_mtok = price_in_per_mtok
        self.price_out_per_mtok = price_out_per_mtok
        self.name = name or f"transformers:{model.config.name_or_path or type(model).__name__}"
        if not tokenizer.chat_template:
            raise ChatModelError(
                f"the tokenizer of {self.name} has no chat template; set tokenizer.chat_template"
            )

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        *,
        device: str = "cpu",
        dtype: str = "auto",
        gguf_file: str | None = None,
        price_in_per_mtok: float = math.nan,
        price_out_per_mtok: float = math.nan,
    ) -> Self:
        """Load model and tokenizer from a folder or, by any name of it, a hub.

        Args:
            name_or_path: as for `AutoModelForCausalLM.from_pretrained`.
            device: where the model runs.
            dtype: of the weights, `auto` as they are stored.
            gguf_file: a file of quantised weights in the folder or repository.
            price_in_per_mtok, price_out_per_mtok: see the class.

        Raises:
            ChatModelError: transformers is not installed, or nothing is found under the name.
        """
        if find_spec("transformers") is None or find_spec("torch") is None:
            raise ChatModelError(
                "a model in this process needs transformers, which is not installed; install it "
                'with: pip install "wye[transformers]"'
            )
        transformers: Any = import_module("transformers")
        # `None` would be read as the name of a file.
        given = {} if gguf_file is None else {"gguf_file": gguf_file}
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(name_or_path, **given)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                name_or_path, dtype=dtype, **given
            )
        except (OSError, ValueError) as error:
            raise ChatModelError(
                f"no model could be loaded from {name_or_path!r}: {error}"
            ) from error
        return cls(
            model.eval().to(device),
            tokenizer,
            f"transformers:{name_or_path}",
            price_in_per_mtok=price_in_per_mtok,
            price_out_per_mtok=price_out_per_mtok,
        )

    def generate(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Generation:
        """One answer; see `ChatModel.generate`. Log-probabilities are those before temperature.

        Raises:
            ChatModelError: the call is out of range, or the prompt fills the model's context.
        """
        import torch

        check_call(self.name, messages, max_tokens=max_tokens, temperature=temperature, top_p=top_p)
        began = time.perf_counter()
        prompt = self._prompt(messages)
        room = self._context() - prompt.shape[1]
        if room < 1:
            raise ChatModelError(
                f"the prompt has {prompt.shape[1]} tokens and {self.name} reads "
                f"{self._context()}; shorten it"
            )
        sampling = (
            {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
            if temperature > 0
            else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        )
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            if seed is not None:
                torch.manual_seed(seed)
            made = self.model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=min(max_tokens, room),
                output_logits=True,
                return_dict_in_generate=True,
                pad_token_id=self._pad(),
                stopping_criteria=self._stops(stop, prompt.shape[1]) if stop else None,
                **sampling,
            )
        ids = made.sequences[0, prompt.shape[1] :]
        text, stopped = cut_at_stop(self.tokenizer.decode(ids, skip_special_tokens=True), stop)
        own, runner_up = _of_tokens(made.logits, ids)
        ended = stopped or int(ids[-1]) in self._ends()
        n_in, n_out = int(prompt.shape[1]), len(ids)
        return Generation(
            text=text,
            input_tokens=n_in,
            output_tokens=n_out,
            finish_reason="stop" if ended else "length",
            model=self.name,
            log_probabilities=own,
            runner_up=runner_up,
            seconds=time.perf_counter() - began,
            cost_usd=call_cost(n_in, n_out, self.price_in_per_mtok, self.price_out_per_mtok),
        )

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the chat up to where the answer begins."""
        return int(self._prompt(messages).shape[1])

    def label_log_probabilities(
        self, messages: Sequence[Message], labels: Sequence[str]
    ) -> FloatArray:
        """`[L]` exact log-probability of each label after the prompt, normalised over the labels.

        The prompt is read once, then all labels in one forward pass. A label that begins another,
        as `A` does `AB`, counts the probability of both.

        Raises:
            ChatModelError: the call is out of range, a label has no token, or prompt and label do
                not fit the model's context.
        """
        import torch

        check_call(self.name, messages)
        check_labels(self.name, labels)
        prompt = self._prompt(messages)[0]
        ids = [
            torch.tensor(
                self.tokenizer(label, add_special_tokens=False)["input_ids"],
                dtype=prompt.dtype,
                device=prompt.device,
            )
            for label in labels
        ]
        if min(len(i) for i in ids) == 0:
            raise ChatModelError(f"one of the labels {list(labels)} has no token in {self.name}")
        longest = max(len(i) for i in ids)
        if len(prompt) + longest > self._context():
            raise ChatModelError(
                f"prompt and label have {len(prompt) + longest} tokens and {self.name} reads "
                f"{self._context()}; shorten the prompt"
            )
        rows = torch.full((len(ids), longest), self._pad(), dtype=prompt.dtype)
        for row, label in enumerate(ids):
            rows[row, : len(label)] = label
        with torch.no_grad():
            steps = self._steps(prompt, rows.to(prompt.device))
        scores = [
            float(steps[row, torch.arange(len(label)), label].double().sum())
            for row, label in enumerate(ids)
        ]
        return normalised(np.array(scores))

    def _steps(self, prompt: Any, rows: Any) -> Any:
        """`[L, N, V]` log-probabilities of each of the N tokens of L rows behind one prompt."""
        import torch

        # What follows a row lies behind it, where a causal model does not look.
        read = self.model(input_ids=prompt[None], use_cache=True)
        memory: Any = getattr(read, "past_key_values", None)
        if hasattr(memory, "batch_repeat_interleave"):
            memory.batch_repeat_interleave(len(rows))
            first = read.logits[:, -1:].expand(len(rows), -1, -1)
            rest = self.model(input_ids=rows, past_key_values=memory).logits[:, :-1]
            logits = torch.cat([first, rest], dim=1)
        else:
            whole = torch.cat([prompt.expand(len(rows), -1), rows], dim=1)
            logits = self.model(input_ids=whole).logits[:, len(prompt) - 1 : -1]
        return torch.log_softmax(logits.float(), dim=-1)

    def _prompt(self, messages: Sequence[Message]) -> Any:
        """`[1, S]` ids of the chat up to where the answer begins."""
        made = self.tokenizer.apply_chat_template(
            [dict(m) for m in messages],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        return made["input_ids"].to(self.model.device)

    def _stops(self, stop: Sequence[str], start: int) -> Any:
        """Whether what was written from `start` on holds one of the `stop` strings."""
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList

        tokenizer = self.tokenizer
        # A token writes a byte at least, so that a string ends within as many tokens as bytes.
        window = max(len(s.encode()) for s in stop) + 4

        class StopStrings(StoppingCriteria):
            def __call__(self, ids: Any, scores: Any, **given: Any) -> Any:
                written = ids[:, max(start, ids.shape[1] - window) :]
                texts = tokenizer.batch_decode(written, skip_special_tokens=True)
                return torch.tensor([any(s in text for s in stop) for text in texts]).to(ids.device)

        return StoppingCriteriaList([StopStrings()])

    def _context(self) -> int:
        return int(getattr(self.model.config, "max_position_embeddings", None) or 2**31)

    def _ends(self) -> set[int]:
        ends = self.model.generation_config.eos_token_id
        if ends is None:
            ends = self.tokenizer.eos_token_id
        return set(ends) if isinstance(ends, list) else {ends}

    def _pad(self) -> int:
        # Padded places are masked, so any id of the vocabulary serves where none is set.
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else 0


def _of_tokens(logits: Sequence[Any], ids: Any) -> tuple[FloatArray, FloatArray]:
    """`[T]` log-probability of the chosen token at each step, and of the best other one."""
    own, other = [], []
    for step, token in zip(logits, ids.tolist(), strict=True):
        log_probabilities = step[0].double().log_softmax(-1)
        own.append(float(log_probabilities[token]))
        log_probabilities[token] = -math.inf
        other.append(float(log_probabilities.max()))
    return np.array(own), np.array(other)
