"""Service tiers: the same model served sooner or later than usual, at prices of its own.

A request asks for a tier (`service_tier`), and the answer tells by which it was served, which is
what providers bill. OpenAI sells `priority` above and `flex` below the list price, each with prices
of its own for every kind of token, so a tier of `wye.toml` has prices rather than a factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from wye.gateway.money.prices import Prices
from wye.gateway.money.usage import Usage

# Names under which providers serve at the list price, or at one below it.
_USUAL = ("default", "standard", "standard_only")
_CHEAPER = ("flex", "batch")
# It leaves the tier to the account, as a request does that names none.
_ANY = "auto"
_PRICE = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class TierTable(BaseModel):
    """`[targets.tiers.NAME]` of `wye.toml`: USD per million tokens.

    Attributes:
        price_cached_per_mtok, price_cache_write_per_mtok: as `price_in_per_mtok` where they are
            left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    price_in_per_mtok: _PRICE
    price_out_per_mtok: _PRICE
    price_cached_per_mtok: _PRICE | None = None
    price_cache_write_per_mtok: _PRICE | None = None

    def prices(self) -> Prices:
        """As the books have them."""
        return Prices(
            self.price_in_per_mtok,
            self.price_out_per_mtok,
            self.price_cached_per_mtok,
            self.price_cache_write_per_mtok,
        )


def _named(name: str) -> str:
    if name == _ANY or name in _USUAL:
        raise PydanticCustomError(
            "tier",
            "the tier {name} is the target's own price, or any; expected another name, for "
            "instance priority or flex",
            {"name": name},
        )
    return name


# By their names in requests and answers.
Tiers = dict[Annotated[str, Field(pattern=r"^[\w.-]{1,40}$"), AfterValidator(_named)], TierTable]


def tier_of(answer: Mapping[str, Any]) -> str | None:
    """By which tier an answer, or its usage object, says that it was served.

    >>> tier_of({"service_tier": "priority"}), tier_of({"service_tier": "auto"})
    ('priority', None)
    """
    told = answer.get("service_tier")
    return told if isinstance(told, str) and told != _ANY else None


def cost_of(
    usage: Usage, usual: Prices, tiers: Mapping[str, TierTable], asked: Any, told: str | None
) -> float:
    """USD of an answer.

    By the tier that it tells; one without a price of its own is at the list price. An answer that
    tells none is taken to be as it was asked for, or at the list price where that is dearer.
    """
    if told is not None:
        served = tiers.get(told)
        return (usual if served is None else served.prices()).price(usage)
    cost = usual.price(usage)
    if isinstance(asked, str) and asked in tiers:
        return max(cost, tiers[asked].prices().price(usage))
    return cost


def may_apply(
    usual: Prices, tiers: Mapping[str, TierTable], asked: Any
) -> tuple[Prices, ...] | None:
    """All prices by which a request may be billed; None where it asks for what has no price.

    A request that leaves the tier open may be served by any; one that asks for a tier may get the
    usual one all the same.
    """
    if asked is None or asked == _ANY:
        return (usual, *(tier.prices() for tier in tiers.values()))
    if isinstance(asked, str):
        if asked in tiers:
            return usual, tiers[asked].prices()
        if asked in _USUAL or asked in _CHEAPER:
            return (usual,)
    return None
