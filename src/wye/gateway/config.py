"""The gateway's configuration as typed objects; `wye.gateway.config_file` reads them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from wye.errors import WyeError
from wye.gateway.addresses import unusable
from wye.gateway.answer_cache.settings import AnswerCacheTable
from wye.gateway.balancing import Balance, DeploymentTable
from wye.gateway.conversation.settings import ConversationTable, PromptCacheTable
from wye.gateway.environment import secret
from wye.gateway.learning.judge import JudgeTable
from wye.gateway.learning.outcome_checks import CheckTable
from wye.gateway.learning.settings import LearningTable
from wye.gateway.money.prices import CONFIGURED, Listed, Prices, listed
from wye.gateway.money.settings import MoneyTable
from wye.gateway.money.tiers import Tiers, cost_of
from wye.gateway.money.usage import Usage
from wye.gateway.retries import RetryTable
from wye.gateway.store_settings import StoreTable
from wye.gateway.telemetry.settings import LogsTable, MetricsTable, TelemetryTable
from wye.gateway.watch.settings import GuardTable, WatchTable

if TYPE_CHECKING:
    import numpy as np

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Tag = Literal["tools", "vision", "audio"]
SurfaceName = Literal["chat", "messages", "responses", "embeddings"]
_ANTHROPIC = "https://api.anthropic.com"
# What a kind speaks unless the target says so, and whether it can say so.
_SPEAKS: Mapping[str, tuple[tuple[SurfaceName, ...], bool]] = {
    "openai": (("chat",), True),
    "anthropic": (("messages",), False),
    "embedded": (("chat",), False),
    "provider": (("chat",), False),
}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ConfigError(WyeError):
    """`wye.toml` cannot be used; the message has one line for each thing to mend."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(_Table):
    """Where the gateway listens and what it accepts."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8484
    max_body_mb: Positive = 10.0
    access_key_env: str | None = None
    open_to_network: bool = False
    keys: bool = False
    max_in_flight: Annotated[int, Field(ge=1)] | None = None
    queue: Annotated[int, Field(ge=0)] = 0
    queue_seconds: Positive = 5.0
    drain_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 20.0
    header_seconds: Positive = 30.0
    body_seconds: Positive = 60.0
    send_seconds: Positive = 60.0
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    worker_seconds: Annotated[float, Field(ge=5, allow_inf_nan=False)] = 30.0

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the gateway."""
        return self.host in _LOOPBACK

    @property
    def access_key(self) -> str | None:
        """The key that clients must present; read from the environment, never stored."""
        return secret(self.access_key_env) or None

    @model_validator(mode="after")
    def _closed_unless_asked(self) -> Server:
        if self.access_key_env and not self.access_key:
            raise PydanticCustomError(
                "access_key",
                "`access_key_env` names the environment variable {name}, which is not set; set it "
                "to a long random string, or remove the line",
                {"name": self.access_key_env},
            )
        if not (self.loopback or self.access_key_env or self.open_to_network):
            raise PydanticCustomError(
                "exposed",
                "host {host} lets other machines use your keys; name the environment variable "
                'of a key they must present, access_key_env = "WYE_ACCESS_KEY", or write '
                "open_to_network = true if something in front of wye keeps strangers out",
                {"host": self.host},
            )
        return self


class Router(_Table):
    """Which trained router estimates quality and cost; `seed` is for policies that randomise.

    Each start mixes fresh entropy into the seed, so that a restart does not draw again what it drew
    before, which logged propensities could not tell; `repeat_draws` leaves the entropy out.
    """

    path: Path | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    repeat_draws: bool = False

    def generator(self) -> np.random.Generator:
        """A new generator of what policies draw."""
        import numpy as np

        fresh = 0 if self.repeat_draws else secrets.randbits(128)
        return np.random.default_rng([self.seed or 0, fresh])


class Policy(_Table):
    """One named policy; keys beside `kind` are its parameters."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str

    @property
    def params(self) -> dict[str, Any]:
        """The policy's own parameters."""
        return dict(self.__pydantic_extra__ or {})


class Timeouts(_Table):
    """Seconds to wait for an upstream.

    `first_byte` holds for streams, from sending the request to the first piece of the answer; most
    upstreams send the first byte of an answer that is not streamed when it is complete, so `total`
    holds there. `between` is the longest silence inside an answer that has begun: between pieces of
    a stream (a comment that only keeps the connection alive is none), and between bytes otherwise.
    """

    connect: Positive = 5.0
    first_byte: Positive = 60.0
    total: Positive = 300.0
    between: Positive = 60.0


class Target(_Table):
    """One target: where it is, what it costs, what it can take."""

    name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^\S+$")]
    kind: str = "openai"
    base_url: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    strategy: str | None = None
    speaks: tuple[SurfaceName, ...] = ()
    translate: bool = False
    provider: str | None = None
    price_in_per_mtok: Price | None = None
    price_out_per_mtok: Price | None = None
    price_cached_per_mtok: Price | None = None
    price_cache_write_per_mtok: Price | None = None
    tiers: Tiers = Field(default_factory=dict)
    max_output: Annotated[int, Field(gt=0)] | None = None
    context: Annotated[int, Field(gt=0)] | None = None
    tags: tuple[Tag, ...] = ()
    quality: Share | None = None
    description: str = ""
    stream_usage: bool = True
    timeouts: Timeouts = Timeouts()
    max_in_flight: Annotated[int, Field(ge=1)] | None = None
    deployments: tuple[DeploymentTable, ...] = ()
    balance: Balance = "weighted"
    hedge_after: Positive | None = None
    prompt_cache: PromptCacheTable = PromptCacheTable()
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _not_ours(cls, name: str) -> str:
        if name == "wye" or name.startswith("wye/"):
            raise PydanticCustomError(
                "reserved", "the names wye and wye/... ask for a routed answer; choose another name"
            )
        return name

    @model_validator(mode="after")
    def _reachable(self) -> Target:
        spoken, free = _SPEAKS.get(self.kind, (("chat",), True))
        if self.speaks and not free and set(self.speaks) != set(spoken):
            raise PydanticCustomError(
                "speaks",
                "a target of kind {kind} speaks {spoken} and nothing else; leave out `speaks`",
                {"kind": self.kind, "spoken": ", ".join(spoken)},
            )
        if self.translate and not {"chat", "messages"}.intersection(self.surfaces):
            raise PydanticCustomError(
                "translate",
                "translate needs a target that speaks chat or messages; this one speaks {spoken}",
                {"spoken": ", ".join(self.surfaces)},
            )
        if (self.kind == "provider") != (self.provider is not None):
            raise PydanticCustomError(
                "provider",
                'provider belongs to kind = "provider", which needs it: the name that any-llm has '
                'for it, for instance provider = "mistral"',
            )
        if self.kind not in ("openai", "anthropic"):
            return self
        if self.deployments and self.base_url:
            raise PydanticCustomError(
                "base_url",
                "base_url stands beside deployments; give each deployment its own and leave it out",
            )
        if self.deployments:
            return self
        if not self.address:
            raise PydanticCustomError(
                "base_url",
                'kind "openai" needs base_url, for instance base_url = "https://api.openai.com/v1"',
            )
        if (why := unusable(self.address)) is not None:
            raise PydanticCustomError(
                "base_url",
                "base_url is {given}; {why}",
                {"given": repr(self.base_url), "why": why},
            )
        return self

    @cached_property
    def surfaces(self) -> tuple[SurfaceName, ...]:
        """The wire formats that the target speaks."""
        return self.speaks or _SPEAKS.get(self.kind, (("chat",), True))[0]

    @property
    def translated(self) -> tuple[SurfaceName, ...]:
        """The wire formats that the target answers in without speaking them."""
        if not (self.translate or self.kind == "provider"):
            return ()
        pair: tuple[SurfaceName, ...] = ("chat", "messages")
        return tuple(name for name in pair if name not in self.surfaces)

    @property
    def address(self) -> str | None:
        """Where an endpoint's paths begin; Anthropic's may be given without its version."""
        if self.kind != "anthropic":
            return self.base_url
        url = (self.base_url or _ANTHROPIC).rstrip("/")
        return url if url.endswith("/v1") else f"{url}/v1"

    @property
    def served_by(self) -> tuple[Target, ...]:
        """The target once for each of its servers; itself where it has no deployments."""
        return tuple(
            self.model_copy(
                update={
                    "name": f"{self.name} #{number}",
                    "base_url": deployment.base_url,
                    "model": deployment.model or self.upstream_model,
                    "api_key_env": deployment.api_key_env or self.api_key_env,
                    "deployments": (),
                }
            )
            for number, deployment in enumerate(self.deployments, start=1)
        ) or (self,)

    @property
    def upstream_model(self) -> str:
        """The name under which the upstream knows the model."""
        return self.model or self.name

    @cached_property
    def listed(self) -> Listed | None:
        """The entry of the price table for this target's model, if any."""
        if self.kind not in ("openai", "anthropic"):
            return None
        return listed(self.upstream_model, self.address)

    @cached_property
    def prices(self) -> Prices | None:
        """As configured, else as the price table has them; None where input or output has none."""
        own: dict[str, float | None] = {
            "input": self.price_in_per_mtok,
            "output": self.price_out_per_mtok,
            "cached_input": self.price_cached_per_mtok,
            "cache_write": self.price_cache_write_per_mtok,
        }
        given: dict[str, Any] = {name: price for name, price in own.items() if price is not None}
        if {"input", "output"} <= given.keys():
            return Prices(**given)
        if self.listed is None:
            return None
        origin = self.listed.prices.origin
        if given:
            given["origin"] = f"{CONFIGURED} and {origin}"
        return replace(self.listed.prices, **given)

    def price(self, usage: Usage, asked: Any = None, told: str | None = None) -> float | None:
        """USD of what was used, None where no price is known; the tiers are of `cost_of`."""
        usual = self.prices
        return None if usual is None else cost_of(usage, usual, self.tiers, asked, told)


class BreakerTable(_Table):
    """When a failing target is left alone."""

    failures: Annotated[int, Field(ge=1)] = 3
    cooldown: Positive = 10.0


class Config(_Table):
    """All of `wye.toml`."""

    targets: Annotated[tuple[Target, ...], Field(min_length=1)]
    policies: dict[Annotated[str, Field(pattern=r"^[\w.-]+$")], Policy] = Field(
        default_factory=lambda: {
            "balanced": Policy.model_validate({"kind": "utility", "cost_weight": 50.0}),
            "quality": Policy(kind="quality"),
        }
    )
    default_policy: str | None = None
    baseline: str | None = None
    server: Server = Server()
    store: StoreTable = StoreTable()
    router: Router = Router()
    breaker: BreakerTable = BreakerTable()
    retries: RetryTable = RetryTable()
    money: MoneyTable = MoneyTable()
    learning: LearningTable = LearningTable()
    judge: JudgeTable | None = None
    checks: dict[Annotated[str, Field(pattern=r"^[\w.-]+$")], CheckTable] = Field(
        default_factory=dict
    )
    telemetry: TelemetryTable | None = None
    logs: LogsTable | None = None
    metrics: MetricsTable = MetricsTable()
    guard: GuardTable | None = None
    watch: WatchTable | None = None
    conversation: ConversationTable = ConversationTable()
    answer_cache: AnswerCacheTable | None = None

    @model_validator(mode="after")
    def _names_agree(self) -> Config:
        names = [t.name for t in self.targets]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise PydanticCustomError(
                "twice", "two targets are named {names}; give each its own", {"names": twice[0]}
            )
        if not self.policies:
            raise PydanticCustomError(
                "policies", 'no policy; write [policies.quality] with kind = "quality"'
            )
        for key, known in (("default_policy", list(self.policies)), ("baseline", names)):
            given = getattr(self, key)
            if given is not None and given not in known:
                raise PydanticCustomError(
                    key,
                    "{key} is {given}, which is not defined; defined are {known}",
                    {"key": key, "given": repr(given), "known": ", ".join(known)},
                )
        judge = next((t for t in self.targets if self.judge and t.name == self.judge.target), None)
        if self.judge is not None and (judge is None or "chat" not in judge.surfaces):
            raise PydanticCustomError(
                "judge",
                "target of [judge] is {given}; expected a target that speaks chat, one of {known}",
                {
                    "given": repr(self.judge.target),
                    "known": ", ".join(t.name for t in self.targets if "chat" in t.surfaces),
                },
            )
        limited = self.judge is not None and self.judge.usd_per_day is not None
        if limited and judge is not None and judge.prices is None:
            raise PydanticCustomError(
                "judge",
                "usd_per_day of [judge] cannot hold, since the price of {given} is not known; set "
                "its price_in_per_mtok and price_out_per_mtok, or leave usd_per_day out",
                {"given": repr(judge.name)},
            )
        return self

    @property
    def first_policy(self) -> str:
        """The policy that `model: "wye"` asks for."""
        return self.default_policy or next(iter(self.policies))

    @property
    def prompts_kept(self) -> bool:
        """Whether texts are stored: as configured, else only while nobody else can reach us.

        Learning from the log needs the texts. On loopback they are the user's own and stay on the
        user's own disk, so the default keeps them; on a network they are other people's.
        """
        if self.store.store_prompts is not None:
            return self.store.store_prompts
        return self.server.loopback
