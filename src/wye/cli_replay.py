"""The command `wye replay`: what another policy would have cost and reached on logged traffic.

`wye.cli` adds it to its commands.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wye.cli_options import AsJson, EmbedderName, Seed
from wye.cli_store import named_settings
from wye.errors import WyeError

if TYPE_CHECKING:
    from rich.console import Console

    from wye.gateway.config import Config
    from wye.query.policy import Policy


def register(app: typer.Typer, screen: Console) -> None:
    """Add the command to `app`; figures go to `screen`."""

    @app.command()
    def replay(
        log: Annotated[
            str,
            typer.Argument(
                metavar="LOG",
                help="A gateway's store (file or url), or decisions as JSON lines (file, folder).",
            ),
        ],
        policy: Annotated[
            str | None,
            typer.Option(
                help="As in utility:cost_weight=50, or with --config the name of a policy there."
            ),
        ] = None,
        config: Annotated[
            Path | None, typer.Option(help="A wye.toml that names the policy.")
        ] = None,
        router: Annotated[
            Path | None, typer.Option(help="A saved router, to decide by its estimates instead.")
        ] = None,
        direct: Annotated[
            str,
            typer.Option(
                help="Direct method of the doubly robust estimate: logged, none, or a router's "
                "name, which is fitted on the log, fold by fold."
            ),
        ] = "logged",
        level: Annotated[float, typer.Option(help="Nominal coverage of the intervals.")] = 0.95,
        max_weight: Annotated[
            float | None, typer.Option(help="Cap on weights: less scatter, some bias.")
        ] = None,
        max_unsupported: Annotated[
            float | None,
            typer.Option(help="Tolerated share of choices that the log never tried; 0.01 if not."),
        ] = None,
        embedder: EmbedderName = "static",
        seed: Seed = 0,
        as_json: AsJson = False,
    ) -> None:
        """Say what another policy would have cost and reached on logged traffic, with intervals."""
        from wye.gateway.estimates import known_columns
        from wye.gateway.logged_traffic import read_traffic
        from wye.gateway.replay import replay as run
        from wye.query import load

        if policy is None and router is None and config is None:
            raise WyeError(
                "give --policy, as in --policy utility:cost_weight=50, or --router DIR, or both"
            )
        settings = named_settings(config)
        rule = _rule(policy, settings)
        fitted = None if router is None else load(router)
        columns = None
        if fitted is not None and settings is not None:
            columns = known_columns(fitted, settings.targets)
        found = run(
            read_traffic(log),
            rule,
            router=fitted,
            columns=columns,
            direct=direct,
            embedder=embedder,
            level=level,
            max_weight=max_weight,
            most_unsupported=max_unsupported,
            seed=seed,
        )
        if as_json:
            print(json.dumps(found.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))  # noqa: T201
        else:
            screen.print(found)


def _rule(policy: str | None, settings: Config | None) -> Policy:
    """The policy of that name in `settings`, or the one that the spec describes."""
    from wye.gateway.policy_set import build_policies
    from wye.query.policies import parse_policy

    if settings is None:
        return parse_policy(policy or "quality")
    name = policy or settings.first_policy
    if name in settings.policies:
        return build_policies(settings, {})[name]
    if ":" in name:
        return parse_policy(name)
    known = ", ".join(settings.policies)
    raise WyeError(f"the configuration has no policy {name!r}; it has {known}")
