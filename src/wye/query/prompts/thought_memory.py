"""Thought level of FusionFactory: a query is routed to reusable thoughts on queries like it.

Routes a query to the 3 nearest remembered queries of its task, before an answer exists, on its
embedding and its task; their thoughts are put before it in the prompt. Source: Feng et al.,
FusionFactory, arXiv 2507.10540.

    answers of a training query: the 5 best by (performance, cost), of those 3 by (judge, cost)
    thought: 1 to 5 sentences by a chat model from the query and these answers, each cut to 1,000
        characters; or, without any model, the first sentences of the best answer (ours)
    retrieval: cosine of query embeddings, within the task alone

Shape letters: Q new queries, R remembered ones, D embedding width.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from wye.embed import Embedder, get_embedder
from wye.query.answers.logged_answers import LoggedAnswer, best_answers, by_query
from wye.query.base import RouterError
from wye.query.chat_models.base import ChatModel

MOST_CHARACTERS = 1000
TEMPERATURE, MOST_TOKENS = 0.2, 1024
NEAREST = 3
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True)
class Thought:
    """What was remembered of one query.

    Attributes:
        task: that it belongs to.
        query: its text.
        template: how to go about queries like it.
    """

    task: str
    query: str
    template: str


class TemplateWriter(ABC):
    """Turns the best answers to a query into a template."""

    @abstractmethod
    def write(self, query: str, answers: Sequence[LoggedAnswer]) -> str:
        """The template of `query`, from its best answers, best first; at least one."""


class ExtractedTemplates(TemplateWriter):
    """The first sentences of the best answer; no model is asked.

    Args:
        sentences: how many.
    """

    def __init__(self, *, sentences: int = 2) -> None:
        if sentences < 1:
            raise RouterError(f"sentences is {sentences}, expected 1 or more")
        self.sentences = sentences

    def write(self, query: str, answers: Sequence[LoggedAnswer]) -> str:
        """The first sentences of the best answer, cut to 1,000 characters."""
        parts = [p for p in _SENTENCE.split(answers[0].response.strip()) if p]
        return " ".join(parts[: self.sentences])[:MOST_CHARACTERS]


class WrittenTemplates(TemplateWriter):
    """Templates by a chat model: kind of task, steps of reasoning, form of the answer.

    Args:
        model: that writes.
    """

    def __init__(self, model: ChatModel) -> None:
        self.model = model

    def write(self, query: str, answers: Sequence[LoggedAnswer]) -> str:
        """What the model makes of the query and its answers.

        Raises:
            ChatModelError: the model cannot be asked.
            RouterError: it wrote nothing.
        """
        said = "\n\n".join(
            f"Answer {n}:\n{a.response[:MOST_CHARACTERS]}" for n, a in enumerate(answers, start=1)
        )
        asked = (
            "Below are a question and good answers to it. Write a template for solving questions "
            "like it, 1 to 5 sentences: first the kind of task and the approach, then the steps of "
            "the reasoning in 1 to 3 sentences, last the form of the answer. Do not mention this "
            f"question's own values.\n\nQuestion:\n{query}\n\n{said}\n\nTemplate:"
        )
        reply = self.model.generate(
            [{"role": "user", "content": asked}], max_tokens=MOST_TOKENS, temperature=TEMPERATURE
        )
        if not reply.text.strip():
            raise RouterError(
                f"{self.model.name} wrote no template for {query[:80]!r}; use another model or "
                "ExtractedTemplates()"
            )
        return reply.text.strip()


class ThoughtMemory:
    """Thoughts on training queries, found again by task and similarity.

    Args:
        writer: of templates; `ExtractedTemplates()` when not given.
        embedder: a spec of `wye.embed.get_embedder`, or an `Embedder`.
        models: whose answers are learned from; all when None.
    """

    def __init__(
        self,
        *,
        writer: TemplateWriter | None = None,
        embedder: str | Embedder = "static",
        models: Collection[str] | None = None,
    ) -> None:
        self.writer = ExtractedTemplates() if writer is None else writer
        self.embedder = embedder
        self.models = models

    def fit(self, answers: Iterable[LoggedAnswer]) -> Self:
        """Write and remember a thought on each query with an answer that is right at all.

        Raises:
            RouterError: no query has one.
        """
        thoughts = []
        for (task, query), own in by_query(answers).items():
            kept = [a for a in best_answers(own, models=self.models) if a.performance > 0]
            if kept:
                thoughts.append(Thought(task, query, self.writer.write(query, kept)))
        if not thoughts:
            raise RouterError("no answer has a performance above 0; there is nothing to remember")
        return self.remember(thoughts)

    def remember(self, thoughts: Sequence[Thought]) -> Self:
        """Take thoughts that were written before in place of those known."""
        texts = [t.query for t in thoughts]
        self.embedder_ = get_embedder(self.embedder).fit(texts)
        self.thoughts_ = tuple(thoughts)
        self.vectors_ = self.embedder_.embed(texts)
        self.tasks_ = np.array([t.task for t in thoughts])
        return self

    def nearest(
        self, queries: Sequence[str], tasks: Sequence[str], *, k: int = NEAREST
    ) -> list[list[Thought]]:
        """The k nearest thoughts of the task of each query, nearest first; fewer where there are.

        Args:
            queries: Q texts.
            tasks: the task of each; one that nothing is known of has no thoughts.
            k: 1 or more.

        Raises:
            RouterError: nothing was remembered, or `tasks` does not fit.
        """
        if not hasattr(self, "thoughts_"):
            raise RouterError("nothing is remembered; call fit(answers) first")
        if len(tasks) != len(queries) or k < 1:
            raise RouterError(
                f"{len(tasks)} tasks for {len(queries)} queries and k={k}; expected one each, and "
                "k of 1 or more"
            )
        found: list[list[Thought]] = [[] for _ in queries]
        if not len(queries):
            return found
        vectors = self.embedder_.embed(queries)
        asked = np.array(tasks)
        for task in sorted(set(asked.tolist())):
            held, rows = np.flatnonzero(self.tasks_ == task), np.flatnonzero(asked == task)
            order = np.argsort(-(vectors[rows] @ self.vectors_[held].T), axis=1, kind="stable")
            for row, best in zip(rows.tolist(), held[order[:, :k]].tolist(), strict=True):
                found[row] = [self.thoughts_[i] for i in best]
        return found

    def prompts(
        self, queries: Sequence[str], tasks: Sequence[str], *, k: int = NEAREST
    ) -> list[str]:
        """Each query behind the nearest questions and their templates."""
        return [
            thought_prompt(query, thoughts)
            for query, thoughts in zip(queries, self.nearest(queries, tasks, k=k), strict=True)
        ]


def thought_prompt(query: str, thoughts: Sequence[Thought]) -> str:
    """The query behind similar questions and their templates; the query alone where there are none.

    Example:
        >>> thought_prompt("2 + 2?", [])
        '2 + 2?'
    """
    if not thoughts:
        return query
    shown = "\n\n".join(
        f"Similar question {n}: {t.query}\nTemplate {n}: {t.template}"
        for n, t in enumerate(thoughts, start=1)
    )
    return (
        f"{shown}\n\nQuestion: {query}\n\nUse the templates above where they help. Reason step by "
        "step, then put the answer between <answer> and </answer>."
    )
