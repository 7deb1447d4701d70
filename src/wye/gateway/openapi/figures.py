"""Operations that tell of decisions and take feedback, and those behind the dashboard."""

from __future__ import annotations

from typing import Any

from wye.gateway.openapi.answering import CHAT_MESSAGE
from wye.gateway.openapi.parts import (
    COUNT,
    FLAG,
    MOMENT,
    NUMBER,
    OBJECT,
    SHARE,
    TEXT,
    WORD,
    Schema,
    closed,
    in_path,
    in_query,
    listed,
    mapped,
    maybe,
    one_of,
    operation,
    record,
)  # fmt: skip
from wye.gateway.surfaces import SURFACES

_ID = in_path("id", "of the decision, as the header x-wye-decision has it")
_KEY_ID = in_path("id", "id or name of the key")
_LIMIT: Schema = {"type": "integer", "minimum": 1, "maximum": 1000}
_MOMENT: Schema = {"type": "number", "minimum": 0, "maximum": 1e11}
_SINCE = in_query("since", _MOMENT, "seconds since 1970; left out: from the beginning")
_FEW = in_query("limit", _LIMIT, "most entries")
_BEFORE = in_query("before", TEXT, "only what is older than this decision")
_SHORT: Schema = {"type": "string", "maxLength": 200}
_CANDIDATE = record(
    target=TEXT, quality=NUMBER, cost_usd=maybe(NUMBER), latency_s=maybe(NUMBER),
    score=maybe(NUMBER), allowed=FLAG, probability=maybe(SHARE),
)  # fmt: skip
_CHOICE = {
    "policy_name": TEXT, "policy": TEXT, "target": maybe(TEXT), "propensity": SHARE,
    "candidates": listed(_CANDIDATE), "reasons": listed(TEXT),
}  # fmt: skip
_DECISION = record(
    id=TEXT, time=MOMENT, requested=TEXT, excluded=mapped(TEXT), features=OBJECT, text=maybe(TEXT),
    outcome=maybe(OBJECT), feedback=listed(record(time=MOMENT, quality=SHARE)),
    explanation=listed(TEXT), **_CHOICE,
)  # fmt: skip
_IN_SHORT = record(
    id=TEXT, time=MOMENT, target=maybe(TEXT), text=maybe(TEXT), quality=maybe(SHARE),
    cost_usd=maybe(NUMBER), latency_ms=maybe(NUMBER), status=maybe(TEXT), reasons=listed(TEXT),
)  # fmt: skip
_SERVED = {
    "name": TEXT, "kind": TEXT, "requests": COUNT, "errors": COUNT, "share": SHARE,
    "spend_usd": maybe(NUMBER), "quality": maybe(SHARE), "state": TEXT,
}  # fmt: skip
_EXPERIMENT = record(
    id=TEXT, name=TEXT, kind=TEXT, version=TEXT, control=maybe(TEXT), share=SHARE, state=TEXT,
    started=MOMENT, ended=maybe(MOMENT), reason=maybe(TEXT), arms=mapped(OBJECT),
    differences=listed(OBJECT), shadow=maybe(OBJECT), words=TEXT,
)  # fmt: skip
_LIMITS: dict[str, Schema] = {
    **{
        name: maybe(NUMBER)
        for name in ("budget_day", "budget_month", "budget_total", "per_request", "per_session")
    },
    **{name: maybe({"type": "integer"}) for name in ("requests_per_minute", "tokens_per_minute")},
    "targets": maybe(listed(TEXT)),
    "policy": maybe(WORD),
    "expires": maybe(MOMENT),
}
_KEY = record(
    name=TEXT, id=TEXT, prefix=TEXT, state=one_of("good", "revoked", "expired"), created=MOMENT,
    revoked=maybe(MOMENT), limits=OBJECT,
)  # fmt: skip
_ALARM = record(
    id=TEXT, time=MOMENT, kind=TEXT, subject=maybe(TEXT), message=TEXT, figures=OBJECT,
    acknowledged=maybe(MOMENT),
)  # fmt: skip
_JUDGED = {"comment": maybe(TEXT), "source": one_of("person", "judge", "outcome")}
_CHANGE = (400, 404, 408, 413, 415, 503)

PATHS: dict[str, dict[str, Any]] = {
    "/v1/decisions": {
        "get": operation(
            "The latest decisions, newest first; of a virtual key its own",
            record(object={"const": "list"}, data=listed(_IN_SHORT)),
            tag="decisions", parameters=[_FEW, _BEFORE], refusals=(400, 503),
        )
    },
    "/v1/decisions/{id}": {
        "get": operation(
            "Everything about one decision", _DECISION, tag="decisions", parameters=[_ID],
            refusals=(404, 503),
        )
    },
    "/v1/feedback": {
        "post": operation(
            "A judgement of an answer",
            record(object={"const": "feedback"}, decision=TEXT, quality=SHARE),
            tag="decisions", body=closed(_JUDGED, decision=TEXT, quality=SHARE),
            refusals=(400, 404, 408, 413, 503),
        )
    },
    "/api/summary": {
        "get": operation(
            "Sums over everything, or since a moment",
            record(
                requests=COUNT, errors=COUNT, spend_usd=NUMBER, baseline=TEXT,
                targets=listed(record(**_SERVED)), policies=listed(TEXT),
                store=record(ok=FLAG, lost=COUNT),
            ),
            tag="dashboard", parameters=[_SINCE], refusals=(400, 503),
        )
    },
    "/api/names": {
        "get": operation(
            "What decisions can be filtered by, and asked for",
            record(
                targets=listed(TEXT), policies=listed(TEXT), default_policy=TEXT,
                keys=listed(record(id=TEXT, name=TEXT)), surfaces=listed(TEXT), key_needed=FLAG,
            ),
            tag="dashboard", refusals=(503,),
        )
    },
    "/api/targets": {
        "get": operation(
            "Every target: what it is, how it stands, what it came to",
            record(
                targets=listed(
                    record(
                        deployments=listed(record(name=TEXT, state=TEXT, in_flight=COUNT)),
                        in_flight=COUNT, model=TEXT, tags=listed(TEXT), speaks=listed(TEXT),
                        **_SERVED,
                    )
                )
            ),
            tag="dashboard", parameters=[_SINCE], refusals=(400, 503),
        )
    },
    "/api/decisions": {
        "get": operation(
            "A page of decisions, newest first, filtered",
            record(data=listed(_IN_SHORT), next=maybe(TEXT), reached=maybe(MOMENT)),
            tag="dashboard",
            parameters=[
                _FEW, _BEFORE, _SINCE, in_query("until", _MOMENT, "only what is older"),
                *(
                    in_query(name, _SHORT, f"only of this {name}")
                    for name in ("target", "policy", "key", "session")
                ),
                in_query("text", _SHORT, "only with these words in the text"),
                in_query("status", one_of("ok", "error", "cancelled", "pending"), "how it ended"),
                in_query("surface", one_of(*SURFACES), "in which format it was asked"),
            ],
            refusals=(400, 503),
        )
    },
    "/api/decisions/{id}": {
        "get": operation(
            "Everything about one decision", _DECISION, tag="dashboard", parameters=[_ID],
            refusals=(404, 503),
        )
    },
    "/api/decisions/{id}/replay": {
        "get": operation(
            "What a policy would have chosen, on what was known then",
            record(decision=TEXT, same=FLAG, **_CHOICE),
            tag="dashboard",
            parameters=[_ID, in_query("policy", TEXT, "a configured policy", required=True)],
            refusals=(400, 404, 503),
        )
    },
    "/api/choose": {
        "post": operation(
            "The decision that a chat request would get at this moment, with no trace of it",
            record(excluded=mapped(TEXT), stateful=FLAG, **_CHOICE),
            tag="dashboard",
            body=record(model=WORD, messages=listed(CHAT_MESSAGE, minItems=1)),
            refusals=(400, 402, 404, 408, 413, 429, 503),
        )
    },
    "/api/keys": {
        "get": operation(
            "Every virtual key with its limits and what it has spent; no secret",
            record(keys=listed(_KEY), required=FLAG, closed=maybe(TEXT)),
            tag="keys", refusals=(503,),
        ),
        "post": operation(
            "Make a key; the answer alone holds the secret", record(key=_KEY, secret=TEXT),
            tag="keys", body=closed(_LIMITS, name=WORD), status=201, refusals=_CHANGE,
        ),
    },
    "/api/keys/{id}": {
        "patch": operation(
            "Set some limits of a key; null removes one, the others stay", record(key=_KEY),
            tag="keys", parameters=[_KEY_ID], body={**closed(_LIMITS), "minProperties": 1},
            refusals=_CHANGE,
        )
    },
    "/api/keys/{id}/revoke": {
        "post": operation(
            "Refuse a key from now on, for good", record(key=_KEY), tag="keys",
            parameters=[_KEY_ID], body=closed({}), refusals=_CHANGE,
        )
    },
    "/api/calibration": {
        "get": operation(
            "Whether expected quality is still what feedback gives",
            record(seen=COUNT, alarms=listed(OBJECT), words=TEXT),
            tag="dashboard", refusals=(503,),
        )
    },
    "/api/frontier": {
        "get": operation(
            "Cost against quality", record(points=listed(record(label=TEXT, quality=NUMBER))),
            tag="dashboard", refusals=(503,),
        )
    },
    "/api/playground": {
        "get": operation(
            "Prompts on which the choice of target matters", record(prompts=listed(OBJECT)),
            tag="dashboard", refusals=(503,),
        )
    },
    "/api/series": {
        "get": operation(
            "Requests and spend over time",
            listed(record(time=MOMENT, requests=COUNT, errors=COUNT)),
            tag="dashboard",
            parameters=[
                _SINCE,
                in_query(
                    "bucket", {"type": "number", "minimum": 1, "maximum": 604800}, "its seconds"
                ),
            ],
            refusals=(400, 503),
        )
    },
    "/api/experiments": {
        "get": operation(
            "Versions of the policies, experiments and learners",
            record(
                present=OBJECT, versions=listed(record(id=TEXT, created=MOMENT, state=TEXT)),
                uses=listed(record(time=MOMENT, reason=TEXT)), gateways=listed(OBJECT),
                experiments=listed(_EXPERIMENT),
                learners=listed(record(name=TEXT, kind=TEXT, judged=COUNT)), closed=maybe(TEXT),
            ),
            tag="experiments", refusals=(503,),
        ),
        "post": operation(
            "Try a policy version: in the shadow, on a share of the units, or against the present",
            _EXPERIMENT, tag="experiments",
            body=closed(
                {
                    "share": maybe({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
                    "by": maybe(one_of("session", "key")),
                    "alpha": maybe(
                        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
                    ),
                    "cost_weight": maybe({"type": "number", "minimum": 0}),
                    "least": maybe({"type": "integer", "minimum": 2}),
                    "cost_limit": maybe({"type": "number", "minimum": 0}),
                },
                name={"type": "string", "minLength": 1, "maxLength": 100},
                kind=one_of("shadow", "canary", "ab"), version=WORD,
            ),
            status=201, refusals=_CHANGE,
        ),
    },
    "/api/experiments/{id}/stop": {
        "post": operation(
            "End an experiment, or have its candidate decide everything",
            _EXPERIMENT, tag="experiments",
            parameters=[in_path("id", "of the experiment")],
            body=closed({"promote": FLAG, "note": {"type": "string", "maxLength": 500}}),
            refusals=_CHANGE,
        )
    },
    "/api/rollback": {
        "post": operation(
            "End the canary or A/B that runs, else have the version decide that decided before",
            record(version=maybe(TEXT), ended=listed(TEXT)),
            tag="experiments",
            body=closed({"note": {"type": "string", "maxLength": 500}}),
            refusals=(400, 408, 413, 415, 503),
        )
    },
    "/api/alarms": {
        "get": operation(
            "The latest alarms, newest first, and how each monitor stands",
            record(
                object={"const": "list"}, open=COUNT, open_by_kind=mapped(COUNT),
                data=listed(_ALARM), monitors=listed(OBJECT),
            ),
            tag="alarms",
            parameters=[_FEW, in_query("open", one_of("true", "false"), "only those still open")],
            refusals=(400, 503),
        )
    },
    "/api/alarms/{id}/ack": {
        "post": operation(
            "Take note of an alarm", _ALARM, tag="alarms",
            parameters=[in_path("id", "of the alarm")],
            body=closed(
                {name: maybe({"type": "string", "maxLength": 1000}) for name in ("by", "note")}
            ),
            body_required=False, refusals=(400, 404, 408, 413, 415, 503),
        )
    },
}  # fmt: skip
