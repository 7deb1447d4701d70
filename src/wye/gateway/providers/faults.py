"""What an error of the library says, in the gateway's own terms."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from wye.gateway.retry_after import retry_after
from wye.gateway.upstream import Fault, UpstreamError

_BAD_REQUEST = (400, 413, 422)
_TOO_LARGE = 413
_RATE_LIMIT = 429
# What the library checks before it sends anything.
_REQUESTS = ("CompletionParams", "MessagesParams")
# What its reading of an answer stumbles over.
_UNREADABLE = (TypeError, AttributeError, LookupError)
# Names of errors of the clients' HTTP libraries, whose classes differ from client to client.
_BY_NAME: Mapping[str, tuple[Fault, str]] = {
    "ConnectTimeout": (Fault.TIMEOUT, "could not be reached in time"),
    "ReadTimeout": (Fault.TIMEOUT, "fell silent"),
    "WriteTimeout": (Fault.TIMEOUT, "took no request in time"),
    "APITimeoutError": (Fault.TIMEOUT, "gave no answer in time"),
    "ConnectError": (Fault.CONNECT, "cannot be reached"),
    "ClientConnectorError": (Fault.CONNECT, "cannot be reached"),
    "RemoteProtocolError": (Fault.RESET, "broke the connection"),
    "ReadError": (Fault.RESET, "broke the connection"),
    "WriteError": (Fault.RESET, "broke the connection"),
    "ConnectionResetError": (Fault.RESET, "broke the connection"),
    "JSONDecodeError": (Fault.GARBAGE, "sent something that is not JSON"),
    "APIResponseValidationError": (Fault.GARBAGE, "sent an answer that cannot be read"),
    "ResponseValidationError": (Fault.GARBAGE, "sent an answer that cannot be read"),
    "FloodError": (Fault.GARBAGE, "floods: it sends without an end"),
    "APIConnectionError": (Fault.CONNECT, "cannot be reached"),
}


def upstream_error(
    name: str, error: Exception, key: str | None, *, streamed: bool
) -> UpstreamError:
    """The error of one call.

    Args:
        name: of the target.
        error: what the library raised.
        key: that was sent, which no message may show.
        streamed: whether the answer was to come in pieces.
    """
    fault, words, status, body = _reading(error)
    if fault is Fault.CUT and not streamed:
        fault = Fault.GARBAGE
    said = f"{name} {words}"
    if key:
        said = said.replace(key, "[key]")
        body = body and {name: _without(value, key) for name, value in body.items()}
    return UpstreamError(
        said.encode("utf-8", "replace").decode(),
        fault=fault,
        status=status,
        body=body,
        retry_after=_wait(error),
    )


def _reading(error: Exception) -> tuple[Fault, str, int | None, dict[str, Any] | None]:
    """Fault, words, status and the provider's own error object."""
    import any_llm

    if isinstance(error, ValidationError):
        # Pydantic's own words repeat what was given, which may be a prompt.
        places = sorted({".".join(map(str, d["loc"])) for d in error.errors(include_input=False)})
        wrong = f"wrong are {', '.join(places)}"
        if error.title not in _REQUESTS:
            return Fault.GARBAGE, f"sent an answer that cannot be read: {wrong}", None, None
        return Fault.REQUEST, f"cannot be asked: {wrong}", 400, None
    if isinstance(error, NotImplementedError | any_llm.UnsupportedParameterError):
        return Fault.UNSUPPORTED, f"cannot be asked this: {error}", None, None
    if isinstance(error, any_llm.MissingApiKeyError):
        return Fault.STATUS, f"needs a key: {error}", None, None
    status = getattr(error, "status_code", None)
    body = _error_object(error)
    words = str((body or {}).get("message") or getattr(error, "message", "") or error)[:500]
    if status is None or status < _BAD_REQUEST[0]:
        return _without_status(error, words)
    said = f"answered {status}: {words}"
    if isinstance(error, any_llm.ContextLengthExceededError) or status == _TOO_LARGE:
        return Fault.CONTEXT, said, status, None
    if status in _BAD_REQUEST and not isinstance(error, any_llm.AuthenticationError):
        full = any(part in words.lower() for part in ("too long", "context limit"))
        return (Fault.CONTEXT, said, status, None) if full else (Fault.REQUEST, said, status, body)
    if status == _RATE_LIMIT:
        return Fault.RATE_LIMIT, said, status, None
    return Fault.STATUS, said, status, None


def _without_status(
    error: Exception, words: str
) -> tuple[Fault, str, int | None, dict[str, Any] | None]:
    """No status says it, or one of success: what was raised below does."""
    import any_llm

    names = [type(cause).__name__ for cause in _causes(error)]
    for name, (fault, said) in _BY_NAME.items():
        if name in names:
            return fault, said, None, None
    if any(isinstance(cause, TimeoutError | asyncio.TimeoutError) for cause in _causes(error)):
        return Fault.TIMEOUT, "gave no answer in time", None, None
    original = getattr(error, "original_exception", None) or error
    if isinstance(original, _UNREADABLE):
        return Fault.GARBAGE, "sent an answer that cannot be read", None, None
    if isinstance(original, ValueError):
        return Fault.UNSUPPORTED, f"cannot be asked this: {words}", None, None
    if isinstance(error, any_llm.InvalidRequestError):
        return Fault.REQUEST, f"cannot be asked: {words}", 400, None
    if isinstance(error, any_llm.RateLimitError):
        return Fault.RATE_LIMIT, f"is busy: {words}", None, None
    return Fault.CUT, f"broke off with an error: {words}", None, None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all below it, the last cause first met last."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        original = getattr(cause, "original_exception", None)
        cause = cause.__cause__ or original or cause.__context__


def _error_object(error: Exception) -> dict[str, Any] | None:
    """The provider's error object, where its client kept one."""
    body = getattr(getattr(error, "original_exception", None), "body", None)
    inner = body.get("error") if isinstance(body, dict) else None
    found = inner if isinstance(inner, dict) else body
    return found if isinstance(found, dict) else None


def _wait(error: Exception) -> float | None:
    """Seconds for which the provider asked to be left alone."""
    original = getattr(error, "original_exception", None)
    headers = getattr(getattr(original, "response", None), "headers", None)
    if headers is None:
        said = getattr(error, "retry_after", None)
        headers = {"retry-after": said} if said else {}
    return retry_after(headers)


def _without(value: Any, secret: str) -> Any:
    return value.replace(secret, "[key]") if isinstance(value, str) else value
