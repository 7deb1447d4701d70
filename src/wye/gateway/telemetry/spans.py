"""Spans made of a request's notes, with the names of OpenTelemetry's conventions.

Imported by the exporting thread alone, since it imports OpenTelemetry. Source: semantic conventions
for generative AI spans and for HTTP spans, by the names in `opentelemetry-semantic-conventions`;
`gen_ai.system`, the name of `gen_ai.provider.name` until 2025, is sent beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes import (
    error_attributes as errors,
)
from opentelemetry.semconv.attributes import (
    http_attributes as http,
)
from opentelemetry.semconv.attributes import (
    server_attributes as server,
)
from opentelemetry.semconv.attributes import (
    url_attributes as url,
)
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from wye.gateway.config import Target
from wye.gateway.telemetry.redaction import Redact, redacted
from wye.gateway.telemetry.trace import Attempt, Trace

_Provider = gen_ai.GenAiProviderNameValues
_HOSTS: Mapping[str, str] = {
    "anthropic.com": _Provider.ANTHROPIC.value,
    "azure.com": _Provider.AZURE_AI_OPENAI.value,
    "cohere.com": _Provider.COHERE.value,
    "deepseek.com": _Provider.DEEPSEEK.value,
    "googleapis.com": _Provider.GCP_GEMINI.value,
    "groq.com": _Provider.GROQ.value,
    "mistral.ai": _Provider.MISTRAL_AI.value,
    "openai.com": _Provider.OPENAI.value,
    "perplexity.ai": _Provider.PERPLEXITY.value,
    "x.ai": _Provider.X_AI.value,
}
_PARAMETERS: Mapping[str, str] = {
    "temperature": gen_ai.GEN_AI_REQUEST_TEMPERATURE,
    "top_p": gen_ai.GEN_AI_REQUEST_TOP_P,
    "top_k": gen_ai.GEN_AI_REQUEST_TOP_K,
    "seed": gen_ai.GEN_AI_REQUEST_SEED,
    "n": gen_ai.GEN_AI_REQUEST_CHOICE_COUNT,
    "frequency_penalty": gen_ai.GEN_AI_REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": gen_ai.GEN_AI_REQUEST_PRESENCE_PENALTY,
    "max_tokens": gen_ai.GEN_AI_REQUEST_MAX_TOKENS,
    "stream": gen_ai.GEN_AI_REQUEST_STREAM,
}
_LONGEST_CONTENT = 100_000


class SpanMaker:
    """Makes the spans of a trace.

    Args:
        resource: who speaks.
        version: of wye.
        targets: every deployment of every target, by its name.
        redact: applied to what was asked, where that goes along.
    """

    def __init__(
        self, resource: Resource, version: str, targets: Mapping[str, Target], redact: Redact
    ) -> None:
        self._resource = resource
        self._scope = InstrumentationScope("wye.gateway", version)
        self._targets = targets
        self._redact = redact

    def spans(self, trace: Trace) -> Iterator[ReadableSpan]:
        """The span of the request, of its decision and of each call."""
        yield self._server(trace)
        if trace.decision is not None:
            yield self._decision(trace)
        for attempt in trace.attempts:
            yield self._attempt(trace, attempt)

    def _server(self, trace: Trace) -> ReadableSpan:
        address, port = _address(f"//{trace.host}")
        attributes: dict[str, Any] = {
            http.HTTP_REQUEST_METHOD: trace.method,
            http.HTTP_ROUTE: trace.path,
            http.HTTP_RESPONSE_STATUS_CODE: trace.status or None,
            url.URL_PATH: trace.path,
            url.URL_SCHEME: "http",
            server.SERVER_ADDRESS: address,
            server.SERVER_PORT: port,
            "wye.decision.id": trace.decision.id if trace.decision else None,
            "wye.key.name": trace.key,
        }
        outcome = trace.outcome
        failed = trace.status >= 500 or (outcome is not None and outcome.status == "error")
        if failed:
            attributes[errors.ERROR_TYPE] = str(trace.status) if trace.status >= 400 else "cut"
        parent = self._context(trace, trace.parent_id, remote=True) if trace.parent_id else None
        return self._span(
            f"{trace.method} {trace.path}",
            trace, trace.span_id, parent, SpanKind.SERVER, trace.started, trace.ended,
            attributes, failed,
        )  # fmt: skip

    def _decision(self, trace: Trace) -> ReadableSpan:
        made = trace.decision
        assert made is not None
        candidates = made.candidates
        attributes = {
            "wye.decision.id": made.id,
            "wye.policy": made.policy_name,
            "wye.policy.parameters": made.policy,
            "wye.policy.version": made.policy_version,
            "wye.router": made.router,
            "wye.target": made.target,
            "wye.propensity": made.propensity,
            "wye.router.cost_usd": made.router_cost_usd,
            "wye.candidates": [str(c["target"]) for c in candidates],
            "wye.candidates.quality": [_number(c.get("quality")) for c in candidates],
            "wye.candidates.cost_usd": [_number(c.get("cost_usd")) for c in candidates],
            "wye.candidates.score": [_number(c.get("score")) for c in candidates],
            "wye.excluded": [f"{name}: {self._redact(why)}" for name, why in made.excluded.items()],
            "wye.reasons": [self._redact(reason) for reason in made.reasons],
            gen_ai.GEN_AI_CONVERSATION_ID: made.session,
        }
        parent = self._context(trace, trace.span_id)
        times = (trace.decision_started, trace.decision_ended)
        return self._span(
            "wye.decide", trace, trace.decision_id, parent, SpanKind.INTERNAL, *times, attributes
        )

    def _attempt(self, trace: Trace, attempt: Attempt) -> ReadableSpan:
        target = self._targets.get(attempt.deployment)
        model = target.upstream_model if target is not None else attempt.deployment
        host, port = _address(str(target.address)) if target and target.address else (None, None)
        provider = _provider(target, host)
        attributes: dict[str, Any] = {
            gen_ai.GEN_AI_OPERATION_NAME: trace.operation,
            gen_ai.GEN_AI_PROVIDER_NAME: provider,
            gen_ai.GEN_AI_SYSTEM: provider,
            gen_ai.GEN_AI_REQUEST_MODEL: model,
            server.SERVER_ADDRESS: host,
            server.SERVER_PORT: port,
            "wye.target": attempt.deployment.partition(" #")[0],
            "wye.deployment": attempt.deployment,
            **{_PARAMETERS[name]: value for name, value in trace.parameters.items()},
        }
        if trace.content is not None:
            attributes[gen_ai.GEN_AI_INPUT_MESSAGES] = self._content(trace.content)
        if attempt.fault is not None:
            attributes[errors.ERROR_TYPE] = attempt.fault
        elif trace.outcome is not None:
            attributes |= _of_answer(trace)
        return self._span(
            f"{trace.operation} {model}",
            trace, attempt.span_id, self._context(trace, trace.span_id), SpanKind.CLIENT,
            attempt.started, attempt.ended or trace.ended, attributes, attempt.fault is not None,
        )  # fmt: skip

    def _content(self, content: Any) -> str:
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        told = [
            {"role": str(m.get("role", "user")), "parts": list(_parts(m.get("content")))}
            for m in messages
            if isinstance(m, dict)
        ]
        return json.dumps(redacted(told, self._redact))[:_LONGEST_CONTENT]

    def _span(
        self,
        name: str,
        trace: Trace,
        span_id: int,
        parent: SpanContext | None,
        kind: SpanKind,
        started: int,
        ended: int,
        attributes: Mapping[str, Any],
        failed: bool = False,
    ) -> ReadableSpan:
        return ReadableSpan(
            name,
            context=self._context(trace, span_id),
            parent=parent,
            resource=self._resource,
            attributes={k: v for k, v in attributes.items() if _can_be_told(v)},
            kind=kind,
            status=Status(StatusCode.ERROR) if failed else Status(),
            start_time=started,
            end_time=max(ended, started),
            instrumentation_scope=self._scope,
        )

    def _context(self, trace: Trace, span_id: int, *, remote: bool = False) -> SpanContext:
        state = TraceState.from_header([trace.state]) if trace.state else None
        flags = TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(trace.trace_id, span_id, remote, flags, state)


def _of_answer(trace: Trace) -> dict[str, Any]:
    outcome = trace.outcome
    assert outcome is not None
    first = outcome.first_byte_s if trace.parameters.get("stream") else None
    return {
        gen_ai.GEN_AI_RESPONSE_MODEL: trace.served_as,
        gen_ai.GEN_AI_RESPONSE_FINISH_REASONS: (
            [outcome.finish_reason] if outcome.finish_reason else None
        ),
        gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: first,
        gen_ai.GEN_AI_USAGE_INPUT_TOKENS: outcome.input_tokens,
        gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS: outcome.output_tokens,
        gen_ai.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: outcome.cached_input_tokens,
        gen_ai.GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS: outcome.cache_write_tokens,
        gen_ai.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: outcome.reasoning_tokens,
        "wye.cost_usd": outcome.cost_usd,
        "wye.baseline_usd": outcome.baseline_usd,
    }


def _provider(target: Target | None, host: str | None) -> str:
    """Who serves the model: by its address, else by the interface that it speaks."""
    if target is None:
        return "wye"
    ends = (name for end, name in _HOSTS.items() if host and f".{host}".endswith(f".{end}"))
    interface = _Provider.OPENAI.value if target.kind == "openai" else target.kind
    return next(ends, interface)


def _address(address: str) -> tuple[str | None, int | None]:
    try:
        parts = urlsplit(address)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        return None, None
    return parts.hostname, port


def _parts(content: Any) -> Iterator[dict[str, str]]:
    """Text of a message; media are told by their kind alone."""
    if isinstance(content, str):
        yield {"type": "text", "content": content}
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            yield {"type": "text", "content": part["text"]}
        elif isinstance(part, dict):
            yield {"type": str(part.get("type", "unknown"))}


def _number(value: Any) -> float:
    return float(value) if value is not None else math.nan


def _can_be_told(value: Any) -> bool:
    """Whether a value is one that an attribute may have."""
    return isinstance(value, str | bool | int | float) or (isinstance(value, list) and bool(value))
