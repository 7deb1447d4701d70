"""The GQR score: how well queries of known domains are routed and all others refused.

    GQR score = 2 ID OOD / (ID + OOD), OOD the unweighted mean over sets

Source: arXiv 2505.14524, and the package gqr of its authors, which scores a function from a text to
a label; its own `score` divides by zero where both accuracies are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.query.base import MissingPartError, RouterError

if TYPE_CHECKING:
    from wye.query.guarded_query_routing import GuardedRouter


@dataclass(frozen=True)
class GQRReport:
    """What a guarded router does to queries of its domains and to others.

    Attributes:
        id_accuracy: of queries of the domains; a rejection is wrong.
        ood: of each set from outside, the share rejected.
    """

    id_accuracy: float
    ood: Mapping[str, float]

    @property
    def ood_accuracy(self) -> float:
        """Unweighted mean over the sets."""
        return float(np.mean(list(self.ood.values())))

    @property
    def score(self) -> float:
        """The GQR score."""
        return harmonic_mean(self.id_accuracy, self.ood_accuracy)


def harmonic_mean(id_accuracy: float, ood_accuracy: float) -> float:
    """2 a b / (a + b), and 0 where both are 0.

    Example:
        >>> harmonic_mean(1.0, 1.0), harmonic_mean(0.9, 0.0), harmonic_mean(0.0, 0.0)
        (1.0, 0.0, 0.0)
    """
    total = id_accuracy + ood_accuracy
    return 2.0 * id_accuracy * ood_accuracy / total if total > 0 else 0.0


def gqr_score(
    router: GuardedRouter,
    texts: Sequence[str],
    domains: Sequence[str],
    ood: Mapping[str, Sequence[str]],
) -> GQRReport:
    """Judge a guarded router.

    Args:
        router: fitted.
        texts, domains: queries of the domains, which training did not see.
        ood: sets of queries from outside, by name.

    Raises:
        RouterError: an empty set, none at all, lengths that differ, or an unknown domain.
    """
    sizes = {name: len(rows) for name, rows in ood.items()}
    if not texts or len(texts) != len(domains) or not sizes or not all(sizes.values()):
        raise RouterError(
            f"{len(texts)} texts with {len(domains)} domains and sets from outside of sizes "
            f"{sizes}; expected as many domains as texts, one set or more, and no empty one"
        )
    if unknown := sorted(set(domains) - set(router.domains_)):
        raise RouterError(f"unknown domains {unknown}; the router has {list(router.domains_)}")
    said = np.array(router.score_batch(texts))
    truth = np.array([router.domains_.index(d) for d in domains])
    nobody = len(router.domains_)
    return GQRReport(
        id_accuracy=float((said == truth).mean()),
        ood={
            name: float((np.array(router.score_batch(rows)) == nobody).mean())
            for name, rows in ood.items()
        },
    )


def as_package_model(router: GuardedRouter, domains: Sequence[str]) -> Callable[[str], int]:
    """A function text -> label that the package gqr can score.

    Args:
        router: fitted.
        domains: names of the router's domains in the order of the package's labels, which are law,
            finance, health; its last label, one past them, is `ood`.

    Raises:
        RouterError: the names are not those of the router's domains.
    """
    if sorted(domains) != sorted(router.domains_):
        raise RouterError(f"domains are {list(domains)}, expected {list(router.domains_)}")
    place = [*(list(domains).index(d) for d in router.domains_), len(domains)]
    return lambda text: place[router.score(text)]


def package_benchmark() -> tuple[list[str], list[int], dict[str, list[str]]]:
    """The test data of the package gqr: texts and labels of its domains, and the sets from outside.

    The package fetches its data from a hub. Spaces around the names of its sets are cut.

    Raises:
        MissingPartError: the package is not installed.
    """
    if find_spec("gqr") is None:
        raise MissingPartError(
            "the benchmark of arXiv 2505.14524 is in the package gqr, which is not installed; "
            "install it with: pip install gqr (Python 3.12 or later)"
        )
    from importlib import import_module

    package: Any = import_module("gqr")
    inside, outside = package.load_id_test_dataset(), package.load_ood_test_dataset()
    ood: dict[str, list[str]] = {}
    for text, name in zip(outside["text"], outside["dataset"], strict=True):
        ood.setdefault(str(name).strip(), []).append(str(text))
    return [str(t) for t in inside["text"]], [int(v) for v in inside["label"]], ood
