"""FrugalGPT: models asked one after the other, cheap first, until a scorer trusts the answer.

Routes a query to a sequence of models, after each answer, on question and answer. Source: Chen,
Zaharia and Zou, FrugalGPT, arXiv 2305.05176.

    g_m(q, a)   learned score of an answer of model m (`AnswerScorer`), 0 to 1
    d = 1 - g;  stage j keeps its answer where d < tau_j; the last stage keeps always
    chain and tau maximise mean quality, subject to mean cumulative cost <= budget (`search_chain`)

The paper fine-tunes an encoder as g; here it is a head on the project's embeddings, or on those of
any encoder that is named. Ours: scores for the search come out of fold, since a scorer trusts the
answers that it learned from too much. The paper's other two ways to save are
`wye.query.answers.completion_cache` and `wye.query.prompts.saving`.

Shape letters: Q queries, M models, X observed figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wye.embed import Embedder
from wye.query.base import FloatArray, NotFittedError, RouterError
from wye.query.chat_models.base import ChatModel, Generation
from wye.query.learning.answer_scorer import AnswerScorer
from wye.query.learning.chain_search import Chain, ChainOutcome, run_chain, search_chain
from wye.query.learning.named_arrays import prefixed, under
from wye.query.stored_system import StoredSystem

Observe = Callable[[Generation], Sequence[float]]


@dataclass(frozen=True)
class FrugalAnswer:
    """One query answered by the chain.

    Attributes:
        text: the answer kept.
        model: who gave it.
        scores: of every answer that was scored, by model, in the order in which they were asked.
        cost_usd: of all answers asked for; NaN where a price is unknown.
    """

    text: str
    model: str
    scores: Mapping[str, float]
    cost_usd: float


class FrugalGPT(StoredSystem):
    """A cascade of models with learned scorers and thresholds.

    Args:
        budget: USD a query, on average over the training queries.
        max_length: the most models in the chain.
        grid: points on each axis of the first search.
        embedder: of questions and answers.
        hidden: width of the scorers' hidden layer; 0 for logistic regression.
        n_folds: in which the scores of the search are computed.
        observe: what else the scorers read of a live answer, in the order of `observed` in `fit`.
        seed: of folds and scorers.

    Attributes:
        chain_: stages and thresholds.
        models_: names of the models.
        scorers_: one for each model.
        training_score_: `[Q, M]` scores of the training answers, out of fold; `fit_chain` with
            another budget needs nothing else.

    Raises:
        RouterError: a parameter out of range.
    """

    not_stored: ClassVar[tuple[str, ...]] = ("observe",)

    def __init__(
        self,
        *,
        budget: float,
        max_length: int = 3,
        grid: int = 40,
        embedder: str | Embedder = "static",
        hidden: int = 0,
        n_folds: int = 3,
        observe: Observe | None = None,
        seed: int = 0,
    ) -> None:
        if not budget > 0 or max_length < 1 or grid < 1 or n_folds < 2:
            raise RouterError(
                f"budget={budget}, max_length={max_length}, grid={grid}, n_folds={n_folds}; "
                "expected above 0, at least 1, at least 1 and at least 2"
            )
        self.budget = budget
        self.max_length = max_length
        self.grid = grid
        self.embedder = embedder
        self.hidden = hidden
        self.n_folds = n_folds
        self.observe = observe
        self.seed = seed

    def fit(
        self,
        models: Sequence[str],
        questions: Sequence[str],
        answers: Sequence[Sequence[str]],
        quality: FloatArray,
        cost: FloatArray,
        observed: FloatArray | None = None,
    ) -> Self:
        """Learn the scorers, then the chain on scores that each scorer gave out of fold.

        Args:
            models: M names.
            questions: Q.
            answers: Q rows of M answers.
            quality, cost: `[Q, M]`, 0 to 1 and USD, all known.
            observed: `[Q, M, X]` figures of each answer, such as its mean log-probability.

        Raises:
            RouterError: shapes do not fit, something is unknown, or nothing is within the budget.
        """
        shape = (len(questions), len(models))
        if any(len(row) != shape[1] for row in answers) or len(answers) != shape[0]:
            raise RouterError(f"answers are not {shape[0]} rows of {shape[1]}")
        if quality.shape != shape or cost.shape != shape:
            raise RouterError(
                f"quality has shape {quality.shape} and cost {cost.shape}, expected {shape}"
            )
        score = np.empty(shape)
        self.models_ = tuple(models)
        self.scorers_: list[AnswerScorer] = []
        for m in range(shape[1]):
            scorer = self._fresh_scorer()
            score[:, m] = scorer.fit_out_of_fold(
                questions,
                [row[m] for row in answers],
                quality[:, m],
                None if observed is None else observed[:, m],
                n_folds=self.n_folds,
            )
            self.scorers_.append(scorer)
        self.training_score_ = score
        return self.fit_chain(models, score, quality, cost)

    def fit_chain(
        self, models: Sequence[str], score: FloatArray, quality: FloatArray, cost: FloatArray
    ) -> Self:
        """Learn the chain alone, on scores `[Q, M]` from elsewhere that were not fitted on them.

        Raises:
            RouterError: as `wye.query.learning.chain_search.search_chain`.
        """
        self.models_ = tuple(models)
        if score.shape[1:] != (len(self.models_),):
            raise RouterError(f"score has shape {score.shape} for {len(self.models_)} models")
        self.chain_: Chain = search_chain(
            score,
            quality,
            cost,
            self.budget,
            max_length=self.max_length,
            grid=self.grid,
            seed=self.seed,
        )
        return self

    def score(
        self,
        questions: Sequence[str],
        answers: Sequence[Sequence[str]],
        observed: FloatArray | None = None,
    ) -> FloatArray:
        """`[Q, M]` score of each answer.

        Raises:
            NotFittedError: before `fit`.
        """
        if not hasattr(self, "scorers_"):
            raise NotFittedError("FrugalGPT has no scorers; call fit first")
        columns = [
            scorer.score(
                questions, [row[m] for row in answers], None if observed is None else observed[:, m]
            )
            for m, scorer in enumerate(self.scorers_)
        ]
        return np.column_stack(columns)

    def run(self, score: FloatArray, quality: FloatArray, cost: FloatArray) -> ChainOutcome:
        """The learned chain on recorded answers, arrays `[Q, M]`.

        Raises:
            NotFittedError: before `fit`.
        """
        if not hasattr(self, "chain_"):
            raise NotFittedError("FrugalGPT has no chain; call fit or fit_chain first")
        return run_chain(self.chain_, score, quality, cost)

    def answer(
        self, question: str, models: Mapping[str, ChatModel], *, max_tokens: int = 512
    ) -> FrugalAnswer:
        """Ask the models of the chain in turn until an answer is kept.

        Raises:
            NotFittedError: before `fit`.
            RouterError: a model of the chain is not given.
            ChatModelError: a model cannot answer.
        """
        if not hasattr(self, "chain_") or not hasattr(self, "scorers_"):
            raise NotFittedError("FrugalGPT is not fitted; call fit first")
        names = [self.models_[m] for m in self.chain_.stages]
        missing = [n for n in names if n not in models]
        if missing:
            raise RouterError(f"the chain asks {names}; models lacks {missing}")
        scores: dict[str, float] = {}
        cost = 0.0
        for stage, (column, name) in enumerate(zip(self.chain_.stages, names, strict=True)):
            made = models[name].generate(
                [{"role": "user", "content": question}], max_tokens=max_tokens
            )
            cost += made.cost_usd
            if stage == len(names) - 1:
                break
            seen = None if self.observe is None else np.array([self.observe(made)], np.float64)
            scores[name] = float(self.scorers_[column].score([question], [made.text], seen)[0])
            if 1.0 - scores[name] < self.chain_.thresholds[stage]:
                break
        return FrugalAnswer(made.text, name, scores, cost)

    @classmethod
    def load(cls, directory: str | Path, *, observe: Observe | None = None) -> Self:
        """Read what `save` wrote to `directory`.

        Args:
            directory: the folder.
            observe: as it was given before; a function is not stored.

        Raises:
            RouterError: as `StoredSystem.load`, or the scorers were learned with another embedder.
        """
        return cls._loaded(directory, observe=observe)

    def get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """The chain, and the scorers where they were learned.

        Raises:
            NotFittedError: before `fit`.
        """
        if not hasattr(self, "chain_"):
            raise NotFittedError("FrugalGPT has no chain; call fit or fit_chain first")
        arrays: dict[str, NDArray[Any]] = {}
        scorers: list[dict[str, Any]] = []
        if hasattr(self, "scorers_"):
            arrays["training_score"] = self.training_score_
            for m, scorer in enumerate(self.scorers_):
                held, told = scorer.get_state()
                arrays |= prefixed(f"scorer{m}/", held)
                scorers.append(told)
        values = {"models": list(self.models_), "chain": asdict(self.chain_), "scorers": scorers}
        return arrays, values

    def set_state(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Restore what `get_state` returned.

        Raises:
            RouterError: the scorers were learned with another embedder.
        """
        self.models_ = tuple(values["models"])
        chain = values["chain"]
        self.chain_ = Chain(tuple(chain["stages"]), tuple(chain["thresholds"]))
        if not values["scorers"]:
            return
        self.training_score_ = arrays["training_score"]
        self.scorers_ = []
        for m, told in enumerate(values["scorers"]):
            scorer = self._fresh_scorer()
            scorer.set_state(under(f"scorer{m}/", arrays), told)
            self.scorers_.append(scorer)

    def _fresh_scorer(self) -> AnswerScorer:
        return AnswerScorer(embedder=self.embedder, hidden=self.hidden, seed=self.seed)
