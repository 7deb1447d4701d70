"""What tokens cost: prices of a model, and a table of widely used models that ships with wye.

The table (`prices.toml`, beside this module) says of every entry of what date it is and
which page tells the price that holds; it is not a reading of that page. Prices change and contracts
differ, so whatever `wye.toml` says of a target comes first. A model that the
table does not name has no price: nothing is guessed from a similar name.
"""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from wye.gateway.money.usage import Usage

CONFIGURED = "wye.toml"


@dataclass(frozen=True)
class Prices:
    """USD per million tokens.

    Attributes:
        input, output: of fresh input and of output, reasoning included.
        cached_input: of input read from the provider's cache; as `input` where it is not known.
        cache_write, cache_write_1h: of input written to the cache, for minutes and for an hour;
            where they are not known, as `input` and as `cache_write`.
        origin: where the prices are from, in words.
    """

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None
    cache_write_1h: float | None = None
    origin: str = CONFIGURED

    def price(self, usage: Usage) -> float:
        """USD of what was used.

        >>> Prices(input=2.0, output=8.0, cached_input=0.5).price(Usage(1000, 100, 400))
        0.0022
        """
        write = _or(self.cache_write, self.input)
        long_write = usage.cache_write_1h
        fresh = max(0, usage.input - usage.cached_input - usage.cache_write)
        micro = (
            fresh * self.input
            + usage.cached_input * _or(self.cached_input, self.input)
            + (usage.cache_write - long_write) * write
            + long_write * _or(self.cache_write_1h, write)
            + usage.output * self.output
        )
        return micro / 1e6

    def most(self, input_tokens: int, output_tokens: int) -> float:
        """USD at most of so many tokens, whatever the cache does with them."""
        kinds = (self.input, self.cached_input, self.cache_write, self.cache_write_1h)
        dearest = max(price for price in kinds if price is not None)
        return (input_tokens * dearest + output_tokens * self.output) / 1e6


@dataclass(frozen=True)
class Listed:
    """One entry of the table.

    Attributes:
        prices: see `Prices`.
        max_output: most tokens of one answer, by the provider's documentation.
        hosts: where alone the prices hold; empty where one provider owns the model's name.
        source, date: the page that tells the prices that hold, and of what date these are.
    """

    prices: Prices
    max_output: int | None
    hosts: tuple[str, ...]
    source: str
    date: datetime.date


def listed(model: str, base_url: str | None) -> Listed | None:
    """The table's entry for a model at an endpoint; None where there is none.

    Open models are sold by many at different prices, so their entries hold at the named hosts only.
    """
    found = _table().get(model)
    if found is None or not found.hosts:
        return found
    return found if urlsplit(base_url or "").hostname in found.hosts else None


@cache
def _table() -> Mapping[str, Listed]:
    text = files("wye.gateway.money").joinpath("prices.toml").read_text(encoding="utf-8")
    entries: dict[str, Listed] = {}
    for provider in tomllib.loads(text)["provider"]:
        for row in provider["model"]:
            entry = _entry(provider, row)
            for name in row["names"]:
                if name in entries:
                    raise ValueError(f"prices.toml names {name!r} twice")
                entries[name] = entry
    return entries


def _entry(provider: Mapping[str, Any], row: Mapping[str, Any]) -> Listed:
    date = row.get("date", provider["date"])
    known = ("input", "output", "cached_input", "cache_write", "cache_write_1h")
    figures = {name: float(row[name]) for name in known if name in row}
    origin = f"wye's price table of {date.isoformat()} (hold it against {provider['source']})"
    return Listed(
        prices=Prices(**figures, origin=origin),
        max_output=row.get("max_output"),
        hosts=tuple(provider.get("hosts", ())),
        source=provider["source"],
        date=date,
    )


def _or(price: float | None, otherwise: float) -> float:
    return otherwise if price is None else price
