"""Online routers: choose a model, see the outcome of that model alone, and learn from it.

Routes a query to a model, before an answer exists, on its text and on the outcomes of its own
earlier choices. The contract:

- `select(text)` gives a `Ticket` with the chosen model and the probability of the choice;
- `update(ticket, outcome)` learns, whenever the outcome comes. A ticket is used once. An outcome
  whose quality is not known teaches nothing and leaves the ticket open;
- `add_arm` and `remove_arm` change the models at any time;
- `replay(log)` runs the router over a log as over a stream, showing it only what it chose.

It is a `QueryRouter` as well: `fit(data)` starts it anew and learns every known outcome of a log (a
warm start), and `estimate` gives the expected quality, cost and latency that it has learned, with
uncertainty, so that every policy and the gateway work with it. A system adds what it reads of a
query (`_make_reader`), its bandit (`_make_bandit`) and its reward (`rewards`).

Shape letters: Q queries, M models, D context width, E embedding width.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from wye.embed import get_embedder
from wye.query.base import BoolArray, Estimate, FloatArray, RouterError
from wye.query.learning.contexts import Task
from wye.query.online.feedback import NAN, Observed, Replay
from wye.query.online.learner import SPREAD, OnlineLearner
from wye.query.online.learner import Queries as Queries

if TYPE_CHECKING:
    from wye.data import RoutingData


@dataclass(kw_only=True, eq=False, repr=False)
class OnlineRouter(OnlineLearner):
    """Base of the routers that learn from their own choices.

    Args:
        arms, embedder, max_references, max_open, seed: see `OnlineLearner`.

    Attributes:
        models_, bandit_, heads_, open_: see `OnlineLearner`.
    """

    # What a system may add.

    def _learn_scale(self, data: RoutingData, observed: Observed) -> None:
        """Learn from a log what puts the figures of a reward on one scale."""

    def _warm(self, contexts: FloatArray, rewards: FloatArray) -> None:
        """Teach the bandit all known rewards `[Q, M]` of a log."""
        for arm in range(rewards.shape[1]):
            known = np.flatnonzero(np.isfinite(rewards[:, arm]))
            self.bandit_.learn(arm, contexts[known], rewards[known, arm])
        self.bandit_.skip(len(rewards))

    def observed(self, data: RoutingData) -> Observed:
        """The outcomes of a log, `[Q, M]` each."""
        unknown = np.full((len(data), len(data.model_names)), NAN)
        return Observed(data.quality, data.cost, data.latency, unknown)

    # Logs.

    def replay(
        self,
        log: RoutingData,
        *,
        seed: int | None = None,
        tasks: bool = False,
        queries: Queries | None = None,
    ) -> Replay:
        """Run over a log as over a stream; only outcomes of chosen models are shown.

        A router without models starts with those of the log. A model whose outcome on a query is
        unknown cannot be chosen for it; a query without any known outcome is left out.

        Args:
            log: holds every model of the router.
            seed: order of the queries at random; the order of the log when None.
            tasks: tell the router the dataset of each query as its task.
            queries: what `read` gave for the texts of the log, where several replays share it.

        Raises:
            RouterError: the log lacks a model, or has no known outcome.
        """
        from wye.query.online.replaying import replay

        return replay(self, log, seed=seed, tasks=tasks, queries=queries)

    # A warm start, and estimates.

    def fit(self, data: RoutingData) -> Self:
        """Start anew with the models of `data` and learn every known outcome of it.

        Raises:
            RouterError: a parameter is wrong, or `data` has no known outcome.
        """
        observed = self.observed(data)
        known: BoolArray = np.isfinite(observed.quality).sum(axis=1) > 0
        if not known.any():
            raise RouterError(
                f"{data.name} has no known outcome ({len(data)} queries, "
                f"{len(data.model_names)} models); a router learns from at least one"
            )
        if not known.all():
            return self.fit(data.where(known))
        embedder = get_embedder(self.embedder).fit(data.texts)
        self.begin(data.model_names, embedder)
        queries = self.read(data.texts)
        vectors, read = queries.vectors, queries.read
        named: list[Task] = [str(d) for d in data.datasets]
        self.reader_.fit(vectors, read, named)
        self._learn_scale(data, observed)
        self.begin_arms()
        # What is asked for later comes without a task, so it is learned as it will be read.
        contexts = self.reader_.contexts(vectors, read, [None] * len(data))
        self.familiarity_.add(vectors[self._sampled(len(data))])
        for name, head in self.heads_.items():
            values = getattr(observed, name)
            for arm in range(len(self.models_)):
                there = np.flatnonzero(np.isfinite(values[:, arm]))
                head.learn(arm, contexts[there], values[there, arm])
        self._warm(contexts, self.rewards(observed, named))
        return self

    def estimate(self, texts: Sequence[str]) -> Estimate:
        """Expected quality, cost and latency of every model on every text, as learned so far.

        Raises:
            NotFittedError: the router has no models yet.
            RouterError: `texts` is not a sequence of strings.
        """
        started = time.perf_counter()
        with self._turn:
            self._check_started()
            spent = self.embedder_.spent_usd
            queries = self.read(texts)
            n = len(queries.vectors)
            contexts = self.reader_.contexts(queries.vectors, queries.read, [None] * n)
            quality = self.heads_["quality"]
            spread = SPREAD * quality.ridge.spread(contexts)
            of_mean = SPREAD / np.sqrt(quality.count + 1.0)
            return Estimate(
                models=self.models_,
                quality=np.clip(quality.value(contexts), 0.0, 1.0),
                quality_std=np.minimum(np.hypot(spread, of_mean), SPREAD),
                cost=self.heads_["cost"].value(contexts),
                latency=self.heads_["latency"].value(contexts),
                novelty=self.familiarity_.novelty(queries.vectors),
                router_cost=(self.embedder_.spent_usd - spent) / max(1, n),
                router_seconds=(time.perf_counter() - started) / max(1, n),
            )

    # Storing.

    def get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """What was learned, open tickets and the state of the random generator included."""
        from wye.query.online.state import state_of

        with self._turn:
            self._check_started()
            return state_of(self)

    def set_state(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Restore what `get_state` returned.

        Raises:
            RouterError: the router was learned with another embedder.
        """
        from wye.query.online.state import restore

        restore(self, arrays, values)

    def scale_state(self) -> dict[str, Any]:
        """What `_learn_scale` learned, JSON."""
        return {}

    def set_scale_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `scale_state` returned."""

    def _sampled(self, n: int) -> NDArray[np.intp]:
        order = np.random.default_rng(self.seed).permutation(n)[: self.max_references]
        return np.asarray(np.sort(order), np.intp)
