"""Set-outcome regression: what a whole set of instances yields, from how many have each feature.

A set S of the N instances of a data set is described by n(S)_j / N, the share of all instances that
are in S and have feature j, and its outcome y (a metric of a model trained on it) is regressed on
that: linearly, with all products of two features, or by any regressor. Shares instead of counts, so
that what was learned on one data set can be used on another of a different size.

Shape letters: N instances, J features, R sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wye.query.base import BoolArray, FloatArray, RouterError

PENALTIES = tuple(float(p) for p in np.logspace(-4.0, 4.0, 25))
Kind = Literal["linear", "quadratic"]


class Regressor(Protocol):
    """What scikit-learn calls a regressor."""

    def fit(self, x: Any, y: Any) -> Any:
        """Learn `y` `[R]` from `x` `[R, J]`."""

    def predict(self, x: Any) -> Any:
        """Expected `y` `[R]`."""


class SetOutcome:
    """Outcome of a set from the features of its instances.

    Linear and quadratic forms are ridge regressions on standardised terms; the penalty has the
    least leave-one-out error. A quadratic form has J (J + 3) / 2 terms, more than there are sets
    to learn from, so that least squares alone would not be determined.

    Args:
        kind: `linear`, `quadratic`, or a regressor on shares `[R, J]`.

    Attributes:
        coef_: `[P]` weight of each term (linear: J; quadratic: J, then products j <= k).
        intercept_: outcome of the empty set.

    Raises:
        RouterError: an unknown kind.
    """

    def __init__(self, kind: Kind | Regressor = "linear") -> None:
        if isinstance(kind, str) and kind not in ("linear", "quadratic"):
            raise RouterError(
                f"kind is {kind!r}, expected 'linear', 'quadratic' or a regressor with fit and "
                "predict"
            )
        self.kind = kind

    def fit(self, shares: FloatArray, outcome: FloatArray) -> Self:
        """Learn from R sets.

        Args:
            shares: `[R, J]`.
            outcome: `[R]`.

        Raises:
            RouterError: fewer than two sets, shapes that do not match, or NaN.
        """
        x, y = np.asarray(shares, np.float64), np.asarray(outcome, np.float64)
        if x.ndim != 2 or y.shape != (len(x),) or len(x) < 2:
            raise RouterError(
                f"shares have shape {x.shape} and outcomes {y.shape}, expected [R, J] and [R] with "
                "at least two sets"
            )
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise RouterError("shares and outcomes must be finite; leave failed runs out")
        self.n_features_ = x.shape[1]
        if not isinstance(self.kind, str):
            self.kind.fit(x, y)
            return self
        from sklearn.linear_model import RidgeCV

        terms = self._terms(x)
        middle, spread = terms.mean(axis=0), terms.std(axis=0)
        # A term that never varies says nothing; dividing by its spread would blow up noise.
        scale = np.where(spread > 1e-12, spread, np.inf)
        fitted = RidgeCV(alphas=PENALTIES).fit((terms - middle) / scale, y)
        self.coef_: FloatArray = np.asarray(fitted.coef_ / scale, np.float64)
        self.intercept_ = float(fitted.intercept_ - middle @ self.coef_)
        self.penalty_ = float(fitted.alpha_)
        return self

    def predict(self, shares: FloatArray) -> FloatArray:
        """Expected outcome `[R]` of sets with shares `[R, J]`.

        Raises:
            RouterError: before `fit`, or another number of features.
        """
        self._require_fitted()
        x = np.atleast_2d(np.asarray(shares, np.float64))
        if x.shape[1] != self.n_features_:
            raise RouterError(f"{x.shape[1]} features were given, expected {self.n_features_}")
        if not isinstance(self.kind, str):
            return np.asarray(self.kind.predict(x), np.float64)
        return np.asarray(self._terms(x) @ self.coef_ + self.intercept_, np.float64)

    def gains(
        self, instances: BoolArray, size: int, reference: FloatArray | None = None
    ) -> FloatArray:
        """By how much each instance `[N, J]` raises the outcome when it joins a set, `[N]`.

        f(n + phi_i / size) - f(n) at the reference n; the empty set where None, as published, which
        for a form that is not linear extrapolates far from any set that was learned from.

        Args:
            instances: which features each has.
            size: N of the data set that they are routed in.
            reference: `[J]` shares of the set that they join.
        """
        base = np.zeros(instances.shape[1]) if reference is None else np.asarray(reference)
        joined = base + instances.astype(np.float64) / size
        return np.asarray(self.predict(joined) - self.predict(base[None])[0], np.float64)

    def get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """What was learned: arrays and JSON-serialisable values.

        Raises:
            RouterError: before `fit`, or the form is a regressor from elsewhere.
        """
        self._require_fitted()
        if not isinstance(self.kind, str):
            raise RouterError(
                f"the regressor {self.kind!r} cannot be stored; the forms 'linear' and 'quadratic' "
                "can"
            )
        values = {
            "n_features": self.n_features_,
            "intercept": self.intercept_,
            "penalty": self.penalty_,
        }
        return {"coef": self.coef_}, values

    def set_state(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Restore what `get_state` returned."""
        self.n_features_, self.coef_ = values["n_features"], arrays["coef"]
        self.intercept_, self.penalty_ = values["intercept"], values["penalty"]

    def _require_fitted(self) -> None:
        if not hasattr(self, "n_features_"):
            raise RouterError("the outcome of sets is not learned yet; call fit(runs) first")

    def _terms(self, x: FloatArray) -> FloatArray:
        if self.kind == "linear":
            return x
        first, second = np.triu_indices(x.shape[1])
        return np.concatenate([x, x[:, first] * x[:, second]], axis=1)


def shares_of(features: BoolArray, sets: Sequence[NDArray[np.intp]]) -> FloatArray:
    """Shares `[R, J]` of R sets of row numbers among instances with `features` `[N, J]`."""
    counts = [features[rows].sum(axis=0) for rows in sets]
    return np.array(counts, np.float64).reshape(len(sets), features.shape[1]) / len(features)
