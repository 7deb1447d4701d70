"""Upstream: the embedded model under one of the strategies of `wye.gateway.pool`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from wye.gateway.config import ConfigError, Target
from wye.gateway.openai_api import chunk, completion
from wye.gateway.records import new_id
from wye.gateway.upstream import Fault, Upstream, UpstreamError, closing

if TYPE_CHECKING:
    from wye.gateway.pool import AnswerParams, EmbeddedModel, ModelClient, StrategyAnswer


class SharedModel:
    """One process of the embedded model for all its strategies; started anew if it died."""

    def __init__(self) -> None:
        self._model: EmbeddedModel | None = None
        self._client: ModelClient | None = None
        self._changing = asyncio.Lock()

    async def client(self) -> ModelClient:
        """A client of the running model.

        Raises:
            UpstreamError: the model cannot be started.
        """
        from wye.gateway.pool import EmbeddedModel, EmbeddedModelError, WeightsError

        async with self._changing:
            if self._model is not None and self._model.running and self._client is not None:
                return self._client
            await self._stop()
            model = EmbeddedModel()
            try:
                await model.astart()
            except (EmbeddedModelError, WeightsError) as error:
                raise UpstreamError(str(error), fault=Fault.CONNECT) from error
            self._model, self._client = model, model.client()
            return self._client

    async def close(self) -> None:
        """Stop the model; does nothing when it does not run."""
        async with self._changing:
            await self._stop()

    async def _stop(self) -> None:
        client, self._client = self._client, None
        model, self._model = self._model, None
        if client is not None:
            await client.aclose()
        if model is not None:
            await model.astop()


class Embedded(Upstream):
    """The embedded model under `target.strategy` (the target's own name when not given)."""

    def __init__(self, target: Target, *, model: SharedModel) -> None:
        from wye.gateway.pool import STRATEGIES

        name = target.strategy or target.name
        if name not in STRATEGIES:
            raise ConfigError(
                f"the embedded model has no strategy {name!r}; it has {sorted(STRATEGIES)}. Write "
                f"for instance strategy = {sorted(STRATEGIES)[0]!r}"
            )
        self._target = target
        self._strategy = STRATEGIES[name]
        self._model = model

    async def start(self) -> None:
        """Start the model, unless another strategy did."""
        await self._model.client()

    async def close(self) -> None:
        """Stop the model, unless another strategy did."""
        await self._model.close()

    async def complete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One whole answer."""
        async with contextlib.aclosing(self._answer(request)) as pieces:
            async for piece in pieces:
                if not isinstance(piece, str):
                    return completion(
                        answer_id=f"chatcmpl-{new_id()}",
                        model=self._target.name,
                        text=piece.text,
                        finish_reason=piece.finish_reason,
                        usage=_usage(piece),
                    )
        raise self._error("ended without an answer", Fault.CUT)

    async def stream(self, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The answer in pieces."""
        piece_of = partial(chunk, answer_id=f"chatcmpl-{new_id()}", model=self._target.name)
        opened = False
        async with contextlib.aclosing(self._answer(request)) as pieces:
            async for piece in pieces:
                if not opened:
                    opened = True
                    yield piece_of(delta={"role": "assistant", "content": ""})
                if isinstance(piece, str):
                    yield piece_of(delta={"content": piece})
                else:
                    yield piece_of(delta={}, finish_reason=piece.finish_reason)
                    yield piece_of(delta=None, usage=_usage(piece))

    async def _answer(self, request: Mapping[str, Any]) -> AsyncGenerator[str | StrategyAnswer]:
        """Text pieces, then the whole answer; every failure as `UpstreamError`."""
        from wye.gateway.pool import ModelClientError, StrategyError

        params = self._params(request)
        total = self._target.timeouts.total
        deadline = asyncio.get_running_loop().time() + total
        try:
            async with asyncio.timeout_at(deadline):
                client = await self._model.client()
            pieces = self._strategy.stream(request["messages"], client=client, params=params)
            async with closing(pieces):
                while True:
                    async with asyncio.timeout_at(deadline):
                        piece = await anext(pieces, None)
                    if piece is None:
                        return
                    yield piece
        except TimeoutError:
            raise self._error(f"gave no answer within {total:g} s", Fault.TIMEOUT) from None
        except StrategyError as error:
            raise self._error(str(error), Fault.UNSUPPORTED) from error
        except ModelClientError as error:
            fault = Fault.CONTEXT if "context" in str(error).lower() else Fault.RESET
            raise self._error(str(error), fault) from error

    def _params(self, request: Mapping[str, Any]) -> AnswerParams:
        from wye.gateway.pool import AnswerParams, StrategyError

        for field, why in _NOT_HERE.items():
            if request.get(field) not in (None, False, 1, [], {"type": "text"}):
                raise self._error(f"is the embedded model, which {why}", Fault.UNSUPPORTED)
        stop = request.get("stop") or ()
        try:
            return AnswerParams(
                max_tokens=request.get("max_completion_tokens") or request.get("max_tokens"),
                temperature=request.get("temperature"),
                seed=request.get("seed"),
                stop=(stop,) if isinstance(stop, str) else tuple(stop),
            )
        except (StrategyError, TypeError) as error:
            raise self._error(str(error), Fault.REQUEST) from error

    def _error(self, what: str, fault: Fault) -> UpstreamError:
        return UpstreamError(f"{self._target.name}: {what}", fault=fault)


_NOT_HERE = {
    "tools": "calls no tools; leave out `tools`",
    "functions": "calls no functions; leave out `functions`",
    "n": "gives one choice; leave out `n`",
    "response_format": "writes plain text only; leave out `response_format`",
    "logprobs": "tells no log-probabilities; leave out `logprobs`",
}


def _usage(answer: StrategyAnswer) -> dict[str, int]:
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
    }
