"""Choosing a model, seeing its outcome alone, and learning from it: the stream's half of a router.

The contract is told in `wye.query.online.base`, whose `OnlineRouter` adds what reads logs.

Shape letters: Q queries, M models, D context width, E embedding width.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from wye.core import Cusum
from wye.core.bandits import Bandit
from wye.embed import Embedder, EmbedError, get_embedder
from wye.query.base import BoolArray, FloatArray, NotFittedError, QueryRouter, RouterError
from wye.query.learning.arm_heads import ArmHead
from wye.query.learning.contexts import ContextReader, Task
from wye.query.learning.familiarity import Familiarity
from wye.query.online.feedback import NAN, Observed, Outcome, Ticket
from wye.query.online.tickets import OpenTickets

# Standard deviation of a single quality that nothing is known of, and the prior of its mean.
SPREAD, PRIOR = 0.5, 0.5
# Slack and threshold of the watch on residuals, in units of SPREAD: a lasting shift of 0.25 in
# quality is found within some 30 outcomes.
DRIFT_SLACK, DRIFT_THRESHOLD = 0.25, 8.0
_HEADS = ("quality", "cost", "latency")


class Queries(NamedTuple):
    """Q queries as they were read: unit vectors `[Q, E]`, and what a reader took of the texts."""

    vectors: NDArray[np.float32]
    read: FloatArray


@dataclass(kw_only=True, eq=False, repr=False)
class OnlineLearner(QueryRouter):
    """What learns from its own choices; `wye.query.online.base.OnlineRouter` adds what reads logs.

    Choosing, learning, estimating and storing may be called from several threads.

    Args:
        arms: names of the models to start with; `fit` takes those of its log instead, and so does
            `replay` where none are named.
        embedder: a spec of `wye.embed.get_embedder`, or an `Embedder`.
        max_references: first queries kept to tell how new another one is.
        max_open: tickets kept open; the oldest is dropped beyond.
        seed: of every random choice.

    Attributes:
        models_: names of the models.
        bandit_: what chooses.
        heads_: expected quality, cost and latency of each model.
        open_: tickets that wait for their outcome.
    """

    arms: Sequence[str] = ()
    embedder: str | Embedder = "static"
    max_references: int = 1024
    max_open: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        self.arms = self.arms if isinstance(self.arms, str) else tuple(self.arms)
        self._turn = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        # A lock belongs to its process: it is neither copied nor sent to another one.
        return {name: value for name, value in self.__dict__.items() if name != "_turn"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._turn = threading.RLock()

    # What a system adds.

    @abstractmethod
    def _make_reader(self, embedder: Embedder) -> ContextReader:
        """A reader of contexts that has seen nothing."""

    @abstractmethod
    def _make_bandit(self, n_arms: int, width: int) -> Bandit:
        """A bandit that has learned nothing, for M arms and contexts of width D."""

    @abstractmethod
    def rewards(self, observed: Observed, tasks: Sequence[Task]) -> FloatArray:
        """Reward of every outcome `[Q, N]`, NaN where a figure that it needs is unknown."""

    def _pick(
        self, context: FloatArray, mask: BoolArray
    ) -> tuple[tuple[int, ...], float, FloatArray]:
        """Columns of the chosen models, probability of that choice, and scores `[M]`."""
        pick = self.bandit_.pick(context, self.generator_, mask)
        return (pick.arm,), pick.propensity, pick.score

    # Choosing and learning.

    def start(self, models: Sequence[str]) -> Self:
        """Begin with `models`, knowing nothing of them.

        Raises:
            RouterError: no models, a name that stands twice, or a wrong parameter.
        """
        self.begin(models, get_embedder(self.embedder))
        self.begin_arms()
        return self

    def select(
        self,
        text: str,
        *,
        allowed: Sequence[str] | None = None,
        task: Task = None,
    ) -> Ticket:
        """Choose a model for one query.

        Args:
            text: the query.
            allowed: names of the models that may be chosen; all when None.
            task: what kind of query it is, where the caller knows and the router reads tasks.

        Raises:
            NotFittedError: the router has no models yet.
            RouterError: an unknown model or task, or nothing is allowed.
        """
        with self._turn:
            self._check_started()
            return self.select_read(self.read([text]), 0, task=task, mask=self._mask(allowed))

    def read(self, texts: Sequence[str]) -> Queries:
        """What the texts of Q queries say, before any context is made of them.

        Raises:
            RouterError: `texts` is not a sequence of strings.
        """
        if not hasattr(self, "reader_"):
            self._check_started()
        try:
            return Queries(self.embedder_.embed(texts), self.reader_.read(texts))
        except EmbedError as error:
            raise RouterError(str(error)) from error

    def select_read(self, queries: Queries, row: int, *, task: Task, mask: BoolArray) -> Ticket:
        """`select` for one of several queries that were read together; `mask` `[M]` is allowed."""
        vector = queries.vectors[row]
        read = queries.read[row : row + 1]
        context = self.reader_.contexts(vector[None], read, [task])[0]
        columns, propensity, score = self._pick(context, mask)
        self.reader_.observe(vector)
        self.familiarity_.add(vector[None])
        return self.open_.give(
            targets=tuple(self.models_[c] for c in columns),
            propensity=propensity,
            models=self.models_,
            score=score,
            context=context,
            task=task,
        )

    def update(self, ticket: Ticket | str, outcome: Outcome | Mapping[str, Outcome]) -> bool:
        """Learn what came out of a choice; whether anything was learned.

        Args:
            ticket: what `select` gave, or its id.
            outcome: of the chosen model; of each chosen model by name where a set was chosen.

        Returns:
            False where the outcome lacks a figure that the reward needs (the ticket stays open), or
            where the model has left meanwhile.

        Raises:
            RouterError: the ticket was used, dropped or never given, or the outcomes name models
                that were not chosen.
        """
        with self._turn:
            self._check_started()
            opened = self.open_.get(ticket.id if isinstance(ticket, Ticket) else ticket)
            outcomes = _by_target(opened, outcome)
            observed = Observed.of([outcomes[t] for t in opened.targets])
            rewards = self.rewards(observed, [opened.task] * len(opened.targets))[:, 0]
            known = np.isfinite(rewards) & np.isfinite(observed.quality[:, 0])
            if opened.targets and not known.any():
                return False
            self.open_.close(opened.id)
            learned = False
            for i, target in enumerate(opened.targets):
                if known[i] and target in self.models_:
                    arm = self.models_.index(target)
                    self._learn(arm, opened.context, outcomes[target], float(rewards[i]))
                    learned = True
            return learned

    def add_arm(self, name: str) -> None:
        """Let a model join, which nothing is known of.

        Raises:
            RouterError: a model of that name is there, or the name is empty.
        """
        if not isinstance(name, str) or not name.strip():
            raise RouterError(f"the model's name is {name!r}, expected a text that is not empty")
        with self._turn:
            if not hasattr(self, "heads_") and not self.arms:
                self.start([name])
                return
            self._check_started()
            if name in self.models_:
                raise RouterError(
                    f"model {name!r} is there already; there are {list(self.models_)}"
                )
            self.bandit_.add_arm()
            for head in self.heads_.values():
                head.add_arm()
            self.models_ = (*self.models_, name)
            self.watches_[name] = _watch()

    def remove_arm(self, name: str) -> None:
        """Let a model leave, at once; outcomes of it that come later teach nothing.

        Raises:
            RouterError: no model has that name, or it is the last one.
        """
        with self._turn:
            self._check_started()
            arm = self._column(name)
            if len(self.models_) == 1:
                raise RouterError(f"{name!r} is the last model; add another before it leaves")
            self.bandit_.remove_arm(arm)
            for head in self.heads_.values():
                head.remove_arm(arm)
            self.models_ = tuple(m for m in self.models_ if m != name)
            del self.watches_[name]

    @property
    def drifted_(self) -> dict[str, int]:
        """Models whose quality left its expectation lastingly: 1 for better, -1 for worse."""
        return {m: w.direction for m, w in self.watches_.items() if w.direction}

    # Parts.

    def begin(self, models: Sequence[str], embedder: Embedder) -> None:
        """Start with `models` and a reader that has seen nothing; `begin_arms` comes after it."""
        names = tuple(models)
        if isinstance(models, str) or not names or len(set(names)) < len(names):
            raise RouterError(f"models are {models!r}, expected one or more different names")
        self.embedder_ = embedder
        self.reader_ = self._make_reader(embedder)
        self.models_ = names
        self.generator_ = np.random.default_rng(self.seed)
        self.familiarity_ = Familiarity(self.max_references, embedder.dim)
        self.open_ = OpenTickets(self.max_open)
        self.watches_ = {m: _watch() for m in names}

    def begin_arms(self) -> None:
        """Make the bandit and the heads, for contexts as wide as the reader's are by now."""
        n_arms, width = len(self.models_), self.reader_.width
        self.bandit_ = self._make_bandit(n_arms, width)
        self.heads_ = {
            name: ArmHead(n_arms, width, prior=PRIOR if name == "quality" else NAN)
            for name in _HEADS
        }

    def _learn(self, arm: int, context: FloatArray, outcome: Outcome, reward: float) -> None:
        x = context[None]
        expected = float(self.heads_["quality"].value(x)[0, arm])
        self.watches_[self.models_[arm]].update(outcome.quality - expected)
        self.bandit_.learn(arm, x, np.array([reward]))
        for name, head in self.heads_.items():
            value = getattr(outcome, name)
            if np.isfinite(value):
                head.learn(arm, x, np.array([value]))

    def _mask(self, allowed: Sequence[str] | None) -> BoolArray:
        mask = np.zeros(len(self.models_), np.bool_)
        mask[[self._column(name) for name in (self.models_ if allowed is None else allowed)]] = True
        if not mask.any():
            raise RouterError("allowed names no model; allow at least one")
        return mask

    def _column(self, name: str) -> int:
        if name not in self.models_:
            raise RouterError(f"no model is named {name!r}; there are {list(self.models_)}")
        return self.models_.index(name)

    def _check_started(self) -> None:
        if hasattr(self, "heads_"):
            return
        if not self.arms:
            raise NotFittedError(
                f"router {self.name!r} has no models yet; call fit(data), start(models) or add_arm"
            )
        self.start(self.arms)


def _watch() -> Cusum:
    return Cusum(slack=DRIFT_SLACK, threshold=DRIFT_THRESHOLD, spread=SPREAD)


def _by_target(ticket: Ticket, outcome: Outcome | Mapping[str, Outcome]) -> dict[str, Outcome]:
    if isinstance(outcome, Outcome):
        return {ticket.target: outcome}
    if not isinstance(outcome, Mapping):
        raise RouterError(
            f"the outcome is {outcome!r}, expected an Outcome, for instance Outcome(quality=1.0), "
            "or one for each chosen model by its name"
        )
    if set(outcome) != set(ticket.targets):
        raise RouterError(
            f"outcomes of {sorted(outcome)} were given, expected those of {list(ticket.targets)}"
        )
    return dict(outcome)
