"""Canaries: fixed prompts, asked of each target again and again, whose answers should stay alike.

What people ask changes; these prompts do not, so where their answers change, the model has. Each
answer's likeness to the first answer of its target and prompt (Jaccard index of their trigrams of
characters, A. Broder 1997) is ranked among those before it and watched for a change
(`wye.gateway.watch.ranks`, `.detector`). Answers need not be the same every time.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from wye.gateway.errors import ApiError
from wye.gateway.money.admission import Grant
from wye.gateway.openai_api import parse_chat
from wye.gateway.watch.alarms import Alarms
from wye.gateway.watch.detector import Detector
from wye.gateway.watch.ranks import Ranks
from wye.gateway.watch.settings import Canaries

if TYPE_CHECKING:
    from wye.gateway.dispatch import Dispatcher

logger = logging.getLogger("wye.gateway")
SESSION = "wye-canary"


def likeness(one: str, other: str) -> float:
    """Share of trigrams of characters that two texts have in common, 0 to 1.

    Example:
        >>> likeness("abcd", "abcd"), likeness("abcd", "wxyz")
        (1.0, 0.0)
    """
    first, second = _trigrams(one), _trigrams(other)
    return len(first & second) / len(first | second)


class CanaryMonitor:
    """Watches the answers of one target to the canaries.

    Args:
        false_alarm_every: mean number of answers to a false alarm, at least.
        generator: breaks ties.

    Attributes:
        seen: answers so far.
    """

    learning = False

    def __init__(self, false_alarm_every: float, generator: np.random.Generator) -> None:
        self._generator = generator
        self._detector = Detector(1, false_alarm_every)
        self.seen = 0
        self._restart()

    @property
    def evidence(self) -> float:
        """As a share of what raises an alarm."""
        return self._detector.evidence

    def take(self, prompt: str, answer: str) -> bool:
        """Take an answer; whether answers have changed. After that they are learned anew."""
        self.seen += 1
        if prompt not in self._first:
            self._first[prompt] = answer
            self._ranks[prompt] = Ranks(1, self._generator)
            return False
        figure = np.array([[likeness(answer, self._first[prompt])]])
        change = self._detector.take(self._ranks[prompt].take(figure))
        # Answers that have become more alike say nothing against the model.
        if change is None or change.up:
            return False
        self._restart()
        return True

    def _restart(self) -> None:
        self._first: dict[str, str] = {}
        self._ranks: dict[str, Ranks] = {}


class CanaryRounds:
    """Asks the canaries at their interval, as a task of the event loop.

    Args:
        settings: see `Canaries`.
        targets: names of all targets.
        alarms: raises alarms.
        false_alarm_every: see `CanaryMonitor`.
        generator: breaks ties.

    Attributes:
        monitors: by target.
        told: alarms so far, by target.
    """

    def __init__(
        self,
        settings: Canaries,
        targets: tuple[str, ...],
        alarms: Alarms,
        *,
        false_alarm_every: float,
        generator: np.random.Generator,
    ) -> None:
        self._settings = settings
        self._alarms = alarms
        self.monitors = {
            name: CanaryMonitor(false_alarm_every, generator)
            for name in settings.targets or targets
        }
        self.told = dict.fromkeys(self.monitors, 0)
        self._failing: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self, dispatcher: Dispatcher) -> None:
        """Begin; the first round is asked at once."""
        self._task = asyncio.create_task(self._rounds(dispatcher))

    async def stop(self) -> None:
        """End; a canary that is being asked is left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _rounds(self, dispatcher: Dispatcher) -> None:
        while True:
            for target in self.monitors:
                for prompt in self._settings.prompts:
                    try:
                        await self._ask(dispatcher, target, prompt)
                    except Exception:
                        logger.exception("a canary failed")
            await asyncio.sleep(self._settings.every_seconds)

    async def _ask(self, dispatcher: Dispatcher, target: str, prompt: str) -> None:
        chat = parse_chat(
            {
                "model": target,
                "messages": [{"role": "user", "content": prompt}],
                "temperature": 0,
                "max_tokens": self._settings.max_tokens,
            }
        )
        grant = Grant()
        grant.session = SESSION
        exchange = await dispatcher.begin(
            chat, policy=None, target=target, grant=grant, guarded=False
        )
        try:
            answer = await dispatcher.complete(exchange)
        except ApiError as error:
            if target not in self._failing:
                logger.warning("%s answers no canary: status %d", target, error.status)
            self._failing.add(target)
            return
        self._failing.discard(target)
        if self.monitors[target].take(prompt, _said(answer)):
            seen = self.monitors[target].seen
            raised = await asyncio.to_thread(
                self._alarms.raise_,
                "canary",
                f"{target} answers fixed prompts otherwise than before, found after {seen} of "
                "their answers: its provider may have changed it; measure it again",
                subject=target,
                figures={"seen": seen},
            )
            self.told[target] += raised is not None


def _said(answer: dict[str, Any]) -> str:
    choice = answer["choices"][0]
    content = (choice.get("message") or {}).get("content")
    return content if isinstance(content, str) else ""


def _trigrams(text: str) -> set[str]:
    padded = f"  {text} "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}
