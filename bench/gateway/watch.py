"""How often the watch alarms at steady traffic, and how soon it finds a change.

    python bench/gateway/watch.py

Traffic: the embedded set's questions by the default embedder, drawn with replacement and jittered,
so that no two are the same. The promise is one false alarm in `LEVEL` requests or fewer; delays are
at one in 100,000, the default. A change is a share of requests of other datasets.
"""

from __future__ import annotations

import numpy as np

from wye.data import load_embedded
from wye.embed import get_embedder
from wye.gateway.watch.answers import AnswerMonitor
from wye.gateway.watch.traffic import TrafficMonitor

LEVEL, RUNS, LENGTH, MOST = 1000.0, 20, 3000, 3000
OTHERS = ("code output", "word problem", "inflection")


class Requests:
    """Embeddings of requests of two kinds."""

    def __init__(self, generator: np.random.Generator) -> None:
        data = load_embedded()
        other = np.isin(data.datasets, OTHERS)
        vectors = get_embedder("static").embed(data.texts)
        self._kinds = (vectors[~other], vectors[other])
        self._generator = generator

    def draw(self, n: int, share: float = 0.0) -> np.ndarray:
        g = self._generator
        other = g.random(n) < share
        picked = [self._kinds[int(o)] for o in other]
        rows = np.stack([kind[g.integers(len(kind))] for kind in picked])
        rows = rows + g.standard_normal(rows.shape) * 0.02
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def answers(g: np.random.Generator, n: int, longer: float = 0.0) -> np.ndarray:
    tokens = g.normal(5 + longer, 0.8, n)
    return np.column_stack([tokens, g.normal(-4, 0.4, n), g.random(n) < 0.02, np.full(n, np.nan)])


def delay(take, monitor, start: int) -> float:
    while monitor.seen < start + MOST:
        found = take()
        if found is not None:
            return found.at - start
    return float("inf")


def main() -> None:
    g = np.random.default_rng(0)
    requests = Requests(g)
    alarms = 0
    for _ in range(RUNS):
        watch = TrafficMonitor(
            false_alarm_every=LEVEL, learn_from=500, generator=g, reference=requests.draw(1000)
        )
        for _ in range(0, LENGTH, 50):
            alarms += watch.take(requests.draw(50)) is not None
    print(f"traffic: {alarms} false alarms in {RUNS * LENGTH}; at most {RUNS * LENGTH / LEVEL:.0f}")
    for share in (0.1, 0.2, 0.3, 0.5, 1.0):
        delays = []
        for _ in range(RUNS):
            watch = TrafficMonitor(
                false_alarm_every=1e5, learn_from=500, generator=g, reference=requests.draw(1000)
            )
            watch.take(requests.draw(500))
            start = watch.seen
            delays.append(delay(lambda: watch.take(requests.draw(25, share)), watch, start))  # noqa: B023
        print(f"traffic: {share:.0%} of another kind found after {np.median(delays):.0f} requests "
              f"(median), {max(delays):.0f} (worst of {RUNS})")  # fmt: skip
    alarms = 0
    for _ in range(RUNS):
        told = AnswerMonitor(false_alarm_every=LEVEL, learn_from=500, generator=g)
        for _ in range(0, LENGTH, 50):
            alarms += told.take(answers(g, 50)) is not None
    print(f"answers: {alarms} false alarms in {RUNS * LENGTH}; at most {RUNS * LENGTH / LEVEL:.0f}")
    for longer in (0.2, 0.4, 0.8):
        delays = []
        for _ in range(RUNS):
            told = AnswerMonitor(false_alarm_every=1e5, learn_from=500, generator=g)
            told.take(answers(g, 1500))
            delays.append(delay(lambda: told.take(answers(g, 25, longer)), told, 1500))  # noqa: B023
        print(f"answers: {np.expm1(longer):.0%} longer found after {np.median(delays):.0f} answers "
              f"(median), {max(delays):.0f} (worst of {RUNS})")  # fmt: skip


if __name__ == "__main__":
    main()
