"""The log on standard error: text or JSON, without keys and, unless asked, without prompts.

What an exception says may repeat a prompt: upstreams quote what they refuse, databases the row that
they cannot take. So where prompts are to stay out, exceptions are told by their kind and their
place in the code, and by what they say only where that is wye's own or the operating system's
words. Lines of other packages appear from warnings on. Every line passes the redaction, and every
secret that the configuration names is taken out whatever else it says.
"""

from __future__ import annotations

import asyncio
import atexit
import datetime
import json
import logging
import queue
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from logging.handlers import QueueHandler, QueueListener
from typing import TYPE_CHECKING, Any, TextIO

from wye.gateway.environment import secret
from wye.gateway.telemetry.redaction import PATTERNS, Redact, redacted, redactor
from wye.gateway.telemetry.settings import LogsTable

if TYPE_CHECKING:
    from types import TracebackType

    from wye.gateway.config import Config

OWN = "wye"
_LEAST_SECRET = 6
_MOST_CAUSES = 5
_MOST_WAITING = 10_000
# Their words are about files, sockets and moments, never about what was asked.
_OWN_WORDS = (OSError, TimeoutError, MemoryError, asyncio.CancelledError, KeyboardInterrupt)
QUIET = LogsTable(level="warning", access=False)


def start_logging(config: Config, stream: TextIO | None = None) -> QueueListener:
    """Send the log of the whole process to `stream`, standard error when not given.

    Lines are made and written by a thread, which is returned and ends with the process.
    """
    settings = config.logs or QUIET
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Lines(settings, secrets_of(config)))
    waiting: queue.Queue[Any] = queue.Queue(_MOST_WAITING)
    listener = QueueListener(waiting, handler)
    listener.start()
    atexit.register(_stop, listener)
    taken = _Queued(waiting)
    taken.addFilter(_worth_telling)
    root = logging.getLogger()
    root.handlers[:] = [taken]
    root.setLevel(logging.WARNING)
    level = getattr(logging, settings.level.upper())
    logging.getLogger(OWN).setLevel(level)
    if settings.access:
        logging.getLogger("wye.access").setLevel(min(level, logging.INFO))
    threading.excepthook = _died
    sys.unraisablehook = _unraisable
    return listener


class _Queued(QueueHandler):
    """Hands records over as they are; where nobody reads them in time, the rest is dropped."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Leave it: the thread makes a line of it, in the same process."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Take a record; never blocks."""
        with suppress(queue.Full):
            self.queue.put_nowait(record)


def _stop(listener: QueueListener) -> None:
    with suppress(AttributeError):  # stopped already
        listener.stop()


def secrets_of(config: Config) -> tuple[str, ...]:
    """What the configuration's environment variables hold, longest first."""
    names = {config.server.access_key_env, config.store.password_env}
    names |= {one.api_key_env for target in config.targets for one in target.served_by}
    found = {secret(name) for name in names}
    if config.telemetry is not None:
        found |= set(config.telemetry.headers.values())
    return tuple(sorted((s for s in found if len(s) >= _LEAST_SECRET), key=len, reverse=True))


class Lines(logging.Formatter):
    """One line for each record.

    Args:
        settings: see `LogsTable`.
        secrets: taken out wherever they stand.
    """

    def __init__(self, settings: LogsTable, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._json = settings.format == "json"
        self._open = settings.prompts
        self._secrets = tuple(secrets)
        self._redact: Redact = redactor(settings.redact)

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        fields: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._message(record),
        }
        fields |= {k: v for k, v in getattr(record, "wye", {}).items() if v is not None}
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = "\n".join(self._told(record.exc_info[1]))
        fields = redacted(fields, self._clean)
        if self._json:
            return json.dumps(fields)
        return _as_text(fields)

    def _message(self, record: logging.LogRecord) -> str:
        args = record.args
        if isinstance(args, tuple):
            args = tuple(self._words(a) if isinstance(a, BaseException) else a for a in args)
        try:
            message = str(record.msg) % args if args else str(record.msg)
        except (TypeError, ValueError):
            message = str(record.msg)
        if record.name == "asyncio" and not self._open:
            # Below its first line asyncio shows tasks, with the exceptions that they ended in.
            return message.split("\n", 1)[0]
        return message

    def _told(self, error: BaseException) -> Iterator[str]:
        """An exception, and what led to it: kinds and places, no lines of data."""
        chain: list[BaseException] = []
        cause: BaseException | None = error
        while cause is not None and len(chain) < _MOST_CAUSES:
            chain.append(cause)
            cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        for link in reversed(chain):
            yield from (f"  {place}" for place in _places(link.__traceback__))
            yield self._words(link)
            for inner in getattr(link, "exceptions", ())[:_MOST_CAUSES]:
                yield f"  with {self._words(inner)}"

    def _words(self, error: BaseException) -> str:
        """An exception by its kind, and by what it says where that is safe."""
        kind = type(error).__name__
        fault, status = getattr(error, "fault", None), getattr(error, "status", None)
        if fault is not None:
            kind += f" ({fault}{f', status {status}' if status else ''})"
        if self._open or isinstance(error, _OWN_WORDS):
            return f"{kind}: {error}"
        return kind

    def _clean(self, text: str) -> str:
        for known in self._secrets:
            text = text.replace(known, "[key]")
        return self._redact(PATTERNS["key"](text))


def _places(trace: TracebackType | None) -> Iterator[str]:
    for frame, line in traceback.walk_tb(trace):
        code = frame.f_code
        yield f"{code.co_filename}:{line} in {code.co_name}"


def _as_text(fields: dict[str, Any]) -> str:
    head = [str(fields.pop(name)) for name in ("time", "level", "logger")]
    message, exception = fields.pop("message"), fields.pop("exception", "")
    told = [f"{name}={_plain(value)}" for name, value in fields.items()]
    # One record is one line but for the places of an exception, which are wye's own words.
    lines = " ".join((*head, *([] if told else [message.replace("\n", "\\n")]), *told))
    return f"{lines}\n{exception}" if exception else lines


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    bare = text.isascii() and text.isprintable() and text and not set(' "=') & set(text)
    return text if bare else json.dumps(text)


def _worth_telling(record: logging.LogRecord) -> bool:
    own = record.name == OWN or record.name.startswith(f"{OWN}.")
    return own or record.levelno >= logging.WARNING


def _died(given: threading.ExceptHookArgs) -> None:
    name = given.thread.name if given.thread is not None else "?"
    logging.getLogger("wye.gateway").critical(
        "the thread %s has died", name, exc_info=given.exc_value
    )


def _unraisable(given: sys.UnraisableHookArgs) -> None:
    logging.getLogger("wye.gateway").error("an error nobody could take", exc_info=given.exc_value)
