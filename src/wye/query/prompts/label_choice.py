"""Choosing among labels by asking a chat model: by what it writes, or by what it finds probable.

Written replies are read at their start only, so that a model which restates the question has chosen
nothing. Label log-probabilities always choose; use them where the model gives them.

Shape letters: L labels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wye.query.base import FloatArray, RouterError
from wye.query.chat_models.base import ChatModel, Message

By = Literal["text", "log-probabilities"]


@dataclass(frozen=True)
class LabelChoice:
    """What a model chose.

    Attributes:
        label: None where what it wrote begins with no label.
        reason: what it wrote behind the label; all of it where there is none.
        log_probabilities: `[L]`, normalised; None where it was asked to write.
        input_tokens, output_tokens: of asking; the label counts as one token where it is scored.
        cost_usd: of asking; NaN where no price is known.
    """

    label: str | None
    reason: str
    log_probabilities: FloatArray | None
    input_tokens: int
    output_tokens: int
    cost_usd: float


class LabelReader:
    """Reads the label with which a reply begins.

    Raises:
        RouterError: fewer than one label, an empty or double one.

    Example:
        >>> LabelReader(["good", "bad"]).read("**Good**: it is complete.")
        ('good', 'it is complete.')
    """

    def __init__(self, labels: Sequence[str]) -> None:
        if not labels or not all(labels) or len(set(labels)) < len(labels):
            raise RouterError(f"labels are {list(labels)}, expected different, non-empty strings")
        # Longest first, so that no label hides another one that it begins.
        names = "|".join(re.escape(n) for n in sorted(labels, key=len, reverse=True))
        self._start = re.compile(rf"[\s\"'*_`<\[(]*({names})(?!\w)[\s\"'*_`>\])]*:?", re.IGNORECASE)
        self._by_case = {label.casefold(): label for label in labels}

    def read(self, text: str) -> tuple[str | None, str]:
        """The label, None for none, and the rest.

        Of labels that differ in case alone the last one counts.
        """
        found = self._start.match(text)
        if found is None:
            return None, text.strip()
        return self._by_case[found[1].casefold()], text[found.end() :].strip()


class LabelAsker:
    """Asks a chat model for one of some labels.

    Args:
        model: is asked.
        labels: what it may choose.
        by: `text` lets it write greedily and parses the start, `log-probabilities` scores the
            labels as continuations.
        max_tokens: that it may write.

    Raises:
        RouterError: fewer than one label, an empty or double one, or an unknown `by`.

    Example:
        >>> from wye.query.chat_models import ProgramChatModel
        >>> judge = ProgramChatModel("judge", lambda messages: "Hard: because of recursion.")
        >>> LabelAsker(judge, ["Easy", "Hard"]).ask([{"role": "user", "content": "?"}]).label
        'Hard'
    """

    def __init__(
        self,
        model: ChatModel,
        labels: Sequence[str],
        *,
        by: By = "text",
        max_tokens: int = 100,
    ) -> None:
        if by not in ("text", "log-probabilities"):
            raise RouterError(f"by is {by!r}, expected text or log-probabilities")
        self.model = model
        self.labels = tuple(labels)
        self.by = by
        self.max_tokens = max_tokens
        self._reader = LabelReader(labels)

    def ask(self, messages: Sequence[Message]) -> LabelChoice:
        """The label that the model chooses for a prompt.

        Raises:
            ChatModelError: the model fails, or does not score labels.
        """
        if self.by == "text":
            return self._written(messages)
        scores = self.model.label_log_probabilities(messages, self.labels)
        best = int(np.argmax(scores))
        price_in = getattr(self.model, "price_in_per_mtok", float("nan"))
        price_out = getattr(self.model, "price_out_per_mtok", float("nan"))
        tokens = self.model.prompt_tokens(messages)
        return LabelChoice(
            label=self.labels[best],
            reason=f"probability {np.exp(scores[best]):.2f} among {len(self.labels)} labels",
            log_probabilities=scores,
            input_tokens=tokens,
            output_tokens=1,
            cost_usd=(tokens * price_in + price_out) / 1e6,
        )

    def parse(self, text: str) -> tuple[str | None, str]:
        """The label with which a reply begins, None for none, and the rest.

        Of labels that differ in case alone the last one counts.
        """
        return self._reader.read(text)

    def _written(self, messages: Sequence[Message]) -> LabelChoice:
        made = self.model.generate(messages, max_tokens=self.max_tokens, temperature=0.0)
        label, reason = self.parse(made.text)
        return LabelChoice(
            label, reason, None, made.input_tokens, made.output_tokens, made.cost_usd
        )
