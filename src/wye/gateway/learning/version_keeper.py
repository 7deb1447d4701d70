"""Keeps a running gateway on the version that the store wants, and on its experiments.

A thread looks at the store every `poll_seconds`: which version was put to use, which experiments
run, what feedback is new. What changed is loaded and tried there, then put in place on the event
loop between two requests. Requests that are being answered hold the set they began with, so none is
dropped or decided anew. A version that cannot be loaded changes nothing, and is told in the log, at
`/healthz` and by `wye policy list`. Gateways of one store see the same rows, so they converge.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wye.errors import WyeError
from wye.gateway.config import Config
from wye.gateway.dialects import STORE_ERRORS, details
from wye.gateway.learning.analysis import analyse, shadow_summary
from wye.gateway.learning.experiments import Experiment, ExperimentBook
from wye.gateway.learning.learner import Learner
from wye.gateway.learning.learner_feed import LearnerFeed
from wye.gateway.learning.steps import Wanted
from wye.gateway.learning.trials import Trial
from wye.gateway.learning.versions import CONFIGURED, GatewayReport, VersionBook
from wye.gateway.policy_set import PolicySet
from wye.gateway.records import AlarmRecord, new_id
from wye.gateway.reports import spent_by_policy
from wye.gateway.router_service import RouterService
from wye.gateway.store import Store
from wye.query.base import QueryRouter

Reread = Callable[[], tuple[Config, QueryRouter | None]]
_REPORT_SECONDS = 10.0
# An analysis may take this share of the time at most.
_ANALYSIS_SHARE = 0.1
logger = logging.getLogger("wye.gateway")


@dataclass(frozen=True)
class _Change:
    """What a look at the store found to be put in place; None where it stays.

    `running` are the experiments of the store.
    """

    present: PolicySet | None
    trials: tuple[Trial, ...] | None
    running: tuple[Experiment, ...]


class VersionKeeper:
    """Follows the store while the gateway runs.

    Args:
        service: gets what is to decide.
        store: is looked at.
        config: the gateway's own; its targets serve every version.

    Attributes:
        results: what the last analysis found of the experiments that ran then, by id.
    """

    def __init__(self, service: RouterService, store: Store, config: Config) -> None:
        self.book = VersionBook(store.engine)
        self.experiments = ExperimentBook(store.engine)
        self._errors: dict[str, str] = {}
        self.gateway_id = new_id()
        self.results: Mapping[str, Mapping[str, Any]] = {}
        self._service = service
        self._store = store
        self._config = config
        self._own = service.present
        self._feed = LearnerFeed(store.engine)
        self._wanted = Wanted(0, None)
        self._carried_out: tuple[str, ...] = ()
        self._refused: set[str] = set()
        self._reported = self._analysed = 0.0
        self._analysis_took = 0.0
        self._recorded = False
        self._unreadable = False
        self._reread: Reread | None = None
        self._asked = self._answered = 0
        self._poke = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take up what the store wants, teach the learners what is known, and go on following."""
        await self._look()
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._leave)

    def read_again_by(self, reread: Reread) -> None:
        """How `reload` reads the configuration and its router."""
        self._reread = reread

    def reload(self) -> None:
        """Read `wye.toml` and its router again, and look at the store now. From the event loop."""
        self._asked += self._reread is not None
        self.look()

    def look(self) -> None:
        """Look at the store soon, since something changed there. From the event loop."""
        self._poke.set()

    def health(self) -> dict[str, Any]:
        """By what the gateway decides; `error` says why not by what it should."""
        present = self._service.present
        return {
            "version": present.version,
            "digest": present.digest,
            "source": present.source,
            "error": self.error,
        }

    @property
    def error(self) -> str | None:
        """What keeps the gateway from what it should decide by; None where nothing does."""
        return "; ".join(self._errors.values()) or None

    async def _follow(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._config.learning.poll_seconds):
                    await self._poke.wait()
            except TimeoutError:
                pass
            self._poke.clear()
            await self._look()

    async def _look(self) -> None:
        try:
            change = await asyncio.to_thread(self._find)
        except STORE_ERRORS as error:
            if not self._unreadable:
                logger.error("the store cannot be asked for versions: %s", details(error))
            self._unreadable = True
            return
        except Exception:
            # Whatever is wrong with learning, requests are answered as before.
            logger.exception("looking for versions failed")
            return
        self._unreadable = False
        if change.present is not None:
            self._service.present = change.present
            logger.warning(
                "version %s (%s) decides from here on",
                change.present.version, change.present.source,
            )  # fmt: skip
        if change.trials is not None:
            self._service.trials.running = change.trials
        try:
            await asyncio.to_thread(self._keep_books, change)
        except STORE_ERRORS as error:
            logger.warning("the store cannot be told what decides: %s", details(error))
        except Exception:
            logger.exception("keeping the books of learning failed")

    # In the thread.

    def _find(self) -> _Change:
        asked = self._asked
        reread = asked != self._answered
        if reread:
            self._read_own()
        # In this order: what an experiment that runs compares with is wanted while it runs.
        running = self.experiments.running()
        wanted = self.book.wanted()
        # The first look takes up what the store wants, also where nothing changed since the start.
        present = self._present(wanted) if reread or wanted != self._wanted else None
        trials = self._trials(running)
        carried_out = self._service.trials.running if trials is None else trials
        sets = [present or self._service.present, *(trial.candidate for trial in carried_out)]
        learners: list[Learner] = [one for s in sets for one in s.learners.values()]
        if learners:
            self._feed.teach(learners)
        # Only what was found to the end is not looked for again.
        self._wanted, self._answered = wanted, asked
        self._carried_out = tuple(one.id for one in running)
        return _Change(present, trials, tuple(running))

    def _keep_books(self, change: _Change) -> None:
        """What follows from a look, and need not be there for requests to go on."""
        self._record_own()
        self._analyse(change.running)
        self._report(changed=change.present is not None)

    def _present(self, wanted: Wanted) -> PolicySet | None:
        """What is to decide; None where it stays as it is."""
        present = self._service.present
        self._errors.pop("version", None)
        if wanted.version is None:
            return None if self._own is present else self._own
        try:
            found = self._load(wanted.version, earlier=present)
        except (WyeError, ValueError) as error:
            self._fail(
                "version",
                f"version {wanted.version} cannot be used: {error}; {present.version} goes on "
                "deciding",
            )
            return None
        return found

    def _load(self, version: str, earlier: PolicySet | None) -> PolicySet:
        config, router = self.book.load(version, self._config)
        self._store.flush()
        found = PolicySet(
            config,
            router,
            self._config.router.generator(),
            spent=spent_by_policy(self._store.engine),
            earlier=earlier,
            source="store",
        )
        found.version = version
        return found

    def _read_own(self) -> None:
        """The set of `wye.toml` as it is on disk by now."""
        assert self._reread is not None
        try:
            config, router = self._reread()
            # What was decided until now is to count as spent.
            self._store.flush()
            changed = {n: getattr(config, n) for n in ("policies", "default_policy", "router")}
            self._own = PolicySet(
                self._config.model_copy(update=changed),
                router,
                self._service.generator,
                spent=spent_by_policy(self._store.engine),
                earlier=self._service.present,
            )
            self._errors.pop(CONFIGURED, None)
        except (WyeError, ValueError, OSError) as error:
            self._fail(CONFIGURED, f"{CONFIGURED} cannot be read again: {error}")
            return
        self._recorded = False
        if config.targets != self._config.targets:
            logger.warning("the targets of %s changed; they need a restart", CONFIGURED)

    def _trials(self, running: list[Experiment]) -> tuple[Trial, ...] | None:
        """The experiments to carry out; None where they are the same as before."""
        names = tuple(one.id for one in running)
        if names == self._carried_out:
            return None
        self._errors.pop("experiment", None)
        kept = {trial.id: trial for trial in self._service.trials.running}
        found = []
        for one in running:
            if one.id in kept:
                found.append(kept[one.id])
                continue
            try:
                # A shadow keeps accounts of its own: nothing it decides may be booked on what acts.
                acts = self._service.present if one.kind != "shadow" else None
                candidate = self._load(one.version, earlier=acts)
            except (WyeError, ValueError) as error:
                what = f"the experiment {one.name!r} cannot be carried out: {error}"
                self._fail("experiment", what)
                continue
            found.append(Trial(one.id, one.name, one.kind, one.share, one.plan.by, candidate))
        return tuple(found)

    def _record_own(self) -> None:
        """Keep what the gateway began with, so that it can be looked up and come back to."""
        if self._recorded:
            return
        self._recorded = True
        try:
            self.book.record(self._own, note="", origin=CONFIGURED)
        except WyeError as error:
            logger.warning("the version of %s is not kept in the store: %s", CONFIGURED, error)

    def _analyse(self, running: Sequence[Experiment]) -> None:
        """End the experiments that have shown what they were to show."""
        wait = max(self._config.learning.analysis_seconds, self._analysis_took / _ANALYSIS_SHARE)
        if not running or time.monotonic() - self._analysed < wait:
            return
        # Work, not waiting: a busy machine or a lock must not put off a verdict.
        started = time.thread_time()
        results: dict[str, Mapping[str, Any]] = {}
        for one in running:
            if one.kind == "shadow":
                results[one.id] = {"shadow": shadow_summary(self._store.engine, one)}
                continue
            found = analyse(self._store.engine, one)
            results[one.id] = found.to_dict()
            if found.verdict is None:
                continue
            state, reason = found.verdict.state, found.verdict.reason
            if self.experiments.end(one.id, state, reason, found.to_dict()):
                message = f"the experiment {one.name!r} ended as {state}: {reason}"
                logger.warning("%s", message)
                self._store.add(AlarmRecord(new_id(), time.time(), "canary", one.version, message))
        self.results = results
        self._analysed = time.monotonic()
        self._analysis_took = time.thread_time() - started

    def _fail(self, what: str, message: str) -> None:
        self._errors[what] = message
        self._reported = 0.0
        logger.error("%s", message)

    def _report(self, *, changed: bool) -> None:
        deciding = self._service.present
        if not changed and time.monotonic() - self._reported < _REPORT_SECONDS:
            return
        self._reported = time.monotonic()
        self.book.report(
            GatewayReport(
                self.gateway_id, time.time(), deciding.version, deciding.digest, self.error
            )
        )

    def _leave(self) -> None:
        self._service.trials.shadows.close()
        try:
            self.book.leave(self.gateway_id)
        except STORE_ERRORS as error:
            logger.warning("the store cannot be told that the gateway stops: %s", details(error))
