"""MetaLLM: a contextual bandit on the embedding, paid quality minus price.

Routes a query to a model, before an answer exists, on its embedding and on the outcomes of earlier
choices. Paper: arXiv 2407.10834.

    choose argmax_m theta_m . x + alpha sqrt(x' A_m^-1 x),   r = quality - p cost

Ours, following the published description and not its code: LinUCB as the bandit; x is the embedding
in `width` dimensions and a constant (`EmbeddingContext`); p is in score per USD. With `budget` the
price is not fixed but follows the online dual price (`wye.core.DualPrice`), which rises while the
mean cost of an answer is above the budget and never falls below 0: rewards stay quality, and the
choice is argmax of the optimistic quality minus the price times the expected cost.

Shape letters: M models, D context width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.core import DualPrice
from wye.core.bandits import Bandit, LinUCB
from wye.query.base import BoolArray, FloatArray, RouterError
from wye.query.learning.contexts import ContextReader, EmbeddingContext, Task
from wye.query.online.base import OnlineRouter
from wye.query.online.feedback import Observed, Outcome, Ticket

if TYPE_CHECKING:
    from wye.embed import Embedder


@dataclass(kw_only=True, eq=False, repr=False)
class MetaLLMRouter(OnlineRouter):
    """LinUCB on the embedding with reward quality - p cost; see the module.

    Args:
        price: p, score per USD, >= 0.
        budget: USD an answer may cost on average; p follows from it. None: p = `price`.
        budget_rate: score by which the price of a whole budget moves when an answer costs nothing
            or twice the budget.
        alpha: weight of the bonus.
        reg: weight of the prior.
        width: dimensions of the embedding that are kept.
        arms, embedder, max_references, max_open, seed: see `OnlineRouter`.
    """

    name = "metallm"

    price: float = 0.0
    budget: float | None = None
    budget_rate: float = 0.02
    alpha: float = 0.5
    reg: float = 1.0
    width: int = 64

    def _make_reader(self, embedder: Embedder) -> ContextReader:
        if not (np.isfinite(self.price) and self.price >= 0):
            raise RouterError(f"price is {self.price}, expected a finite number >= 0")
        self.ledger_ = (
            None
            if self.budget is None
            else DualPrice(self.budget, self.budget_rate, price=self.price)
        )
        return EmbeddingContext(embedder.dim, self.width, self.seed)

    def _make_bandit(self, n_arms: int, width: int) -> Bandit:
        return LinUCB(n_arms, width, alpha=self.alpha, reg=self.reg)

    def rewards(self, observed: Observed, tasks: Sequence[Task]) -> FloatArray:
        """r = quality - p cost; quality itself where nothing is paid for or a budget prices it."""
        del tasks
        if self.budget is not None or self.price == 0.0:
            return observed.quality
        return observed.quality - self.price * observed.cost

    def _pick(
        self, context: FloatArray, mask: BoolArray
    ) -> tuple[tuple[int, ...], float, FloatArray]:
        columns, propensity, score = super()._pick(context, mask)
        if self.ledger_ is None:
            return columns, propensity, score
        cost = self.heads_["cost"].value(context[None])[0]
        # A model whose cost was never seen is tried as if it cost nothing.
        score = np.asarray(self.ledger_.adjusted(score, np.nan_to_num(cost)), np.float64)
        return (int(score.argmax()),), 1.0, score

    def update(self, ticket: Ticket | str, outcome: Outcome | Mapping[str, Outcome]) -> bool:
        """Learn what came out of a choice, and charge its cost; see `OnlineRouter.update`."""
        with self._turn:
            learned = super().update(ticket, outcome)
            if learned and self.ledger_ is not None:
                outcomes = [outcome] if isinstance(outcome, Outcome) else list(outcome.values())
                spent = sum(o.cost for o in outcomes)
                if np.isfinite(spent):
                    self.ledger_.update(spent)
            return learned

    def scale_state(self) -> dict[str, Any]:
        """The ledger, JSON."""
        if self.ledger_ is None:
            return {}
        ledger = self.ledger_
        return {"price": ledger.price, "steps": ledger.steps, "spent": ledger.spent}

    def set_scale_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `scale_state` returned."""
        if self.ledger_ is not None:
            self.ledger_.price = float(state["price"])
            self.ledger_.steps, self.ledger_.spent = int(state["steps"]), float(state["spent"])
