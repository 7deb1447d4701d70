"""The watch: takes note of each request on the event loop, and thinks about it in a thread.

What a request pays is one small tuple in a queue. The thread empties the queue every
`[watch] seconds`, shows what it holds to the monitors, and raises their alarms. A queue that is not
emptied in time loses its oldest requests, which makes the watch slower and never wrong.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wye.gateway.watch.alarms import Alarms
from wye.gateway.watch.answers import FIGURES, AnswerMonitor, figures_of
from wye.gateway.watch.canaries import SESSION, CanaryRounds
from wye.gateway.watch.detector import Change
from wye.gateway.watch.guarding import OUT_OF_DOMAIN, RequestGuard
from wye.gateway.watch.identities import Identities
from wye.gateway.watch.judged import CalibrationWatch
from wye.gateway.watch.settings import WatchTable
from wye.gateway.watch.traffic import TrafficMonitor
from wye.gateway.watch.vectors import SharedEmbedder
from wye.query.guards import RejectionWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wye.gateway.exchange import Exchange
    from wye.gateway.records import OutcomeRecord
    from wye.gateway.store import Store
    from wye.gateway.witness import Glance

logger = logging.getLogger("wye.gateway")
_QUEUE = 20_000
_REMEMBERED = 4096
_RISE = 0.1
Vectors = NDArray[np.float32]


class _Seen(NamedTuple):
    time: float
    text: str
    session: str | None
    vector: Vectors | None
    verdict: str | None
    outcome: OutcomeRecord
    glance: Glance | None


class Watch:
    """All monitors of one gateway; a witness.

    Args:
        settings: see `WatchTable`.
        store: whose feedback is read, and where it is known who answered.
        alarms: raises them.
        shared: the router's embedder; None where it has none.
        reference: `[R, D]` embeddings of the training queries; None where there are none.
        guard: whose rate of rejections is watched; None without one.
        targets: names of all targets.
        seed: of every random choice.
    """

    def __init__(
        self,
        settings: WatchTable,
        store: Store,
        alarms: Alarms,
        *,
        shared: SharedEmbedder | None,
        reference: Vectors | None = None,
        guard: RequestGuard | None = None,
        targets: tuple[str, ...] = (),
        seed: int | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._alarms = alarms
        self._shared = shared
        self._generator = np.random.default_rng(seed)
        self._queue: deque[_Seen] = deque(maxlen=_QUEUE)
        self._known: OrderedDict[str, None] = OrderedDict()
        self._times: deque[float] = deque(maxlen=_QUEUE)
        self._told: dict[tuple[str, str | None], int] = {}
        self._identities: Identities | None = None
        self._answers: dict[str, AnswerMonitor] = {}
        self._calibration: CalibrationWatch | None = None
        self._rejections = None
        if guard is not None:
            rate = min(max(guard.rejection_rate, 0.005), 0.995 - _RISE)
            every = settings.false_alarm_every
            self._rejections = RejectionWatch(rate, rise=_RISE, false_alarm_every=every)
        self._traffic = TrafficMonitor(
            false_alarm_every=settings.false_alarm_every,
            learn_from=settings.reference,
            generator=self._generator,
            reference=reference,
        )
        self.canaries: CanaryRounds | None = None
        if settings.canaries is not None:
            self.canaries = CanaryRounds(
                settings.canaries,
                targets,
                alarms,
                false_alarm_every=settings.false_alarm_every,
                generator=np.random.default_rng(seed),
            )
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="wye-watch", daemon=True)
        self._thread.start()

    def decided(self, exchange: Exchange) -> None:
        """See `Witness`; the router has embedded the text just before."""
        if self._shared is not None:
            exchange.vector = self._shared.known(exchange.chat.text)

    def ended(self, exchange: Exchange, outcome: OutcomeRecord) -> None:
        """See `Witness`."""
        verdict = exchange.verdict.kind if exchange.verdict is not None else None
        grant, chat = exchange.grant, exchange.chat
        row = (outcome.time, chat.text, grant.session, exchange.vector, verdict, outcome)
        # What comes out of a cache says nothing of the model that would have answered.
        self._queue.append(_Seen(*row, exchange.glance if exchange.cached is None else None))

    def monitors(self) -> list[dict[str, Any]]:
        """How each monitor stands."""
        with self._lock:
            found = []
            if self._settings.traffic:
                found.append(self._state("traffic", None, self._traffic))
            if self._calibration is not None:
                monitor, version = self._calibration.monitor, self._calibration.version
                found.append(
                    self._state("calibration", version, monitor) | {"words": monitor.words}
                )
            if self._rejections is not None:
                found.append(self._state("guard", None, self._rejections))
            found += [self._state("answers", *pair) for pair in sorted(self._answers.items())]
        if self.canaries is not None:
            for name, asked in self.canaries.monitors.items():
                told = {"alarms": self.canaries.told[name]}
                found.append(self._state("canary", name, asked) | told)
        return found

    def look(self) -> None:
        """Show the monitors what came since the last look."""
        taken = [self._queue.popleft() for _ in range(len(self._queue))]
        with self._lock:
            if self._settings.traffic:
                self._look_at_traffic(taken)
            if self._rejections is not None:
                self._look_at_guard(taken, self._rejections)
            if self._settings.models:
                self._look_at_names(taken)
            if self._settings.answers:
                self._look_at_answers(taken)
            if self._settings.calibration:
                self._look_at_feedback()

    def close(self) -> None:
        """Look a last time, and stop."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        last = False
        if self._settings.calibration:
            # What was judged before this start is not watched again.
            self._safely(self._judged)
        while not last:
            last = self._stop.wait(self._settings.seconds)
            self._safely(self.look)

    def _safely(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception:
            # What could not be looked at is passed over; the next look may do better.
            logger.exception("the watch failed at a look")

    def _judged(self) -> CalibrationWatch:
        if self._calibration is None:
            every = self._settings.false_alarm_every
            self._calibration = CalibrationWatch(self._store.engine, every)
        return self._calibration

    def _state(self, kind: str, subject: str | None, monitor: Any) -> dict[str, Any]:
        learning = bool(getattr(monitor, "learning", False))
        evidence = float(getattr(monitor, "evidence", 0.0))
        words = (
            f"learning what is usual: {monitor.seen} seen"
            if learning
            else f"no change found; {monitor.seen} seen, evidence at {evidence:.2g} of an alarm's"
        )
        return {
            "kind": kind,
            "subject": subject,
            "seen": monitor.seen,
            "learning": learning,
            "evidence": evidence,
            "alarms": self._told.get((kind, subject), 0),
            "words": words,
        }

    def _raise(self, kind: str, message: str, subject: str | None = None, **told: Any) -> None:
        if self._alarms.raise_(kind, message, subject=subject, **told) is not None:
            self._told[kind, subject] = self._told.get((kind, subject), 0) + 1

    def _look_at_traffic(self, taken: Sequence[_Seen]) -> None:
        fresh = [seen for seen in taken if self._is_fresh(seen)]
        if self._shared is not None and self._shared.name.startswith("endpoint:"):
            # Embedding costs money there: only what the router has embedded is looked at.
            fresh = [seen for seen in fresh if seen.vector is not None]
        vectors = self._embedded(fresh)
        if vectors is None:
            return
        self._times.extend(seen.time for seen in fresh)
        usual = self._traffic.usual
        change = self._traffic.take(vectors)
        if change is None:
            return
        what = self._traffic.name_of(change)
        self._raise(
            "traffic",
            f"since about request {change.since} of {change.at} what people ask differs from "
            f"{usual} (most in: {what}); evaluate the router on recent traffic and train it again "
            "if it has lost",
            since=self._time_of(self._times, self._traffic.seen - change.since),
            figures={**_figures(change), "shown_by": what, **self._promise},
        )

    def _is_fresh(self, seen: _Seen) -> bool:
        """Whether a request is drawn anew: not of a known conversation, and no known text."""
        if seen.session == SESSION:
            return False
        name = f"session {seen.session}" if seen.session else f"text {seen.text}"
        if name in self._known:
            self._known.move_to_end(name)
            return False
        self._known[name] = None
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return True

    def _embedded(self, fresh: list[_Seen]) -> Vectors | None:
        """Embeddings of requests; those that the router did not leave are made here."""
        if not fresh:
            return None
        if self._shared is None:
            from wye.embed import get_embedder

            self._shared = SharedEmbedder(get_embedder("static"))
        missing = [seen.text for seen in fresh if seen.vector is None]
        made = iter(self._shared.inner.embed(missing)) if missing else iter(())
        rows = [next(made) if s.vector is None else s.vector[0] for s in fresh]
        return np.stack(rows)

    def _look_at_guard(self, taken: Sequence[_Seen], rejections: RejectionWatch) -> None:
        for seen in taken:
            if seen.verdict is not None and rejections.update([seen.verdict == OUT_OF_DOMAIN]):
                share = rejections.rejected / rejections.seen
                self._raise(
                    "guard",
                    f"the guard refuses more than it should: {share:.1%} of {rejections.seen} "
                    f"requests, where {rejections.rate:.1%} were expected; fit it on recent "
                    "requests, or see who sends them",
                    figures={"seen": rejections.seen, "rejected": rejections.rejected}
                    | {"expected": rejections.rate, **self._promise},
                )
                rejections.reset()

    def _look_at_names(self, taken: Sequence[_Seen]) -> None:
        if self._identities is None:
            self._identities = Identities(self._store.engine)
        for target, seen in _answered(taken):
            glance = seen.glance
            if glance is None:
                continue
            fresh = self._identities.take(target, glance.model, glance.fingerprint)
            if fresh is not None:
                self._raise(
                    "model",
                    f"{target} {fresh}; its provider may have changed it, so what the router knows "
                    "of it may be wrong",
                    target,
                    since=seen.time,
                    figures={"model": glance.model, "fingerprint": glance.fingerprint},
                )

    def _look_at_answers(self, taken: Sequence[_Seen]) -> None:
        rows: dict[str, list[Any]] = {}
        for target, seen in _answered(taken):
            outcome, glance = seen.outcome, seen.glance
            if glance is None or seen.session == SESSION:
                continue
            figures = figures_of(
                output_tokens=outcome.output_tokens,
                seconds=outcome.latency_s,
                opening=glance.opening,
                refused=glance.refused,
                finish_reason=outcome.finish_reason,
                logprob=glance.logprob,
            )
            rows.setdefault(target, []).append(figures)
        for target, found in rows.items():
            monitor = self._answers.get(target)
            if monitor is None:
                monitor = self._answers[target] = AnswerMonitor(
                    false_alarm_every=self._settings.false_alarm_every,
                    learn_from=self._settings.reference,
                    generator=self._generator,
                )
            change = monitor.take(np.stack(found))
            if change is not None:
                self._tell_answers(target, change)

    def _tell_answers(self, target: str, change: Change) -> None:
        moved = "risen" if change.up else "fallen"
        what = FIGURES[change.stream]
        self._raise(
            "answers",
            f"since about its answer {change.since} of {change.at} the answers of {target} differ: "
            f"{what} has {moved}. Its provider may have changed it, or what people ask has changed",
            target,
            figures={**_figures(change), "shown_by": what, "moved": moved, **self._promise},
        )

    def _look_at_feedback(self) -> None:
        judged = self._judged()
        for alarm in judged.look():
            figures = {"at": alarm.at, "since": alarm.since, "gap": alarm.gap, **self._promise}
            self._raise("calibration", str(alarm), judged.version, figures=figures)

    @property
    def _promise(self) -> dict[str, float]:
        return {"false_alarm_every": self._settings.false_alarm_every}

    @staticmethod
    def _time_of(times: deque[float], back: int) -> float | None:
        return times[-back] if 0 < back <= len(times) else None


def _answered(taken: Sequence[_Seen]) -> list[tuple[str, _Seen]]:
    return [
        (seen.outcome.target, seen)
        for seen in taken
        if seen.outcome.status == "ok" and seen.outcome.target is not None
    ]


def _figures(change: Change) -> dict[str, Any]:
    return {"at": change.at, "since": change.since}
