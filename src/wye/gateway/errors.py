"""Errors as the gateway's clients see them: OpenAI's shape, one class.

`{"error": {"message": ..., "type": ..., "param": ..., "code": ...}}` with an HTTP status.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any


class ApiError(Exception):
    """A request that ends in an error; every field is safe to show to the client.

    Args:
        status: HTTP status.
        message: what was given, what was expected, what to do.
        type: OpenAI's error type, for instance `invalid_request_error`.
        code: machine-readable cause, or None.
        param: the request field at fault, or None.
        headers: extra response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON body of the error."""
        return error_body(self.message, type=self.type, code=self.code, param=self.param)


def error_body(
    message: str,
    *,
    type: str,  # noqa: A002
    code: str | None = None,
    param: str | None = None,
) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400 that names the field at fault."""
    return ApiError(HTTPStatus.BAD_REQUEST, message, param=param, code=code)
