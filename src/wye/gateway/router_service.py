"""From a request to a decision: estimate, policy, record.

Routes a chat request to one of the configured targets, before any answer exists, on what the person
asks (`wye.query.ask`) and the request's declared needs. When the chosen target fails, the same
estimate is put before the same policy again without it.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np

from wye.embed import EmbedError
from wye.gateway.config import Config, ConfigError, Target
from wye.gateway.errors import ApiError
from wye.gateway.estimates import Expected, expect, known_columns
from wye.gateway.money.usage import Usage
from wye.gateway.openai_api import ChatRequest, parse_chat
from wye.gateway.records import DecisionRecord, new_id
from wye.gateway.surfaces import surface_of
from wye.query.base import Candidate, QueryRouter, RouterError
from wye.query.learning.features import describe_text
from wye.query.policies.choosing import targets_of
from wye.query.policy import Choice, Policy, PolicyError, chances

DIRECT = "direct"
# What says how a target is reached, not why it is chosen.
_NOT_OF_THE_CHOICE = {
    "api_key_env", "timeouts", "max_in_flight", "deployments", "balance", "hedge_after",
}  # fmt: skip
_TRIAL = "What is the capital of Peru?"
logger = logging.getLogger("wye.gateway")


@dataclass(frozen=True)
class Routed:
    """A decision in progress.

    Attributes:
        record: what is stored of it.
        target: where the request goes; None when the policy found nothing to choose.
        expected: the estimate it rests on, for a second choice and for the baseline.
        policy: the policy that chose and must be settled with; None for a direct request.
    """

    record: DecisionRecord
    target: str | None
    expected: Expected
    policy: Policy | None


class RouterService:
    """Decides, for every request, which target answers.

    Args:
        config: targets, policies, baseline, seed.
        router: a fitted router; None when there is none, then priors alone speak.
        spent: USD that each policy has spent before this start, by its name, so that a budget
            holds across restarts.

    Raises:
        ConfigError: a policy's kind or parameters are wrong.
    """

    def __init__(
        self, config: Config, router: QueryRouter | None, spent: Mapping[str, float] | None = None
    ) -> None:
        self.targets: tuple[Target, ...] = config.targets
        self.by_name = {t.name: t for t in config.targets}
        self.router_name = router.name if router is not None else "none"
        self.policies = build_policies(config, spent or {})
        self._keep_text = config.prompts_kept
        self._router = router
        self._columns = known_columns(router, config.targets)
        self._remote = _embeds_remotely(router)
        self._generator = np.random.default_rng(config.router.seed)
        self._version = _digest(config, router)
        self._baseline = config.baseline
        self._quality_sum = np.zeros(len(config.targets))
        self._warm_up()

    def _warm_up(self) -> None:
        """Load what the first decision would otherwise wait for, and try every policy once.

        Raises:
            ConfigError: a policy could never choose, for instance since no price is known.
        """
        import_module("wye.core")
        if self._remote:
            return
        chat = parse_chat({"model": "wye", "messages": [{"role": "user", "content": _TRIAL}]})
        expected = expect(self._router, self.targets, self._columns, chat)
        for name, policy in self.policies.items():
            # A policy that keeps account of its choices would book a trial as a request.
            if policy.stateful:
                continue
            try:
                self._choose(policy, expected, {})
            except ApiError as error:
                raise ConfigError(
                    f"[policies.{name}]: {error.message}. Set price_in_per_mtok and "
                    "price_out_per_mtok of at least one target, or choose by quality alone: "
                    f'[policies.{name}] with kind = "quality"'
                ) from error

    @property
    def known(self) -> list[str]:
        """Targets of which the router has outcomes."""
        return list(self._columns)

    def rehearsal(self) -> RouterService:
        """A copy whose choices leave no trace here: nothing is booked and nothing is drawn."""
        twin = copy.copy(self)
        twin.policies = copy.deepcopy(self.policies)
        twin._generator = np.random.default_rng()
        twin._quality_sum = self._quality_sum.copy()
        return twin

    async def expect(self, chat: ChatRequest) -> Expected:
        """What is expected of every target on `chat`.

        A local router takes about a millisecond and is asked at once; one that embeds over the
        network is asked in a thread. When the router fails, priors speak and say so.
        """
        known = (self.targets, self._columns, chat)
        try:
            if self._remote:
                expected = await asyncio.to_thread(expect, self._router, *known)
            else:
                expected = expect(self._router, *known)
        except (RouterError, EmbedError) as error:
            logger.error("the router failed, priors decide: %s", error)
            expected = expect(None, self.targets, {}, chat)
        self._quality_sum += expected.estimate.quality[0]
        return expected

    def decide(
        self,
        chat: ChatRequest,
        expected: Expected,
        policy_name: str,
        excluded: Mapping[str, str],
    ) -> Routed:
        """Choose among the targets that are not `excluded` (each with its reason)."""
        started = time.perf_counter()
        policy = self.policies[policy_name]
        choice, excluded = self._choose(policy, expected, excluded)
        target = _target(choice, expected)
        reasons = choice.reasons[0] if choice is not None else ("every target is excluded",)
        record = self._record(
            chat,
            expected,
            policy_name=policy_name,
            policy=policy.describe(),
            target=target,
            propensity=float(choice.propensity[0]) if choice is not None and target else 1.0,
            scores=choice.score[0] if choice is not None else None,
            law=chances(choice, 0, int(targets_of(choice)[0])) if choice is not None else None,
            reasons=(*reasons, *_context(target, expected, excluded)),
            excluded=excluded,
            seconds=time.perf_counter() - started,
        )
        return Routed(record, target, expected, policy if target is not None else None)

    def direct(
        self, chat: ChatRequest, expected: Expected, target: str, refused: str | None = None
    ) -> Routed:
        """The decision of a client that named the target itself; `refused` says why it may not."""
        started = time.perf_counter()
        record = self._record(
            chat,
            expected,
            policy_name=DIRECT,
            policy=DIRECT,
            target=target if refused is None else None,
            propensity=1.0,
            scores=None,
            law=None,
            reasons=(
                f"the client asked for {target} by name",
                *((f"{target} was left out: {refused}",) if refused is not None else ()),
            ),
            excluded={target: refused} if refused is not None else {},
            seconds=time.perf_counter() - started,
        )
        return Routed(record, record.target, expected, None)

    def again(self, routed: Routed, excluded: Mapping[str, str]) -> str | None:
        """The same policy's next choice without the `excluded`; None when none is left."""
        if routed.policy is None:
            return None
        # The router's own cost was counted with the first choice.
        estimate = replace(routed.expected.estimate, router_cost=0.0)
        expected = replace(routed.expected, estimate=estimate)
        choice, _ = self._choose(routed.policy, expected, excluded)
        return _target(choice, expected)

    def settle(self, routed: Routed, cost: float) -> None:
        """Tell the policy what its last choice for this request really cost, in USD."""
        if routed.policy is not None:
            routed.policy.settle(cost)

    def baseline(self) -> str:
        """The target that 'all to the best model' means: configured, or of best mean estimate."""
        if self._baseline is not None:
            return self._baseline
        return self.targets[int(np.argmax(self._quality_sum))].name

    def baseline_cost(
        self, routed: Routed, served: str, cost: float | None, usage: Usage
    ) -> float | None:
        """USD that this request is expected to have cost at the baseline target.

        Its real cost where the baseline served it; the router's estimate where the router knows the
        baseline; else the tokens that were used, at the baseline's prices and without a cache,
        which only the target that served had filled.
        """
        baseline = self.baseline()
        if baseline == served:
            return cost
        if baseline in self._columns:
            column = routed.expected.estimate.models.index(baseline)
            value = float(routed.expected.estimate.cost[0, column])
            if math.isfinite(value):
                return value
        return self.by_name[baseline].price(Usage(usage.input, usage.output))

    def _choose(
        self, policy: Policy, expected: Expected, excluded: Mapping[str, str]
    ) -> tuple[Choice | None, dict[str, str]]:
        """What the policy chooses, and all that was excluded.

        A policy that needs a figure which is unknown of some target chooses among the others.
        """
        estimate, left_out, failed = expected.estimate, dict(excluded), ""
        for unknown in (None, "cost", "latency"):
            if unknown is not None:
                missing = ~np.isfinite(getattr(estimate, unknown)[0])
                left_out = {**_unknown(self.targets, missing, unknown), **left_out}
            allowed = np.array([t.name not in left_out for t in self.targets])
            if not allowed.any():
                break
            try:
                choice = policy.choose(
                    estimate, allowed=allowed[np.newaxis], generator=self._generator
                )
            except PolicyError as error:
                failed = str(error)
            else:
                return choice, left_out
        if failed:
            raise ApiError(
                500,
                f"the policy cannot choose: {failed}",
                type="server_error",
                code="policy_failed",
            )
        return None, left_out

    def _record(
        self,
        chat: ChatRequest,
        expected: Expected,
        *,
        policy_name: str,
        policy: str,
        target: str | None,
        propensity: float,
        scores: np.ndarray | None,
        law: np.ndarray | None,
        reasons: tuple[str, ...],
        excluded: Mapping[str, str],
        seconds: float,
    ) -> DecisionRecord:
        return DecisionRecord(
            id=new_id(),
            time=time.time(),
            requested=chat.model,
            policy_name=policy_name,
            policy=policy,
            router=self.router_name,
            policy_version=self._version,
            target=target,
            propensity=propensity,
            candidates=_candidates(expected, scores, law, excluded),
            excluded=dict(excluded),
            reasons=reasons,
            features=_features(chat, expected),
            text=chat.text if self._keep_text else None,
            stream=chat.stream,
            router_cost_usd=expected.estimate.router_cost,
            router_seconds=expected.seconds + seconds,
        )


def _embeds_remotely(router: QueryRouter | None) -> bool:
    """Whether an estimate calls an embeddings endpoint."""
    embedder = getattr(router, "embedder_", None) or getattr(router, "embedder", "")
    return str(getattr(embedder, "name", embedder)).startswith("endpoint:")


def build_policies(config: Config, spent: Mapping[str, float]) -> dict[str, Policy]:
    """The configured policies by name; a budget starts from what it has `spent` (USD) before.

    Raises:
        ConfigError: a kind is unknown or its parameters are wrong.
    """
    built = {}
    for name, table in config.policies.items():
        try:
            params = dict(table.params)
            if table.kind == "budget" and name in spent:
                params.setdefault("spent", spent[name])
            built[name] = _policy({"kind": table.kind, **params})
        except (ValueError, TypeError) as error:
            raise ConfigError(f"[policies.{name}]: {error}") from error
    return built


def _policy(table: Mapping[str, Any]) -> Policy:
    """A policy from its table; one that works around another has a table of it under `inner`."""
    from wye.query.policies import get_policy

    params = {name: value for name, value in table.items() if name != "kind"}
    if isinstance(params.get("inner"), Mapping):
        params["inner"] = _policy(params["inner"])
    return get_policy(str(table.get("kind")), **params)


def _unknown(targets: Sequence[Target], missing: np.ndarray, figure: str) -> dict[str, str]:
    """Why targets without a figure that the policy needs are left out."""
    remedy = {"cost": "set its prices in wye.toml", "latency": "train a router on measured answers"}
    return {
        target.name: f"the policy needs its {figure}, which is unknown; {remedy[figure]}"
        for target, lacks in zip(targets, missing, strict=True)
        if lacks
    }


def _target(choice: Choice | None, expected: Expected) -> str | None:
    if choice is None or len(choice.plan.target) == 0:
        return None
    return expected.estimate.models[int(choice.plan.target[0])]


def _candidates(
    expected: Expected,
    scores: np.ndarray | None,
    law: np.ndarray | None,
    excluded: Mapping[str, str],
) -> tuple[dict[str, Any], ...]:
    """Every target with its figures, best score first, those without a score last."""
    estimate = expected.estimate
    rows = [
        Candidate(
            target=name,
            quality=float(estimate.quality[0, i]),
            quality_std=float(estimate.quality_std[0, i]),
            cost_usd=_finite(estimate.cost[0, i]),
            latency_s=_finite(estimate.latency[0, i]),
            score=float(scores[i]) if scores is not None else -math.inf,
            allowed=name not in excluded,
            probability=float(law[i]) if law is not None else None,
        )
        for i, name in enumerate(estimate.models)
    ]
    rows.sort(key=lambda c: (-c.score, -c.quality))
    return tuple(
        {**asdict(row), "score": _finite(row.score), "note": expected.notes.get(row.target)}
        for row in rows
    )


def _context(
    target: str | None, expected: Expected, excluded: Mapping[str, str]
) -> tuple[str, ...]:
    """What a policy cannot know: where the chosen target's figures are from, who was left out."""
    note = expected.notes.get(target or "")
    left_out = (f"{name} was left out: {reason}" for name, reason in excluded.items())
    return (*([note] if note else ()), *left_out)


def _features(chat: ChatRequest, expected: Expected) -> dict[str, Any]:
    return {
        **describe_text(chat.text),
        "novelty": _finite(expected.estimate.novelty[0]),
        "messages": chat.turns,
        "surface": surface_of(chat.body).name,
        "input_tokens_estimate": chat.input_tokens_estimate,
        "needs": sorted(chat.needs),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _digest(config: Config, router: QueryRouter | None) -> str:
    """Twelve hex digits over everything that a choice depends on but the request."""
    parts: Sequence[Any] = (
        [t.model_dump(mode="json", exclude=_NOT_OF_THE_CHOICE) for t in config.targets],
        [asdict(t.prices) if t.prices is not None else None for t in config.targets],
        {name: p.model_dump(mode="json") for name, p in config.policies.items()},
        router.get_params() if router is not None else None,
    )
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    if router is not None:
        arrays, values = router.get_state()
        digest.update(json.dumps(values, sort_keys=True, default=str).encode())
        for name in sorted(arrays):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()[:12]
