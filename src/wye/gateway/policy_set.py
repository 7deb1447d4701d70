"""What decides: a router and the policies that choose by its estimates, under one digest.

A set is built whole, tried, and never changed; what a request began with it ends with. Another set
takes its place for the requests that come later (`wye.gateway.learning.version_keeper`).
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import Any

import numpy as np

from wye.gateway.config import Config, ConfigError, Target
from wye.gateway.errors import ApiError
from wye.gateway.estimates import Expectations, Expected
from wye.gateway.learning.learner import LEARNERS, Learner, LearnerView, learner_of
from wye.gateway.openai_api import ChatRequest, parse_chat
from wye.query.base import QueryRouter, RouterError
from wye.query.persistence import plain_params
from wye.query.policy import Choice, Policy, PolicyError

# What says how a target is reached, not why it is chosen.
_NOT_OF_THE_CHOICE = {
    "api_key_env", "timeouts", "max_in_flight", "deployments", "balance", "hedge_after",
}  # fmt: skip
_TRIAL = "What is the capital of Peru?"
_HEX = 12
logger = logging.getLogger("wye.gateway")


class PolicySet:
    """A router and its policies, ready to decide.

    Args:
        config: targets, policies and the default one.
        router: a fitted router; None when there is none, then priors alone speak.
        generator: of policies that draw.
        spent: USD that each policy has spent before, by its name, so that a budget holds.
        earlier: the set whose place this one takes; a policy that stands unchanged in both is the
            same object, so that its account and what it learned go on.
        source: "wye.toml" or "store".

    Attributes:
        version: twelve hex digits over the router and the policies, by which the store knows them.
        digest: twelve hex digits over everything that a choice depends on but the request; prices
            and the other targets count too.
        foresight: twelve hex digits over what estimates depend on but the request; sets that have
            them in common expect the same.

    Raises:
        ConfigError: a policy's kind or parameters are wrong, or it could never choose.
    """

    def __init__(
        self,
        config: Config,
        router: QueryRouter | None,
        generator: np.random.Generator,
        *,
        spent: Mapping[str, float] | None = None,
        earlier: PolicySet | None = None,
        source: str = "wye.toml",
    ) -> None:
        self.targets: tuple[Target, ...] = config.targets
        self.router = router
        self.router_name = router.name if router is not None else "none"
        self.tables = {name: p.model_dump(mode="json") for name, p in config.policies.items()}
        self.policies = build_policies(config, spent or {}, earlier)
        self.default_policy = config.first_policy
        self._expectations = Expectations(router, config.targets)
        self.columns = self._expectations.columns
        self.source = source
        learned = _learned(router)
        described = [
            [t.model_dump(mode="json", exclude=_NOT_OF_THE_CHOICE) for t in config.targets],
            [asdict(t.prices) if t.prices is not None else None for t in config.targets],
        ]
        self.foresight = _hex(described, learned)
        self.version = _hex([self.tables, self.default_policy], learned)
        self.digest = _hex(
            [*described, self.tables, config.conversation.model_dump(mode="json")], learned
        )
        self._generator = generator
        self._warm_up()

    @property
    def learners(self) -> dict[str, Learner]:
        """The policies that learn from feedback, by name."""
        return {name: p for name, p in self.policies.items() if isinstance(p, Learner)}

    def rehearsal(self) -> PolicySet:
        """A copy whose choices leave no trace here: nothing is booked and nothing is drawn."""
        twin = copy.copy(self)
        # A learner keeps no account of its choices; it learns from feedback alone.
        twin.policies = {
            name: policy if isinstance(policy, Learner) else copy.deepcopy(policy)
            for name, policy in self.policies.items()
        }
        twin._generator = np.random.default_rng()
        return twin

    async def expect(self, chat: ChatRequest) -> Expected:
        """What is expected of every target on `chat`."""
        return await self._expectations.of(chat)

    def expect_now(self, chats: Sequence[ChatRequest]) -> list[Expected]:
        """The same of several requests together, here and now."""
        return self._expectations.now(chats)

    def policy(self, name: str, chat: ChatRequest) -> Policy:
        """The policy of that name for one request; a learner reads the request first."""
        policy = self.policies[name]
        return policy.on(chat.text) if isinstance(policy, Learner) else policy

    def choose(
        self, policy: Policy, expected: Expected, excluded: Mapping[str, str]
    ) -> tuple[Choice | None, dict[str, str]]:
        """What the policy chooses, and all that was excluded.

        A policy that needs a figure which is unknown of some target chooses among the others.

        Raises:
            ApiError: the policy cannot choose from what is known.
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

    def _warm_up(self) -> None:
        """Load what the first decision would otherwise wait for, and try every policy once.

        Raises:
            ConfigError: a policy could never choose, for instance since no price is known.
        """
        import_module("wye.core")
        if self._expectations.remote:
            return
        chat = parse_chat({"model": "wye", "messages": [{"role": "user", "content": _TRIAL}]})
        expected = self.expect_now([chat])[0]
        for name in self.policies:
            policy = self.policy(name, chat)
            # A policy that keeps account of its choices would book a trial as a request.
            if policy.stateful and not isinstance(policy, LearnerView):
                continue
            try:
                self.choose(policy, expected, {})
            except ApiError as error:
                raise ConfigError(
                    f"[policies.{name}]: {error.message}. Set price_in_per_mtok and "
                    "price_out_per_mtok of at least one target, or choose by quality alone: "
                    f'[policies.{name}] with kind = "quality"'
                ) from error


def build_policies(
    config: Config, spent: Mapping[str, float], earlier: PolicySet | None = None
) -> dict[str, Policy]:
    """The configured policies by name; a budget starts from what it has `spent` (USD) before.

    Raises:
        ConfigError: a kind is unknown or its parameters are wrong.
    """
    built: dict[str, Policy] = {}
    for name, table in config.policies.items():
        if earlier is not None and earlier.tables.get(name) == table.model_dump(mode="json"):
            built[name] = earlier.policies[name]
            continue
        try:
            params = dict(table.params)
            if table.kind in LEARNERS:
                built[name] = learner_of(table.kind, [t.name for t in config.targets], params)
                continue
            if table.kind == "budget" and name in spent:
                params.setdefault("spent", spent[name])
            built[name] = _policy({"kind": table.kind, **params})
        except (ValueError, TypeError, ArithmeticError) as error:
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


def _learned(router: QueryRouter | None) -> bytes:
    """A digest of a router: its name, its parameters and all that it learned."""
    digest = hashlib.sha256()
    if router is None:
        return digest.digest()
    try:
        params: Mapping[str, Any] = plain_params(router.name, router.get_params())
    except RouterError:
        params = router.get_params()
    arrays, values = router.get_state()
    told = [router.name, list(router.models_), params, values]
    digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.digest()


def _hex(parts: Sequence[Any], learned: bytes) -> str:
    told = json.dumps(parts, sort_keys=True, default=str).encode()
    return hashlib.sha256(told + learned).hexdigest()[:_HEX]
