"""`wye guard` and `wye alarms`: fit and try the gateway's guard; see and acknowledge alarms."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from wye.cli_options import AsJson, DataFolder, EmbedderName, Exclude, Seed, read_data
from wye.cli_store import ConfigFile, StorePlace, opened, settings_of
from wye.errors import WyeError

if TYPE_CHECKING:
    from rich.console import Console

_UNSAFE = "unsafe"

GuardFile = Annotated[Path, typer.Argument(help="A guard that `wye guard fit` wrote.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="File for the guard.")]
UnsafeFile = Annotated[
    Path | None,
    typer.Option("--unsafe", metavar="FILE", help="Requests that are unsafe, one a line."),
]
Classifier = Annotated[
    Literal["vectors", "words"],
    typer.Option(help="vectors: on the embedding; words: a wide network (extra torch)."),
]
Eps = Annotated[
    float, typer.Option(min=0.0, max=0.99, help="Share of good requests a rule may refuse.")
]


def register(app: typer.Typer, screen: Console, messages: Console) -> None:
    """Add `guard` and `alarms` to `app`; results go to `screen`, words to `messages`."""
    guard = typer.Typer(help="The guard before the gateway's choice.", no_args_is_help=True)
    app.add_typer(guard, name="guard")
    alarms = typer.Typer(help="What the gateway's watch has found.", no_args_is_help=True)
    app.add_typer(alarms, name="alarms")

    @guard.command("fit")
    def fit(
        data: DataFolder,
        out: Out = Path("guard.safetensors"),
        unsafe: UnsafeFile = None,
        classifier: Classifier = "vectors",
        embedder: EmbedderName = "static",
        eps: Eps = 0.05,
        seed: Seed = 0,
        exclude_dataset: Exclude = None,
        force: Annotated[bool, typer.Option(help="Replace a guard that exists.")] = False,
    ) -> None:
        """Learn from requests that are welcome; their datasets are the domains."""
        if out.exists() and not force:
            raise WyeError(f"{out} exists; give --force to replace it, or another --out")
        outcomes = read_data(data, exclude_dataset)
        texts, domains = list(outcomes.texts), [str(name) for name in outcomes.datasets]
        if unsafe is not None:
            lines = _lines(unsafe)
            texts += lines
            domains += [_UNSAFE] * len(lines)
        made = _guarded(classifier, embedder, eps, seed).fit(texts, domains)
        made.save(out)
        messages.print(
            f"learned {len(made.domains_)} domains of {len(texts)} requests; refuses "
            f"{made.rejection_rate_:.1%} of those held out. Saved to {out}",
            highlight=False,
        )
        messages.print(f'next: in wye.toml, [guard] path = "{out}"', markup=False, highlight=False)

    @guard.command("check")
    def check(
        file: GuardFile, text: Annotated[str, typer.Argument()], as_json: AsJson = False
    ) -> None:
        """What the guard makes of one request."""
        from wye.gateway.openai_api import parse_chat
        from wye.gateway.watch.guarding import RequestGuard
        from wye.gateway.watch.settings import GuardTable

        judged = RequestGuard(GuardTable(path=file, out_of_domain="note", unsafe="note"), (), None)
        request = {"model": "wye", "messages": [{"role": "user", "content": text}]}
        verdict = judged.judge(parse_chat(request))
        assert verdict is not None
        if as_json:
            told = {"verdict": verdict.kind, "domain": verdict.domain, "rules": verdict.rules}
            screen.print_json(json.dumps({**told, "scores": verdict.scores}))
            return
        screen.print(f"{verdict.kind}, most like {verdict.domain!r}", highlight=False)
        for rule, pair in verdict.scores.items():
            passed = "rejects" if rule in verdict.rules else "passes"
            screen.print(
                f"  {rule}: {pair['confidence']:.3f}, at least {pair['least']:.3f}: {passed}",
                highlight=False,
            )

    @alarms.command("list")
    def listed(
        every: Annotated[bool, typer.Option("--all", help="Acknowledged ones too.")] = False,
        limit: Annotated[int, typer.Option(min=1)] = 50,
        as_json: AsJson = False,
        config: ConfigFile = None,
        store: StorePlace = None,
    ) -> None:
        """The latest alarms, newest first."""
        from wye.gateway.watch import alarm_book

        with opened(settings_of(config, store), store) as engine:
            found = alarm_book.listed(engine, limit=limit, open_only=not every)
        if as_json:
            screen.print_json(json.dumps(found))
            return
        if not found:
            messages.print("no alarms" if every else "no open alarms")
        for alarm in found:
            screen.print(_in_words(alarm), highlight=False, markup=False, soft_wrap=True)

    @alarms.command("ack")
    def ack(
        alarm: Annotated[str, typer.Argument(metavar="ID", help="Of the alarm, or 'all'.")],
        by: Annotated[str | None, typer.Option(help="Who takes notice.")] = None,
        note: Annotated[str | None, typer.Option(help="What to remember about it.")] = None,
        config: ConfigFile = None,
        store: StorePlace = None,
    ) -> None:
        """Acknowledge an alarm."""
        from wye.gateway.watch import alarm_book

        with opened(settings_of(config, store), store) as engine:
            wanted = [alarm]
            if alarm == "all":
                wanted = [
                    str(row["id"])
                    for row in alarm_book.listed(engine, limit=10_000, open_only=True)
                ]
            for one in wanted:
                alarm_book.acknowledge(engine, one, by=by, note=note)
        messages.print(f"acknowledged {len(wanted)}", highlight=False)


def _guarded(classifier: str, embedder: str, eps: float, seed: int) -> Any:
    from wye.query.guarded_query_routing import GuardedRouter
    from wye.query.guards import AnyGuard, KnownTokenGuard, SigmoidGuard, VectorClassifier, WideMLP

    reader = (
        VectorClassifier(embedder=embedder, seed=seed)
        if classifier == "vectors"
        else WideMLP(seed=seed)
    )
    rules = AnyGuard(guards=(SigmoidGuard(eps=eps), KnownTokenGuard()))
    return GuardedRouter(reader, rules, seed=seed)


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WyeError(f"{file} cannot be read: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _in_words(alarm: dict[str, Any]) -> str:
    when = datetime.datetime.fromtimestamp(alarm["time"], datetime.UTC)
    about = f" {alarm['subject']}" if alarm["subject"] else ""
    seen = ""
    if alarm["acknowledged"] is not None:
        by = f" by {alarm['acknowledged_by']}" if alarm["acknowledged_by"] else ""
        seen = f" (acknowledged{by})"
    return (
        f"{alarm['id']}  {when:%Y-%m-%d %H:%M:%S} UTC  {alarm['kind']}{about}{seen}\n"
        f"  {alarm['message']}"
    )
