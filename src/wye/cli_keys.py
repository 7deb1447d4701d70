"""`wye keys`: virtual keys of a gateway, made, listed, changed and revoked in its store.

A running gateway sees a change within a second (`key_seconds` of `[money]`).
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wye.cli_options import AsJson
from wye.cli_store import ConfigFile, StorePlace, opened, settings_of
from wye.errors import WyeError

if TYPE_CHECKING:
    from rich.console import Console

    from wye.gateway.config import Config
    from wye.gateway.money.keys import Key, KeyBook

_NONE = "none"
_SPANS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

Name = Annotated[str, typer.Argument(help="The key's name.")]
Usd = Annotated[str | None, typer.Option(metavar="USD", help="'none' takes the limit away.")]
Count = Annotated[str | None, typer.Option(metavar="COUNT", help="'none' takes the limit away.")]
Targets = Annotated[
    str | None, typer.Option(metavar="A,B", help="Targets the key may use; 'none' for all.")
]
PolicyName = Annotated[
    str | None, typer.Option("--policy", help="What the model 'wye' means for this key.")
]
Expires = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help="A day or moment (UTC), or in how long: 12h, 30d, 8w."),
]


def register(app: typer.Typer, screen: Console, messages: Console) -> None:
    """Add `keys` to `app`; keys and tables go to `screen`, words to `messages`."""
    keys = typer.Typer(help="Virtual keys: budgets, rate limits, targets.", no_args_is_help=True)
    app.add_typer(keys, name="keys")

    @keys.command("add")
    def add(
        name: Name,
        budget_day: Usd = None,
        budget_month: Usd = None,
        budget_total: Usd = None,
        per_request: Usd = None,
        per_session: Usd = None,
        requests_per_minute: Count = None,
        tokens_per_minute: Count = None,
        targets: Targets = None,
        policy: PolicyName = None,
        expires: Expires = None,
        config: ConfigFile = None,
        store: StorePlace = None,
    ) -> None:
        """Make a key and print it, once."""
        from wye.gateway.money.keys import Limits

        limits = _limits(locals())
        settings = settings_of(config, store)
        _check_names(limits, settings)
        with _book(settings, store, create=True) as book:
            key, secret = book.add(name, Limits(**limits))
        # Plain, so that a script can take it.
        print(secret)  # noqa: T201
        messages.print(
            f"this is the key of {key.name!r}; it is shown this once, the store keeps a digest. "
            f"It is listed as {key.prefix}...",
            markup=False,
            soft_wrap=True,
        )

    @keys.command("set")
    def change(
        name: Name,
        budget_day: Usd = None,
        budget_month: Usd = None,
        budget_total: Usd = None,
        per_request: Usd = None,
        per_session: Usd = None,
        requests_per_minute: Count = None,
        tokens_per_minute: Count = None,
        targets: Targets = None,
        policy: PolicyName = None,
        expires: Expires = None,
        config: ConfigFile = None,
        store: StorePlace = None,
    ) -> None:
        """Change some limits of a key; the others stay."""
        limits = _limits(locals())
        if not limits:
            raise WyeError("nothing to set: give at least one limit, for instance --budget-day 5")
        settings = settings_of(config, store)
        _check_names(limits, settings)
        with _book(settings, store) as book:
            key = book.change(name, limits)
        messages.print(f"changed {key.name!r}: {_in_words(key)}", markup=False, soft_wrap=True)

    @keys.command("list")
    def list_keys(
        config: ConfigFile = None, store: StorePlace = None, as_json: AsJson = False
    ) -> None:
        """List every key with its limits, revoked ones too."""
        from rich.table import Table

        from wye.gateway.money.key_view import as_dict, state_of

        with _book(settings_of(config, store), store) as book:
            found = book.list()
        if as_json:
            print(json.dumps([as_dict(key) for key in found], ensure_ascii=False))  # noqa: T201
            return
        table = Table("name", "key", "state", "limits", box=None)
        for key in found:
            cells = (key.name, f"{key.prefix}...", state_of(key), _in_words(key))
            table.add_row(*(_plain(cell) for cell in cells))
        screen.print(table)

    @keys.command("show")
    def show(
        name: Name, config: ConfigFile = None, store: StorePlace = None, as_json: AsJson = False
    ) -> None:
        """Show a key's limits, and what it has spent and holds reserved."""
        from wye.gateway.money.key_view import as_dict, spent_of, state_of

        with _book(settings_of(config, store), store) as book:
            key = book.get(name)
            balance = book.balance(key)
        if as_json:
            told = {**as_dict(key), "spent": spent_of(balance)}
            print(json.dumps(told, ensure_ascii=False))  # noqa: T201
            return
        lines = [
            f"{key.name}  {key.prefix}...  {state_of(key)}",
            f"limits: {_in_words(key)}",
            *(
                f"{window}: ${sums['spent_usd']:.6f} spent, ${sums['reserved_usd']:.6f} reserved"
                for window, sums in spent_of(balance).items()
            ),
        ]
        screen.print("\n".join(lines), markup=False, highlight=False)

    @keys.command("revoke")
    def revoke(name: Name, config: ConfigFile = None, store: StorePlace = None) -> None:
        """Refuse a key from now on, for good."""
        with _book(settings_of(config, store), store) as book:
            key = book.revoke(name)
        messages.print(f"revoked {key.name!r} ({key.prefix}...)", markup=False)


@contextmanager
def _book(settings: Config | None, store: str | None, *, create: bool = False) -> Iterator[KeyBook]:
    from wye.gateway.money.keys import KeyBook

    with opened(settings, store, create=create) as engine:
        yield KeyBook(engine)


def _check_names(limits: dict[str, Any], settings: Config | None) -> None:
    """Targets and policy must be configured, where the configuration is known."""
    from wye.gateway.money.key_view import check_names

    if settings is not None:
        check_names(limits, [t.name for t in settings.targets], settings.policies)


def _limits(given: dict[str, Any]) -> dict[str, Any]:
    """The limits among the options that were given, as values; None for 'none'."""
    from wye.gateway.money.keys import LIMITS

    found = {name: given[name] for name in LIMITS if given[name] is not None}
    return {name: _value(name, text) for name, text in found.items()}


def _value(name: str, text: str) -> Any:
    option = f"--{name.replace('_', '-')}"
    if text.strip().lower() == _NONE:
        return None
    if name == "targets":
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if name == "policy":
        return text
    if name == "expires":
        return _moment(text)
    whole = name.endswith("_per_minute")
    try:
        return int(text) if whole else float(text)
    except ValueError:
        expected = "a whole number" if whole else "USD, as in 2.50"
        raise WyeError(f"{option} is {text!r}; expected {expected}, or 'none'") from None


def _moment(text: str) -> float:
    """Seconds since 1970 of a day or moment, UTC where it names no zone, or of a span from now."""
    now = datetime.datetime.now(datetime.UTC)
    if span := re.fullmatch(r"(\d{1,6})([mhdw])", text.strip()):
        return now.timestamp() + int(span[1]) * _SPANS[span[2]]
    try:
        moment = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        raise WyeError(
            f"--expires is {text!r}; expected 2027-01-31, 2027-01-31T18:00, or a span: 12h, 30d, 8w"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    if moment <= now:
        raise WyeError(f"--expires is {text!r}, which is past; to refuse a key, revoke it")
    return moment.timestamp()


def _in_words(key: Key) -> str:
    limits = key.limits
    words = [
        f"${value:g} {what}"
        for value, what in (
            (limits.budget_day, "a day"),
            (limits.budget_month, "a month"),
            (limits.budget_total, "in total"),
            (limits.per_request, "a request"),
            (limits.per_session, "a session"),
        )
        if value is not None
    ]
    if limits.requests_per_minute is not None:
        words.append(f"{limits.requests_per_minute} requests a minute")
    if limits.tokens_per_minute is not None:
        words.append(f"{limits.tokens_per_minute} tokens a minute")
    if limits.targets is not None:
        words.append(f"targets {', '.join(limits.targets)}")
    if limits.policy is not None:
        words.append(f"policy {limits.policy}")
    if limits.expires is not None and math.isfinite(limits.expires):
        until = datetime.datetime.fromtimestamp(limits.expires, datetime.UTC)
        words.append(f"until {until:%Y-%m-%d %H:%M} UTC")
    return "; ".join(words) or "none"


def _plain(text: str) -> str:
    """Text that Rich takes as it is."""
    from rich.markup import escape

    return escape(text)
