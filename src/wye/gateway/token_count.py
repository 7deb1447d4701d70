"""`POST /v1/messages/count_tokens`: passed to an Anthropic target, which alone can count.

Nothing is decided, stored or billed: Anthropic counts without a charge.

Source: Anthropic's API reference, "Count tokens in a message".
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wye.gateway.chat import destination
from wye.gateway.config import Target
from wye.gateway.errors import ApiError, bad_request
from wye.gateway.gateway import Gateway
from wye.gateway.guard import key_of
from wye.gateway.lane import ClosedError
from wye.gateway.openai_api import parse_json, read_body
from wye.gateway.streaming import ClientGoneError, unless_gone
from wye.gateway.surfaces import MESSAGES, Body
from wye.gateway.upstream import UpstreamError

PATH = "/v1/messages/count_tokens"
_CLIENT_CLOSED = 499


async def count_tokens(request: Request) -> Response:
    """How many tokens a messages request has, as the provider counts them."""
    gateway: Gateway = request.app.state.gateway
    body = parse_json(await read_body(request, gateway.body_limit))
    # Checked as a message, which needs a limit that a count does not have.
    read = MESSAGES.read({**body, "max_tokens": 1, "stream": False}, request.headers)
    assert isinstance(read.body, Body)
    asked = Body(body, surface=MESSAGES.name, headers=read.body.headers)
    target = _counting(read.model, gateway, request)
    try:
        work = gateway.lanes[target.name].ask(
            lambda upstream: upstream.count_tokens(asked), lambda *_failed: None
        )
        counted, call = await unless_gone(request.receive, work)
    except ClientGoneError:
        return Response(status_code=_CLIENT_CLOSED)
    except ClosedError as error:
        raise _unanswered(f"{target.name}: {error}") from None
    except UpstreamError as error:
        if not error.elsewhere:
            said = str((error.body or {}).get("message") or error)
            raise ApiError(error.status or 400, said) from None
        raise _unanswered(str(error)) from None
    call.release()
    return JSONResponse(counted)


def _counting(model: str, gateway: Gateway, request: Request) -> Target:
    """The target that counts: the one asked for, else the first that can.

    Raises:
        ApiError: there is none.
    """
    key = key_of(request)
    _, named = destination(model, gateway, key)
    if named is not None:
        target = gateway.service.by_name[named]
        if target.kind != "anthropic":
            raise bad_request(
                f"{named} counts no tokens; only targets of kind anthropic do", param="model"
            )
        return target
    for target in gateway.config.targets:
        able = target.kind == "anthropic" and (key is None or key.may_use(target.name))
        if able and gateway.lanes[target.name].closed is None:
            return target
    raise ApiError(
        404,
        "no target counts tokens: none of kind anthropic is configured, open to this key and "
        "answering. Count with a tokenizer of your own, or send the request without counting",
        code="no_target_counts",
    )


def _unanswered(why: str) -> ApiError:
    return ApiError(503, f"the tokens cannot be counted: {why}", type="server_error")
