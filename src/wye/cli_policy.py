"""`wye policy`, `wye experiment` and `wye rollback`: what decides, tried and changed while serving.

Everything is written to the store; running gateways follow within a second (`[learning]`).
"""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wye.cli_options import AsJson
from wye.cli_store import ConfigFile, StorePlace, opened, settings_of
from wye.errors import WyeError

if TYPE_CHECKING:
    from rich.console import Console

VersionId = Annotated[str, typer.Argument(help="The version's id, or its beginning.")]
Name = Annotated[str, typer.Argument(help="The experiment's name.")]
Note = Annotated[str, typer.Option("--note", help="Why, for those who read it later.")]
_CONFIG = "config"


def register(app: typer.Typer, screen: Console, messages: Console) -> None:
    """Add the commands to `app`; tables go to `screen`, words to `messages`."""

    def say(text: str) -> None:
        messages.print(text, markup=False, highlight=False, soft_wrap=True)

    policy = typer.Typer(
        help="Versions of policies: add, use, go back, while gateways serve.", no_args_is_help=True
    )
    app.add_typer(policy, name="policy")

    @policy.command("list")
    def list_versions(
        config: ConfigFile = None, store: StorePlace = None, as_json: AsJson = False
    ) -> None:
        """List every version, which one decides, and by what each running gateway does."""
        from wye.gateway.learning.learning_report import versions_report

        with opened(settings_of(config, store), store) as engine:
            told = versions_report(engine)
        if as_json:
            print(json.dumps(told, ensure_ascii=False))  # noqa: T201
            return
        _print_versions(screen, told)

    @policy.command("add")
    def add(
        router: Annotated[
            Path | None,
            typer.Argument(
                metavar="[ROUTER]", help="A saved router; the configured one by default."
            ),
        ] = None,
        note: Note = "",
        no_router: Annotated[
            bool, typer.Option("--no-router", help="Let priors alone estimate.")
        ] = False,
        config: ConfigFile = None,
    ) -> None:
        """Keep the policies of wye.toml with a router as a version; nothing uses it yet."""
        from wye.gateway.learning.versions import VersionBook
        from wye.gateway.policy_set import PolicySet
        from wye.query import load

        settings = settings_of(config, None)
        if settings is None:
            raise WyeError("there is no wye.toml here; give --config")
        if router is not None and no_router:
            raise WyeError("give ROUTER or --no-router, not both")
        path = None if no_router else router or settings.router.path
        found = PolicySet(
            settings, None if path is None else load(path), settings.router.generator()
        )
        with opened(settings, None) as engine:
            if not VersionBook(engine).record(found, note=note, origin="added"):
                say(f"{found.version} is in the store already")
        print(found.version)  # noqa: T201
        say(f"next: wye policy use {found.version}, or try it: wye experiment start NAME canary")

    @policy.command("show")
    def show(
        version: VersionId,
        config: ConfigFile = None,
        store: StorePlace = None,
    ) -> None:
        """Show a version's policies, as JSON."""
        from wye.gateway.learning.versions import VersionBook

        with opened(settings_of(config, store), store) as engine:
            found = VersionBook(engine).get(version)
        print(json.dumps(asdict(found), ensure_ascii=False, indent=2))  # noqa: T201

    @policy.command("use")
    def use(
        version: Annotated[
            str, typer.Argument(help="A version's id, or 'config' for what wye.toml says.")
        ],
        note: Note = "",
        config: ConfigFile = None,
        store: StorePlace = None,
    ) -> None:
        """Have a version decide at every gateway of the store."""
        from wye.gateway.learning.versions import VersionBook

        with opened(settings_of(config, store), store) as engine:
            book = VersionBook(engine)
            chosen = None if version == _CONFIG else book.get(version).id
            book.use(chosen, note)
        say(f"{chosen or 'what wye.toml says'} decides from here on; back: wye rollback")

    @policy.command("rollback")
    def policy_rollback(
        note: Note = "", config: ConfigFile = None, store: StorePlace = None
    ) -> None:
        """Have the version decide that decided before the present one."""
        from wye.gateway.learning.versions import VersionBook

        with opened(settings_of(config, store), store) as engine:
            back = VersionBook(engine).rollback(note)
        say(f"{back or 'what wye.toml says'} decides again")

    @app.command("rollback")
    def rollback(note: Note = "", config: ConfigFile = None, store: StorePlace = None) -> None:
        """Undo the last change: end a canary or A/B that runs, else take the version before."""
        from wye.gateway.learning.conduct import roll_back

        with opened(settings_of(config, store), store) as engine:
            undone = roll_back(engine, note)
        for one in undone.ended:
            say(f"ended the experiment {one.name!r}; {one.control or 'wye.toml'} decides all")
        if not undone.ended:
            say(f"{undone.decides} decides again")

    _register_experiments(app, screen, say)


def _register_experiments(app: typer.Typer, screen: Console, say: Any) -> None:
    experiment = typer.Typer(
        help="Try a version in the shadow, on a share of the traffic, or against the present one.",
        no_args_is_help=True,
    )
    app.add_typer(experiment, name="experiment")

    @experiment.command("start")
    def start(
        name: Name,
        kind: Annotated[str, typer.Argument(help="shadow, canary or ab.")],
        version: VersionId,
        share: Annotated[
            float | None, typer.Option(help="Of the units; 1, 0.05 and 0.5 by kind.")
        ] = None,
        by: Annotated[str, typer.Option(help="What stays in one arm: session or key.")] = "session",
        alpha: Annotated[float, typer.Option(help="Accepted chance of a wrong verdict.")] = 0.05,
        cost_weight: Annotated[
            float, typer.Option(help="Reward = quality - this x cost in USD.")
        ] = 0.0,
        least: Annotated[int, typer.Option(help="Units of each arm before any verdict.")] = 30,
        cost_limit: Annotated[
            float | None, typer.Option(help="Share by which it may cost more; any by default.")
        ] = None,
        config: ConfigFile = None,
        store: StorePlace = None,
    ) -> None:
        """Begin an experiment at every gateway of the store."""
        from wye.gateway.learning.conduct import start_experiment
        from wye.gateway.learning.experiments import Plan

        plan = Plan(by, alpha, cost_weight, least, cost_limit)  # type: ignore[arg-type]
        with opened(settings_of(config, store), store) as engine:
            begun = start_experiment(engine, name, kind, version, share=share, plan=plan)
        say(
            f"{begun.kind} {begun.name!r}: {begun.version} on {begun.share:.0%} of the units "
            f"against {begun.control or 'wye.toml'}; see: wye experiment status"
        )

    @experiment.command("status")
    def status(
        config: ConfigFile = None, store: StorePlace = None, as_json: AsJson = False
    ) -> None:
        """Show every experiment, and what is known of those that run."""
        from wye.gateway.learning.learning_report import experiments_report

        with opened(settings_of(config, store), store) as engine:
            told = experiments_report(engine)
        if as_json:
            print(json.dumps(told, ensure_ascii=False))  # noqa: T201
            return
        for one in told:
            head = f"{one['name']}  {one['kind']}  {one['version']}  {one['state']}"
            screen.print(f"{head}\n  {one['words']}", markup=False, highlight=False)
        if not told:
            say("no experiment yet; begin one: wye experiment start NAME shadow|canary|ab VERSION")

    @experiment.command("stop")
    def stop(
        name: Name,
        promote: Annotated[
            bool, typer.Option("--promote", help="Have the candidate decide everything.")
        ] = False,
        note: Note = "",
        config: ConfigFile = None,
        store: StorePlace = None,
    ) -> None:
        """End an experiment; the present version decides everything, or the candidate does."""
        from wye.gateway.learning.conduct import stop_experiment
        from wye.gateway.learning.experiments import ExperimentBook

        with opened(settings_of(config, store), store) as engine:
            found = ExperimentBook(engine).get(name)
            stop_experiment(engine, found, promote=promote, reason=note)
        say(f"ended {name!r}; {found.version if promote else found.control or 'wye.toml'} decides")


def _print_versions(screen: Console, told: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("version", "state", "created", "router", "policies", "note", box=None)
    for one in told["versions"]:
        created = datetime.datetime.fromtimestamp(one["created"], datetime.UTC)
        cells = (
            one["id"],
            one["state"],
            f"{created:%Y-%m-%d %H:%M}",
            one["router"] or "none",
            ", ".join(one["policies"]),
            one["note"] or one["origin"],
        )
        table.add_row(*(escape(cell) for cell in cells))
    screen.print(table)
    for one in told["gateways"]:
        problem = f"; {one['error']}" if one["error"] else ""
        screen.print(
            f"gateway {one['gateway'][:13]} decides by {one['version']}{problem}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
