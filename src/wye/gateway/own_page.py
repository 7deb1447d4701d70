"""Whether a change comes from the gateway's own page, or from none: CSRF, for everything in `/api`.

A browser sends its user's credentials, and reaches loopback, whatever page asks it to. It says what
page that was in `Sec-Fetch-Site`, and lets a page from elsewhere send only the content types that
forms have. So a change with one of those types, or that the browser calls foreign, is refused; a
foreign `Origin` was refused before. Programs that are no browsers send what they always sent.

Source: Fetch Metadata Request Headers (W3C); Fetch Standard, CORS-safelisted request headers.
"""

from __future__ import annotations

from starlette.datastructures import Headers

from wye.gateway.errors import ApiError

_READING = {"GET", "HEAD", "OPTIONS"}
_OWN = {"same-origin", "none"}
_OF_FORMS = {"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"}


def foreign_change(method: str, path: str, headers: Headers) -> ApiError | None:
    """Why a request to `/api` may not change anything; None where it may, or changes nothing."""
    if method in _READING or not path.startswith("/api/"):
        return None
    if headers.get("sec-fetch-site", "none") not in _OWN:
        return ApiError(
            403,
            "the browser says that another page sent this; only the gateway's own may",
            type="permission_error",
            code="foreign_origin",
        )
    kind = media_type(headers)
    if kind in _OF_FORMS:
        return ApiError(
            415,
            f"the content type is {kind}, as a form of another page sends it; send "
            "application/json",
            code="unsupported_media_type",
        )
    return None


def media_type(headers: Headers) -> str:
    """The content type without its parameters, in small letters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()
