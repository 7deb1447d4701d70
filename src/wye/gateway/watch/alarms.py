"""Raising an alarm: a row in the store, a count, a line in the log, and a call where configured.

While one of the same kind and subject stands that nobody has acknowledged, there is no second: what
lasts is found again and again. A model's further names are news each time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from wye.gateway.metrics import Metrics
from wye.gateway.records import AlarmRecord, new_id
from wye.gateway.store import Store
from wye.gateway.watch.alarm_book import is_open

logger = logging.getLogger("wye.gateway")
_TRIES = 3
_WAIT_SECONDS = 2.0
_TIMEOUT = 5.0


class Alarms:
    """Raises alarms.

    Args:
        store, metrics: where they go.
        webhook: an address that each is posted to as JSON; None for none.
    """

    def __init__(self, store: Store, metrics: Metrics, webhook: str | None) -> None:
        self._store = store
        self._metrics = metrics
        self._webhook = webhook

    def raise_(
        self,
        kind: str,
        message: str,
        *,
        subject: str | None = None,
        since: float | None = None,
        figures: Mapping[str, Any] | None = None,
    ) -> AlarmRecord | None:
        """Raise one, unless one stands; `AlarmRecord` says what its parts are.

        Reads the store: call it from a thread.
        """
        self._store.flush()
        if kind != "model" and is_open(self._store.engine, kind, subject):
            return None
        alarm = AlarmRecord(
            new_id(), time.time(), kind, subject, message, since, dict(figures or {})
        )
        self._store.add(alarm)
        self._metrics.alarms.labels(kind).inc()
        logger.warning("alarm %s (%s): %s", alarm.id, kind, message)
        if self._webhook is not None:
            threading.Thread(target=self._post, args=(alarm,), daemon=True).start()
        return alarm

    def _post(self, alarm: AlarmRecord) -> None:
        import httpx

        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_WAIT_SECONDS * attempt)
            try:
                answer = httpx.post(str(self._webhook), json=asdict(alarm), timeout=_TIMEOUT)
            except httpx.HTTPError as error:
                said = type(error).__name__
            else:
                if answer.is_success:
                    return
                said = f"status {answer.status_code}"
        logger.error("alarm %s could not be posted to the webhook: %s", alarm.id, said)
