"""Speculative decoding writes by the large model's law exactly, whatever drafts for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import chisquare

from wye.query.base import RouterError
from wye.query.speculative_decoding import (
    acceptance,
    acceptance_rate,
    deferral_mix,
    residual,
    speculative_decode,
    tokens_per_pass,
)

V = 4


def laws(seed: int, n: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(V, 0.6), n)


def model(seed: int) -> Callable[[np.ndarray, int], np.ndarray]:
    """A language model whose law follows from the last two tokens."""
    table = laws(seed, V * V).reshape(V, V, V)

    def after(tokens: np.ndarray, n: int) -> np.ndarray:
        padded = np.concatenate([[0], tokens])
        ends = np.arange(len(tokens) - n, len(tokens)) + 1
        return table[padded[ends - 1], padded[ends]]

    return after


def test_accepting_and_resampling_together_give_the_large_law() -> None:
    p, q = laws(0), laws(1)
    accepted = q * acceptance(p, q)
    rejected = 1.0 - accepted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(accepted + rejected * residual(p, q), p, atol=1e-12)
    np.testing.assert_allclose(accepted.sum(axis=1), acceptance_rate(p, q))


def test_equal_models_accept_everything() -> None:
    p = laws(2)
    assert (acceptance(p, p)[p > 0] == 1.0).all()
    np.testing.assert_allclose(acceptance_rate(p, p), 1.0)
    np.testing.assert_allclose(residual(p, p), p)
    one = model(3)
    found = speculative_decode(
        one, one, np.array([1]), 60, gamma=5, generator=np.random.default_rng(0)
    )
    assert found.acceptance_rate == 1.0
    assert found.large_passes == 10


def test_tokens_that_only_one_model_can_write() -> None:
    p, q = np.array([0.0, 1.0]), np.array([1.0, 0.0])
    assert acceptance(p, q).tolist() == [0.0, 1.0]
    assert residual(p, q).tolist() == [0.0, 1.0]
    assert acceptance_rate(p, q) == 0.0


@pytest.mark.parametrize("gamma", [0, 1, 3])
@pytest.mark.parametrize("alpha", [None, 0.15])
def test_what_is_written_follows_the_law_exactly(gamma: int, alpha: float | None) -> None:
    small, large = model(4), model(5)
    prompt, length, draws = np.array([2]), 3, 1500
    rng = np.random.default_rng(6)
    counts = np.zeros(V**length)
    for _ in range(draws):
        found = speculative_decode(
            small, large, prompt, length, gamma=gamma, alpha=alpha, generator=rng
        )
        counts[int(found.tokens @ V ** np.arange(length))] += 1
    expected = np.zeros(V**length)
    for tokens in np.ndindex(*(V,) * length):
        text, chance = prompt, 1.0
        for token in tokens:
            p, q = large(text, 1)[0], small(text, 1)[0]
            chance *= (p if alpha is None else deferral_mix(p, q, alpha))[token]
            text = np.append(text, token)
        expected[int(np.array(tokens) @ V ** np.arange(length))] = draws * chance
    # Cells too thin for the chi-square law are taken together.
    thin = expected < 5
    cells = np.append(counts[~thin], counts[thin].sum())
    wanted = np.append(expected[~thin], expected[thin].sum())
    assert chisquare(cells, wanted).pvalue > 1e-3
    # The same test tells the small model's law apart.
    if alpha is None:
        wrong = np.full(len(cells), draws / len(cells))
        assert chisquare(cells, wrong).pvalue < 1e-6


def test_the_mix_defers_where_the_small_model_is_less_sure() -> None:
    p, q = laws(7), laws(8)
    np.testing.assert_array_equal(deferral_mix(p, q, -1.0), p)
    np.testing.assert_array_equal(deferral_mix(p, q, 1.0), q)
    mixed = deferral_mix(p, q, 0.1)
    sure = q.max(axis=1) >= p.max(axis=1) - 0.1
    assert 0 < sure.sum() < len(sure)
    np.testing.assert_array_equal(mixed, np.where(sure[:, None], q, p))


def test_the_rate_and_the_passes_are_those_of_the_theory() -> None:
    small, large = (
        (lambda t, n: np.tile([0.5, 0.5], (n, 1))),
        (lambda t, n: np.tile([0.8, 0.2], (n, 1))),
    )
    found = speculative_decode(
        small, large, np.array([0]), 3_000, gamma=3, generator=np.random.default_rng(1)
    )
    rate = float(acceptance_rate(large(None, 1), small(None, 1))[0])
    assert rate == pytest.approx(0.7)
    assert found.expected == pytest.approx(rate * found.drafted)
    assert found.acceptance_rate == pytest.approx(rate, abs=0.03)
    assert 3_000 / found.large_passes == pytest.approx(tokens_per_pass(rate, 3), rel=0.04)
    assert found.tokens.mean() == pytest.approx(0.2, abs=0.03)


def test_nothing_is_written_after_the_end() -> None:
    small, large = model(9), model(10)
    rng = np.random.default_rng(2)
    lengths = []
    for _ in range(200):
        found = speculative_decode(
            small, large, np.array([3, 3]), 12, gamma=3, end=3, generator=rng
        )
        assert (found.tokens[:-1] != 3).all()
        assert found.tokens.size == 12 or found.tokens[-1] == 3
        assert found.accepted <= found.drafted
        lengths.append(found.tokens.size)
    assert min(lengths) < max(lengths)
    nothing = speculative_decode(small, large, np.array([1]), 0, generator=rng)
    assert nothing.tokens.size == 0
    assert np.isnan(nothing.acceptance_rate)


def test_what_is_no_law_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(RouterError, match="shapes"):
        acceptance(np.ones(2) / 2, np.ones(3) / 3)
    with pytest.raises(RouterError, match="sum to 1"):
        residual(np.array([0.5, 0.6]), np.array([0.5, 0.5]))
    with pytest.raises(RouterError, match="large model"):
        deferral_mix(np.array([np.nan, 1.0]), np.array([0.5, 0.5]), 0.1)
    with pytest.raises(RouterError, match="gamma=-1"):
        speculative_decode(model(0), model(1), np.array([0]), 3, gamma=-1, generator=rng)

    def broken(tokens: np.ndarray, n: int) -> np.ndarray:
        return np.full((n, 2), np.nan)

    with pytest.raises(RouterError, match="of probabilities"):
        speculative_decode(broken, broken, np.array([0]), 3, generator=rng)
    with pytest.raises(RouterError, match="rate=2"):
        tokens_per_pass(2, 1)
