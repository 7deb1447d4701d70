"""The tests behind the alarms: exact properties, and how often and how fast they alarm."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wye.gateway.watch.answers import FIGURES, AnswerMonitor, figures_of
from wye.gateway.watch.detector import STAKES, Detector
from wye.gateway.watch.ranks import Ranks
from wye.gateway.watch.traffic import TrafficMonitor


def slow_ranks(figures, reference, uniforms):
    """The definition, one request after the other."""
    past, found = [list(column) for column in reference.T], []
    for row, u in zip(figures, uniforms, strict=True):
        p = []
        for j, x in enumerate(row):
            below, same = sum(y < x for y in past[j]), sum(y == x for y in past[j])
            p.append((below + u[j] * (same + 1)) / (len(past[j]) + 1))
            past[j].append(x)
        found.append(p)
    return np.array(found)


class Given:
    """A generator that gives what it was given, column by column."""

    def __init__(self, uniforms):
        self.columns = [list(column) for column in np.asarray(uniforms).T]
        self.next = 0

    def random(self, n):
        column = self.columns[self.next % len(self.columns)]
        self.next += 1
        return np.array([column.pop(0) for _ in range(n)])


@given(st.data())
def test_ranks_are_what_their_definition_says_however_they_come_in(data):
    n, width, before = (data.draw(st.integers(1, 8)) for _ in range(3))
    small = st.integers(0, 4).map(float)
    figures = np.array(data.draw(st.lists(st.lists(small, min_size=width, max_size=width),
                                          min_size=n, max_size=n)))  # fmt: skip
    reference = np.array(data.draw(st.lists(st.lists(small, min_size=width, max_size=width),
                                            min_size=before, max_size=before)))  # fmt: skip
    uniforms = np.random.default_rng(data.draw(st.integers(0, 99))).random(figures.shape)
    ranks = Ranks(width, Given(uniforms), reference)
    cut = data.draw(st.integers(0, n))
    parts = [part for part in (figures[:cut], figures[cut:]) if len(part)]
    found = np.concatenate([ranks.take(part) for part in parts])
    np.testing.assert_allclose(found, slow_ranks(figures, reference, uniforms))


def test_p_values_are_uniform_and_independent_whatever_the_ties():
    generator = np.random.default_rng(1)
    ranks = Ranks(2, generator)
    figures = np.column_stack([generator.integers(0, 3, 4000), generator.standard_normal(4000)])
    p = np.concatenate([ranks.take(part) for part in np.array_split(figures, 37)])
    for column in p.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(column[1:], column[:-1])[0, 1]) < 5 / math.sqrt(4000)


def test_a_figure_that_is_missing_has_no_rank_and_leaves_the_others_alone():
    generator = np.random.default_rng(2)
    figures = generator.standard_normal((50, 2))
    figures[::2, 1] = np.nan
    p = Ranks(2, generator).take(figures)
    assert np.isnan(p[::2, 1]).all()
    assert not np.isnan(p[1::2]).any()
    assert not np.isnan(p[:, 0]).any()


def slow_detector(p, level):
    """The definition, one request after the other; when it first alarms."""
    bets = np.concatenate([STAKES, np.negative(STAKES)])
    m = np.ones((p.shape[1], len(bets)))
    for t, row in enumerate(p, start=1):
        factor = np.where(np.isnan(row)[:, None], 1.0, 1 + bets * (2 * row[:, None] - 1))
        m = np.maximum(m, 1) * factor
        if m.mean() > level:
            return t
    return None


@given(st.integers(0, 10_000), st.integers(1, 3), st.floats(2, 50), st.integers(1, 60))
def test_the_detector_is_what_its_definition_says_however_requests_come_in(
    seed, width, level, size
):
    generator = np.random.default_rng(seed)
    p = np.where(generator.random((120, width)) < 0.1, np.nan, generator.random((120, width)) ** 2)
    detector = Detector(width, level)
    found = None
    for start in range(0, 120, size):
        found = detector.take(p[start : start + size])
        if found is not None:
            break
    wanted = slow_detector(p, level)
    assert (found.at if found else None) == wanted
    if found:
        assert 0 <= found.since < found.at
        assert not found.up


# As embeddings have it, a few directions hold most of what differs.
SPREAD = (1.0 / np.sqrt(np.arange(1, 65))).astype(np.float32)


def vectors(generator, n, shift=0.0, direction=0):
    """Embeddings, shifted by so many standard deviations along one direction."""
    x = generator.standard_normal((n, 64)).astype(np.float32)
    x[:, direction] += shift
    x *= SPREAD
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def monitor(generator, level, reference=None, learn_from=300):
    return TrafficMonitor(
        false_alarm_every=level, learn_from=learn_from, generator=generator, reference=reference
    )


@pytest.mark.parametrize("given_reference", [True, False])
def test_false_alarms_on_steady_traffic_are_as_rare_as_stated(given_reference):
    generator = np.random.default_rng(3)
    level, watched, alarms = 250.0, 0, 0
    for _ in range(12):
        reference = vectors(generator, 600) if given_reference else None
        watch = monitor(generator, level, reference)
        for _ in range(40):
            learning = watch.learning
            alarms += watch.take(vectors(generator, 50)) is not None
            watched += 0 if learning else 50
    assert watched > 15_000
    # The promise bounds the mean: watched / level at most, and a Poisson count strays above that.
    assert alarms <= stats.poisson.ppf(0.999, watched / level)


@pytest.mark.parametrize("direction", [0, 4, 9])
def test_a_shift_of_one_standard_deviation_is_found_within_a_few_hundred_requests(direction):
    generator = np.random.default_rng(4)
    delays, early = [], 0
    for _ in range(8):
        watch = monitor(generator, 100_000.0, vectors(generator, 1000))
        early += sum(watch.take(vectors(generator, 50)) is not None for _ in range(10))
        found = None
        while found is None and watch.seen < 3000:
            found = watch.take(vectors(generator, 50, 1.0, direction))
        delays.append(watch.seen - 500 if found is None else found.at - 500)
    assert early == 0
    assert np.median(delays) <= 400


def test_a_third_of_requests_of_another_kind_is_found_within_three_hundred(shared_words):
    usual, other = shared_words
    generator = np.random.default_rng(9)
    usual = generator.permutation(usual)
    watch = monitor(generator, 100_000.0, usual[:700])
    fresh, found = usual[700:1000], None
    mixed = np.concatenate([fresh[:200], other[:100]])
    mixed = generator.permutation(mixed)
    for row in range(0, len(mixed), 20):
        found = found or watch.take(mixed[row : row + 20])
    assert found is not None


def test_requests_of_another_kind_are_found_within_a_hundred(shared_words):
    usual, other = shared_words
    generator = np.random.default_rng(5)
    order = generator.permutation(len(usual))
    watch = monitor(generator, 100_000.0, usual[order[:600]])
    assert watch.take(usual[order[600:]]) is None
    start, found = watch.seen, None
    for row in range(0, len(other), 20):
        found = watch.take(other[row : row + 20])
        if found is not None:
            break
    assert found is not None
    assert found.at - start <= 100
    assert abs(found.since - start) <= 30
    # What is new is usual from here on: one change raises one alarm.
    assert watch.learning


@pytest.fixture(scope="module")
def shared_words():
    """Embeddings of two kinds of real questions."""
    from wye.data import load_embedded
    from wye.embed import get_embedder

    data = load_embedded()
    other = np.isin(data.datasets, ["code output", "word problem", "inflection"])
    found = get_embedder("static").embed(data.texts)
    generator = np.random.default_rng(6)
    return found[~other], generator.permutation(found[other])


def answers(generator, n, *, longer=0.0, refused=0.02):
    tokens = np.exp(generator.normal(5 + longer, 0.8, n)).astype(int) + 1
    seconds = tokens * np.exp(generator.normal(-4, 0.4, n))
    declined = generator.random(n) < refused
    return np.column_stack(
        [np.log1p(tokens), np.log(seconds / tokens), declined, np.full(n, np.nan)]
    )


def watching(generator, level):
    return AnswerMonitor(false_alarm_every=level, learn_from=300, generator=generator)


def test_false_alarms_on_steady_answers_are_as_rare_as_stated():
    generator = np.random.default_rng(7)
    level, watched, alarms = 250.0, 0, 0
    for _ in range(20):
        watch = watching(generator, level)
        for _ in range(60):
            learning = watch.learning
            alarms += watch.take(answers(generator, 25)) is not None
            watched += 0 if learning else 25
    assert watched > 15_000
    assert alarms <= stats.poisson.ppf(0.999, watched / level)


@pytest.mark.parametrize(
    ("change", "stream", "within"),
    [({"longer": 0.8}, "length", 300), ({"refused": 0.3}, "refusals", 300)],
)
def test_a_model_that_changes_is_found(change, stream, within):
    generator = np.random.default_rng(8)
    delays = []
    for _ in range(10):
        watch = watching(generator, 100_000.0)
        assert watch.take(answers(generator, 1000)) is None
        found = None
        while found is None and watch.seen < 3000:
            found = watch.take(answers(generator, 20, **change))
        assert found is not None
        assert FIGURES[found.stream] == stream
        assert found.up
        delays.append(found.at - 1000)
    assert max(delays) <= within


@pytest.mark.parametrize(
    ("said", "declined"),
    [
        ("I'm sorry, but I can\u2019t help with that.", True),
        ("I cannot assist with this.", True),
        ("As an AI language model, I", True),
        ("I can help: first", False),
        ("The capital is Oslo.", False),
    ],
)
def test_refusals_are_read_off_the_opening(said, declined):
    figures = figures_of(
        output_tokens=None, seconds=None, opening=said, refused=False, finish_reason="stop",
        logprob=None,
    )  # fmt: skip
    assert figures[2] == float(declined)
    assert math.isnan(figures[0])
    assert math.isnan(figures[1])
    assert math.isnan(figures[3])
