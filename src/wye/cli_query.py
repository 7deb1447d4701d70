"""Commands of the query scale beside train, eval and route: bench query, pool, join, leave,
prices, probe.

`wye.cli` adds them to its commands.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wye.cli_options import AsJson, DataFolder, EmbedderName, Exclude, Seed, read_data
from wye.errors import WyeError
from wye.files import check_file_target, check_folder_target
from wye.query.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

    from wye.query.learning.active import ChoosingRouter
    from wye.query.learning.embedded import EmbeddedRouter
    from wye.query.learning.joining import JoiningRouter

# docs/query.md and the help ask for 20 to 50 answers of a newcomer.
FEW_ANSWERS = 20

RouterFolder = Annotated[Path, typer.Argument(metavar="ROUTER", help="A saved router.")]


def register(app: typer.Typer, bench: typer.Typer, screen: Console, messages: Console) -> None:
    """Add the commands to `app` and `bench`; figures go to `screen`, progress to `messages`."""

    @bench.command("query")
    def bench_routers(
        data: DataFolder,
        routers: Annotated[
            str | None, typer.Option(help="Names, separated by commas; all when not given.")
        ] = None,
        folds: Annotated[int, typer.Option(min=2, help="Parts of the cross-validation.")] = 3,
        own_split: Annotated[
            bool, typer.Option("--own-split", help="Keep the data's train and test parts instead.")
        ] = False,
        seeds: Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, ...")] = 1,
        embedder: EmbedderName = "static",
        exclude_dataset: Exclude = None,
        out: Annotated[
            Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for query.html and so on")
        ] = Path("bench"),
        as_json: AsJson = False,
    ) -> None:
        """Train every router on the same queries and say which pays, on one page."""
        from rich.progress import Progress

        from wye.bench.query import bench_query
        from wye.bench.query_page import save

        check_folder_target(out)
        outcomes = read_data(data, exclude_dataset)
        named = None if routers is None else [r.strip() for r in routers.split(",") if r.strip()]
        if named == []:
            raise WyeError(f"--routers is {routers!r}, expected names; leave it out for all")
        with Progress(console=messages, transient=True) as bar:
            task = bar.add_task("getting ready", total=None)

            def told(done: int, total: int, said: str) -> None:
                bar.update(task, completed=done, total=total, description=said)

            result = bench_query(
                outcomes,
                named,
                embedder=embedder,
                folds=folds,
                own_split=own_split,
                seeds=range(seeds),
                progress=told,
            )
        for path in save(result, out):
            messages.print(f"wrote {path}", markup=False)
        _show(screen, result, as_json)

    @app.command()
    def pool(
        data: DataFolder,
        router: Annotated[str, typer.Option(help="Whose estimates route.")] = "auto",
        budget: Annotated[
            float | None, typer.Option(help="USD per query that routing may cost at most.")
        ] = None,
        budget_share: Annotated[
            float | None, typer.Option(help="The same as a share of the best single model's cost.")
        ] = None,
        max_models: Annotated[int | None, typer.Option(help="Largest pool to look for.")] = None,
        tolerance: Annotated[float, typer.Option(min=0, help="Quality a pool may lose.")] = 0.005,
        folds: Annotated[int, typer.Option(min=2, help="Parts of the cross-fit.")] = 3,
        embedder: EmbedderName = "static",
        seed: Seed = 0,
        exclude_dataset: Exclude = None,
        as_json: AsJson = False,
    ) -> None:
        """Say which models are worth having: what routing loses without each, and which suffice."""
        from wye.query.pool import value_pool

        with messages.status("reading") as status:
            report = value_pool(
                read_data(data, exclude_dataset),
                router=router,
                embedder=embedder,
                budget=budget,
                budget_share=budget_share,
                max_models=max_models,
                tolerance=tolerance,
                folds=folds,
                seed=seed,
                progress=status.update,
            )
        _show(screen, report, as_json)

    @app.command()
    def join(
        directory: RouterFolder,
        model: Annotated[
            str | None, typer.Argument(metavar="[MODEL]", help="Name of the newcomer.")
        ] = None,
        answers: Annotated[
            Path | None,
            typer.Option(
                metavar="FILE", help="Its answers: text and quality (0 to 1), .jsonl or .csv."
            ),
        ] = None,
        suggest: Annotated[
            int | None, typer.Option(metavar="N", help="Print N queries worth measuring instead.")
        ] = None,
        data: Annotated[
            str, typer.Option("--from", metavar="DATA", help="Where --suggest takes queries from.")
        ] = "embedded",
        cost_usd: Annotated[float | None, typer.Option(help="Mean cost of its answers.")] = None,
        price_in: Annotated[float | None, typer.Option(help="USD per million tokens in.")] = None,
        price_out: Annotated[float | None, typer.Option(help="USD per million tokens out.")] = None,
    ) -> None:
        """Let a model join a saved router from 20 to 50 measured answers."""
        from wye.query.persistence import changing

        if suggest is not None:
            if model is not None or answers is not None:
                raise WyeError("--suggest prints queries to measure; give it without MODEL, FILE")
            for row in _suggested(_joining(directory), data, suggest):
                print(json.dumps(row, ensure_ascii=False))  # noqa: T201
            return
        if model is None or answers is None:
            raise WyeError("give MODEL and --answers FILE, or --suggest N for queries to measure")
        texts, quality = read_answers(answers)
        with changing(directory):
            router = _joining(directory)
            router.add_model(
                model,
                texts,
                quality,
                cost_usd=cost_usd,
                price_in_per_mtok=price_in,
                price_out_per_mtok=price_out,
            )
            # A newcomer that cannot be estimated must not replace a router that works.
            router.estimate(texts[:1])
            router.save(directory)
        messages.print(f"{model} joined {directory} from {counted(texts, 'answer')}", markup=False)
        if len(texts) < FEW_ANSWERS:
            messages.print(
                f"fewer than {FEW_ANSWERS} answers say little: what is expected of {model} leans "
                "on the other models; --suggest N names queries worth measuring",
                markup=False,
            )

    @app.command()
    def leave(
        directory: RouterFolder,
        model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")],
    ) -> None:
        """Let a model leave a saved router at once."""
        from wye.query.persistence import changing

        with changing(directory):
            router = _embedded(directory)
            router.remove_model(model).save(directory)
        messages.print(
            f"{model} left {directory}; it has {', '.join(router.models_)}",
            markup=False,
        )

    @app.command()
    def prices(
        directory: RouterFolder,
        changes: Annotated[
            list[str],
            typer.Argument(metavar="MODEL=IN,OUT...", help="USD per million tokens in and out."),
        ],
    ) -> None:
        """Change what models cost in a saved router, without training it again."""
        from wye.query.persistence import changing

        pairs = [_price(change) for change in changes]
        named = [name for name, _ in pairs]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise WyeError(f"the prices of {', '.join(twice)} are given twice; keep one")
        with changing(directory):
            _embedded(directory).set_prices(dict(pairs)).save(directory)
        messages.print(
            f"changed the prices of {counted(pairs, 'model')} in {directory}", markup=False
        )

    @app.command()
    def probe(
        endpoint: Annotated[
            str, typer.Argument(metavar="ENDPOINT", help="Base URL, as in http://host:8080/v1.")
        ],
        model: Annotated[
            str | None, typer.Option(help="Its name there; the only one served when not given.")
        ] = None,
        repeats: Annotated[
            int, typer.Option(min=1, help="Instances of each of the 20 probes.")
        ] = 1,
        seed: Seed = 0,
        key_env: Annotated[
            str | None, typer.Option(metavar="NAME", help="Environment variable with the key.")
        ] = None,
        prior: Annotated[
            str, typer.Option(help="Of the table: uniform, or the published rates.")
        ] = "uniform",
        reasoning_tag: Annotated[
            str | None, typer.Option(metavar="TAG", help="Cut a block <TAG>...</TAG> it declares.")
        ] = None,
        save: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Keep the run, to compare later ones.")
        ] = None,
        against: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Has it changed since this run?")
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """Say which kinds of instruction a served model follows; exit 1 where it has changed."""
        from wye.query.chat_models import EndpointChatModel
        from wye.query.instruction_adherence import ProbeRun, check_alive, run_probes
        from wye.query.instruction_adherence.change import drift
        from wye.query.instruction_adherence.serving import only_model
        from wye.query.instruction_adherence.table import CapabilityTable, checked_prior
        from wye.query.instruction_adherence.view import as_screen, told

        told_prior = checked_prior(prior)
        if save is not None:
            check_file_target(save)
        before = None if against is None else ProbeRun.load(against)
        name = only_model(endpoint, key_env) if model is None else model
        chat = EndpointChatModel(endpoint, name, key_env, retries=2)
        with _progress(messages) as say:
            say(0, 20 * repeats, "is it alive?")
            check_alive(chat, reasoning_tag=reasoning_tag)
            run = run_probes(
                chat, name=name, repeats=repeats, seed=seed, reasoning_tag=reasoning_tag,
                progress=say,
            )  # fmt: skip
        if save is not None:
            messages.print(f"wrote {run.save(save)}", markup=False)
        table = CapabilityTable.of([run], prior=told_prior)
        drifts = [] if before is None else drift(before, run)
        if as_json:
            print(  # noqa: T201
                json.dumps(told(run, table, drifts), indent=2, ensure_ascii=False, allow_nan=False)
            )
        else:
            screen.print(as_screen(run, table, drifts))
        if drifts and not any(d.detectable for d in drifts):
            messages.print(
                "so few trials show no change, however large; keep and repeat runs with --repeats "
                "5 or more",
                style="yellow",
            )
        if any(d.flagged for d in drifts):
            raise typer.Exit(1)


@contextmanager
def _progress(messages: Console) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on `messages`, moved by (done, total, what is done)."""
    from rich.progress import Progress

    with Progress(console=messages, transient=True) as bar:
        task = bar.add_task("getting ready", total=None)

        def say(done: int, total: int, said: str) -> None:
            bar.update(task, completed=done, total=total, description=said)

        yield say


def read_answers(path: Path) -> tuple[list[str], list[float]]:
    """Texts and qualities of a newcomer's answers.

    Args:
        path: .jsonl or .csv with the columns `text` and `quality`.

    Raises:
        WyeError: another suffix, a file that cannot be read, or a row without a text or with a
            quality that is not 0 to 1.
    """
    if path.suffix not in (".jsonl", ".csv"):
        raise WyeError(f"{path}: expected .jsonl or .csv with the columns text and quality")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise WyeError(f"{path} cannot be read: {error}") from error
    texts, quality = [], []
    for place, row in _rows(path, content):
        text, value = (row.get(k) if isinstance(row, dict) else None for k in ("text", "quality"))
        if not isinstance(text, str) or not text.strip() or value is None:
            raise WyeError(f"{place}: expected a text and a quality, got {_short(row)}")
        try:
            figure = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            figure = math.nan
        if not 0.0 <= figure <= 1.0:
            raise WyeError(f"{place}: quality is {value!r}, expected a number from 0 to 1")
        texts.append(text)
        quality.append(figure)
    if not texts:
        raise WyeError(f"{path} holds no answers; give one a row, with a text and a quality")
    return texts, quality


def _rows(path: Path, content: str) -> Iterator[tuple[str, Any]]:
    """Each row with its place. Line breaks inside a quoted text belong to it."""
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
        try:
            for number, row in enumerate(reader, start=1):
                yield f"{path}, row {number}", row
        except csv.Error as error:
            raise WyeError(f"{path}, line {reader.line_num}: no CSV ({error})") from error
        return
    # Not splitlines: a JSON text may hold U+2028 and other separators as they are.
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            try:
                yield place, json.loads(line)
            except ValueError as error:
                raise WyeError(f"{place}: no JSON ({error})") from error


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _suggested(router: ChoosingRouter | Any, data: str, n: int) -> list[dict[str, str]]:
    from wye.query.learning.active import ChoosingRouter

    if not isinstance(router, ChoosingRouter):
        raise WyeError(f"the router {router.name} cannot choose queries; auto and others can")
    outcomes = read_data(data)
    if {"train"} & set(outcomes.queries["split"]):
        outcomes = outcomes.part("train")
    ids = outcomes.queries["query_id"].tolist()
    texts = outcomes.texts
    return [{"query_id": ids[i], "text": texts[i]} for i in router.suggest(texts, n)]


def _embedded(directory: Path) -> EmbeddedRouter:
    from wye.query import load
    from wye.query.learning.embedded import EmbeddedRouter

    router = load(directory)
    if not isinstance(router, EmbeddedRouter):
        raise WyeError(f"{directory} holds a router {router.name}, whose models and prices are set")
    return router


def _joining(directory: Path) -> JoiningRouter:
    from wye.query.learning.joining import JoiningRouter

    router = _embedded(directory)
    if not isinstance(router, JoiningRouter):
        raise WyeError(
            f"{directory} holds a router {router.name}, which no model can join without training; "
            "train auto or factorisation"
        )
    return router


def _price(change: str) -> tuple[str, tuple[float, float]]:
    name, _, pair = change.rpartition("=")
    try:
        price_in, price_out = (float(p) for p in pair.split(","))
    except ValueError as error:
        raise WyeError(
            f"{change!r} does not read MODEL=IN,OUT, as in large=2.5,10 (USD per million tokens)"
        ) from error
    return name, (price_in, price_out)


def _show(screen: Console, result: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))  # noqa: T201
    else:
        screen.print(result)
