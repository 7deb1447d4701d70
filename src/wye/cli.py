"""The command line: up, serve, init, fetch, train, eval, route, data, systems, check, bench.

The commands pool, join, leave, prices, probe and bench query are in `wye.cli_query`, replay is in
`wye.cli_replay`, keys is in `wye.cli_keys`, and policy, experiment and rollback are in
`wye.cli_policy`.

Figures and tables go to standard output, progress and errors to standard error, so that `--json`
can be piped. Exit codes: 0 done; 1 a check does not hold, or a probed model has changed; 2 bad
input, with a message that says what to do; 3 a check could not be run.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from wye.cli_keys import register as register_keys
from wye.cli_options import AsJson, DataFolder, EmbedderName, Exclude, Seed, read_data
from wye.cli_policy import register as register_policy
from wye.cli_query import register
from wye.cli_replay import register as register_replay
from wye.cli_watch import register as register_watch
from wye.errors import WyeError
from wye.files import cannot, check_file_target, check_folder_target, write_whole
from wye.query.wording import counted

if TYPE_CHECKING:
    from wye.data import RoutingData

app = typer.Typer(
    name="wye",
    help="Routing in machine learning: which computation handles each input.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at, convert and split outcome data.", no_args_is_help=True)
app.add_typer(data_app, name="data")
bench_app = typer.Typer(help="Compare systems on the same data and seeds.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")

# A pipe has no width of its own; tables of figures need more than the 80 columns Rich assumes.
screen = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)
# Paths and commands in messages are copied from the screen, so they are never broken in two.
messages = Console(stderr=True, soft_wrap=True)


def _say(text: str, *, style: str | None = None) -> None:
    """A message as it stands: names that users chose may look like markup."""
    messages.print(text, markup=False, highlight=False, style=style)


def _say_error(text: str) -> None:
    from rich.text import Text

    messages.print(Text.assemble(("error:", "bold red"), " ", text))


def main() -> None:
    """Run the command line; an error that wye raises on purpose prints without a traceback."""
    try:
        app()
    except WyeError as error:
        _say_error(str(error))
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        # The disk, permissions and limits are no defect of wye; they stop a command all the same.
        _say_error(cannot(error))
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from wye import __version__

        screen.print(__version__, highlight=False)
        raise typer.Exit
    if context.invoked_subcommand is None:
        screen.print(context.get_help())


@app.command()
def up(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8484,
    config: Annotated[
        Path | None, typer.Option(help="A wye.toml; the embedded pool alone when not given.")
    ] = None,
) -> None:
    """Serve a routed pool of the embedded model's strategies, with nothing to configure."""
    from wye.gateway.server import serve as run

    run(config, host=host, port=port, console=messages)


@app.command()
def serve(
    config: Annotated[Path, typer.Option(help="The gateway's configuration.")] = Path("wye.toml"),
    host: Annotated[str | None, typer.Option(help="Overrides the configuration.")] = None,
    port: Annotated[int | None, typer.Option(help="Overrides the configuration.")] = None,
    on_ray: Annotated[
        bool, typer.Option("--ray", help="On Ray Serve, at RAY_ADDRESS or here (wye[ray]).")
    ] = False,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="With --ray: how many gateways; 2 when not given.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Gateway processes on this address, about one a core. Overrides the configuration "
            "(1 unless it says else).",
        ),
    ] = None,
) -> None:
    """Serve your own models as `wye.toml` describes them."""
    if on_ray and workers is not None:
        raise WyeError("--workers is for one machine without Ray; with --ray give --replicas")
    if on_ray:
        from wye.ray.running import serve_on_ray

        serve_on_ray(config, replicas=replicas or 2, host=host, port=port, say=_say)
        return
    if replicas is not None:
        raise WyeError("--replicas needs --ray; processes of one machine are --workers")
    from wye.gateway.server import serve as run

    run(config, host=host, port=port, workers=workers, console=messages)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write.")] = Path("wye.toml"),
    force: Annotated[bool, typer.Option(help="Replace a file that exists.")] = False,
) -> None:
    """Write a commented wye.toml that offers the providers whose keys are in the environment."""
    from wye.gateway.example import write_example

    found = write_example(path, force=force)
    _say(f"wrote {path}" + (f"; keys found: {', '.join(found)}" if found else ""))
    _say(f"next: edit it, then run: wye serve --config {path}")


@app.command()
def fetch() -> None:
    """Fetch the embedded model's weights (98 MB, once)."""
    from wye.gateway.pool import weights

    _say(f"embedded model: {weights.fetch(console=messages)}")


@app.command()
def train(
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="Outcome data, or 'embedded'.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the router.")] = Path(
        "router"
    ),
    router: Annotated[str, typer.Option(help="Name of the system.")] = "auto",
    embedder: EmbedderName = "static",
    seed: Seed = 0,
    exclude_dataset: Exclude = None,
    from_log: Annotated[
        str | None,
        typer.Option(
            "--from-log",
            metavar="STORE",
            help="Learn from a gateway's store (file or url) instead.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace a router that exists.")] = False,
) -> None:
    """Train a router on outcomes and save it."""
    if (data is None) == (from_log is None):
        raise WyeError("give either DATA (a folder, or 'embedded') or --from-log STORE")
    if from_log is not None:
        from wye.gateway.log_data import read_log

        outcomes = read_log(from_log)
    else:
        outcomes = read_data(str(data), exclude_dataset)
    outcomes = _part(outcomes, "train")
    from wye.query.learning.training import train as fit

    _refuse_to_replace(out, force)
    unasked = [m for m in outcomes.model_names if m not in set(outcomes.outcomes["model"])]
    fitted = fit(outcomes, router=router, embedder=embedder, seed=seed, console=messages)
    fitted.save(out)
    if unasked:
        _say(
            f"no answer of {', '.join(unasked)} is known, so what is expected of it is a guess; "
            f"measure it, or leave it out: wye leave {out} MODEL",
            style="yellow",
        )
    _say(f"saved the {router} router for {counted(fitted.models_, 'model')} to {out}")
    _say(
        f'next: wye eval {out} --on DATA, or: wye route {out} "your question" --explain',
    )


@app.command(name="eval")
def evaluate(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A saved router.")
    ] = None,
    on: Annotated[str, typer.Option("--on", metavar="DATA", help="Data to judge on.")] = "embedded",
    train_on: Annotated[
        str | None, typer.Option("--train", metavar="DATA", help="Train on this first.")
    ] = None,
    router: Annotated[
        list[str] | None, typer.Option(help="With --train: which systems. Repeatable.")
    ] = None,
    embedder: EmbedderName = "static",
    seed: Seed = 0,
    exclude_dataset: Exclude = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report; - prints it.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Frontier plot: .png, .svg or .html.")
    ] = None,
    robust: Annotated[
        bool,
        typer.Option("--robustness", help="Also rewrite and attack the queries: what is chosen?"),
    ] = False,
    drift: Annotated[
        bool, typer.Option("--drift", help="Also watch calibration over the queries in order.")
    ] = False,
) -> None:
    """Say honestly whether routing pays: the router against every way of doing without one."""
    if (directory is None) == (train_on is None):
        raise WyeError("give either DIR (a saved router) or --train DATA")
    if directory is not None and router:
        raise WyeError("--router goes with --train; a saved router is what it is")
    if json_file is not None and str(json_file) != "-":
        check_file_target(json_file)
    if plot is not None:
        check_file_target(plot)
    test = _part(read_data(on, exclude_dataset), "test")
    from wye.query.report import evaluate_many

    if directory is not None:
        from wye.query import load

        routers = {directory.name: load(directory)}
    else:
        from wye.query.learning.training import train as fit

        learn = _part(read_data(str(train_on), exclude_dataset), "train")
        routers = {
            name: fit(learn, router=name, embedder=embedder, seed=seed, console=messages)
            for name in (router or ["auto"])
        }
    report = evaluate_many(routers, test, seed=seed, console=messages)
    if plot is not None:
        from wye.bench.frontier import save

        save(report, plot)
        _say(f"wrote {plot}")
    told: dict[str, Any] = dict(report.to_dict())
    further: list[Any] = []
    if robust:
        from wye.query.robustness import robustness

        with messages.status("rewriting and attacking queries"):
            found = {n: robustness(r, test, seed=seed) for n, r in routers.items()}
        told["robustness"] = {name: ways.to_dict() for name, ways in found.items()}
        further += found.values()
    if drift:
        from wye.query.calibration_monitor import watch

        watched = {name: watch(fitted, test) for name, fitted in routers.items()}
        told["drift"] = {name: seen.to_dict() for name, seen in watched.items()}
        further += [f"{name}: {seen.words}" for name, seen in watched.items()]
    if json_file is not None:
        _write_json(told, json_file)
    if json_file is None or str(json_file) != "-":
        for part in (report, *further):
            screen.print(part)


@app.command()
def route(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A saved router.")],
    text: Annotated[str, typer.Argument(help="The query; - reads standard input.")],
    policy: Annotated[
        str, typer.Option(help="As in quality, utility:cost_weight=50, threshold:quality=0.8.")
    ] = "quality",
    budget: Annotated[
        float | None, typer.Option(help="USD this one answer may cost at most.")
    ] = None,
    explain: Annotated[bool, typer.Option(help="Show every candidate and the reasons.")] = False,
    as_json: AsJson = False,
    seed: Seed = 0,
) -> None:
    """Choose a model for one query."""
    import numpy as np

    from wye.query import load
    from wye.query.decisions import as_dict
    from wye.query.decisions import explain as in_words
    from wye.query.policies import parse_policy

    if text == "-":
        text = sys.stdin.read()
    if not text.strip():
        raise WyeError("the query is empty: give a text, or - and a text on standard input")
    fitted = load(directory)
    allowed = None
    if budget is not None:
        if not budget > 0:
            raise WyeError(f"--budget is {budget}, expected USD above 0")
        cost = fitted.estimate([text]).cost
        allowed = np.isfinite(cost) & (cost <= budget)
        if not allowed.any():
            cheapest = f"{np.nanmin(cost):.6f} USD" if np.isfinite(cost).any() else "unknown"
            raise WyeError(
                f"no model is expected to answer within {budget} USD; the cheapest: {cheapest}"
            )
    decision = fitted.route([text], parse_policy(policy), allowed=allowed, seed=seed).decisions[0]
    if as_json:
        print(json.dumps(as_dict(decision), ensure_ascii=False, allow_nan=False))  # noqa: T201
    elif explain:
        screen.print(in_words(decision), markup=False, highlight=False)
    else:
        screen.print(decision.target or "abstain", markup=False, highlight=False)


@data_app.command("list")
def data_list(
    folder: Annotated[
        Path | None, typer.Argument(help="Also list the data sets under this folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the data sets at hand."""
    from wye.data import list_data

    listing = list_data(folder)
    if as_json:
        _print_json(listing.to_dict())
    else:
        screen.print(listing)


@data_app.command("show")
def data_show(data: DataFolder, exclude_dataset: Exclude = None, as_json: AsJson = False) -> None:
    """Counts, density, accuracy of each model, oracle, duplicates and artefacts."""
    from wye.data import summarise

    summary = summarise(read_data(data, exclude_dataset))
    if as_json:
        _print_json(summary.to_dict())
    else:
        screen.print(summary)


@data_app.command("convert")
def data_convert(
    source: Annotated[str, typer.Argument(help="File or folder to read.")],
    target: Annotated[Path, typer.Argument(help="Folder to write.")],
    source_format: Annotated[
        str, typer.Option("--from", help="wye, routellm, llmrouter or routerbench.")
    ] = "wye",
    table_format: Annotated[str, typer.Option("--to", help="parquet, jsonl or csv.")] = "parquet",
    trust_pickle: Annotated[
        bool, typer.Option(help="Unpickle SOURCE: a pickle can run any code, so only your own.")
    ] = False,
) -> None:
    """Convert outcomes of another project, or between table formats."""
    from wye.data import read_foreign

    data = read_foreign(source, source_format, trust_pickle=trust_pickle)
    data.write(target, format=table_format)
    _say(f"wrote {len(data.queries)} queries and {len(data.outcomes)} outcomes: {target}")


@data_app.command("split")
def data_split(
    data: DataFolder,
    target: Annotated[Path, typer.Argument(help="Folder to write.")],
    test_share: Annotated[float, typer.Option(help="Share of questions for the test.")] = 0.2,
    seed: Seed = 0,
) -> None:
    """Split by a hash of the normalised question: no question lands on both sides."""
    read_data(data, None).split(test_share=test_share, seed=seed).write(target)
    _say(f"wrote {target}")


@app.command()
def explain(
    what: Annotated[
        list[str], typer.Argument(metavar="FILE|SLUG...", help="A pipeline in TOML, or systems.")
    ],
) -> None:
    """Show when each stage of a pipeline, or each system, decides, on what, and how."""
    from wye.catalog import load_catalog
    from wye.query.pipelines.frame import Facets, frame_table
    from wye.query.pipelines.reading import read_pipeline

    if len(what) == 1 and what[0].endswith(".toml"):
        print(read_pipeline(what[0]).explain())  # noqa: T201
        return
    files = [w for w in what if w.endswith(".toml") or Path(w).is_file()]
    if files:
        raise WyeError(
            f"{files[0]} is a file: a pipeline ends in .toml and is explained alone; systems are "
            "given by slug"
        )
    rows = []
    for system in map(load_catalog().get, what):
        if not system.when:
            raise WyeError(f"{system.slug} does not say when it decides; systems of queries do")
        reads = tuple(system.reads.split(", "))
        rows.append((system.slug, Facets(system.when, reads, system.how), system.title))
    print(frame_table(rows))  # noqa: T201


@app.command()
def systems(
    scale: Annotated[str | None, typer.Option(help="Only this scale.")] = None,
    as_json: AsJson = False,
) -> None:
    """List every system: slug, scale, paper, status."""
    from wye.catalog import load_catalog

    catalog = load_catalog().of_scale(scale)
    if as_json:
        _print_json(catalog.to_dict())
    else:
        screen.print(catalog)


@app.command()
def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT_OR_LOG",
            help="A trace, a training log, or the directory of a language model or of routers.",
        ),
    ],
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Run this text through a language model.")
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option("--out", "-o", metavar="FILE", help="Draw: .png, .svg, .html. Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how evenly each layer of a mixture of experts loads its experts."""
    from wye.moe.diagnostics import Report, inspect_saved, save_heat_map

    try:
        content = None if text is None else text.read_bytes()
    except OSError as error:
        raise WyeError(f"{text} cannot be read: {error}") from error
    found = inspect_saved(path, text=content)
    if out and not isinstance(found, Report):
        raise WyeError(f"{path} holds routers without loads, of which there is no heat map to draw")
    for target in out or ():
        if isinstance(found, Report):
            _say(f"wrote {save_heat_map(found, target)}")
    if as_json:
        _print_json(found.to_dict())
    else:
        screen.print(found)


@app.command()
def check(
    slugs: Annotated[list[str] | None, typer.Argument(help="Systems to check.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Check every system.")] = False,
    scale: Annotated[str | None, typer.Option(help="Check every system of this scale.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Outcome data; 'embedded' when not given.")
    ] = None,
    fast: Annotated[bool, typer.Option(help="Only the checks that end within seconds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run systems' claims on this machine, each against its own baseline."""
    from wye.checks import run_checks

    if (1 if slugs else 0) + everything + (scale is not None) != 1:
        raise WyeError("give systems by slug, or --all, or --scale SCALE; see: wye systems")
    summary = run_checks(
        slugs,
        scale=scale,
        data=None if data is None else read_data(data, None),
        fast=fast,
        console=messages,
    )
    if as_json:
        _print_json(summary.to_dict())
    else:
        screen.print(summary)
    raise typer.Exit(summary.exit_code)


@bench_app.command("moe")
def bench_experts(
    steps: Annotated[int, typer.Option(min=1, help="Training steps of every run.")] = 100,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, ...")] = 1,
    systems: Annotated[
        str | None, typer.Option(help="Names, separated by commas; all when not given.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text to train on; else Python source.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for moe.png and moe.html.")
    ] = Path("bench"),
    as_json: AsJson = False,
) -> None:
    """Train every router of the expert scale and draw loss, balance, fan-out and time."""
    from wye.bench.moe import bench_moe, read_text
    from wye.bench.moe_page import save

    named = None if systems is None else [s.strip() for s in systems.split(",") if s.strip()]
    own = None if text is None else read_text(text)
    with messages.status("getting ready") as status:
        result = bench_moe(named, text=own, steps=steps, seeds=range(seeds), progress=status.update)
    for path in save(result, out):
        _say(f"wrote {path}")
    if as_json:
        _print_json(result.to_dict())
    else:
        screen.print(result)


def _part(data: RoutingData, name: str) -> RoutingData:
    """The named part where the data has it; all of it where it has no parts at all."""
    splits = set(data.queries["split"].dropna().unique())
    return data.part(name) if {"train", "test"} & splits else data


def _refuse_to_replace(directory: Path, force: bool) -> None:
    check_folder_target(directory)
    if directory.exists() and not force and any(directory.iterdir()):
        raise WyeError(f"{directory} exists and is not empty; name another, or add --force")


def _write_json(value: Mapping[str, Any], path: Path) -> None:
    if str(path) == "-":
        _print_json(value)
        return
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(path, (text + "\n").encode())
    _say(f"wrote {path}")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))  # noqa: T201


register(app, bench_app, screen, messages)
register_keys(app, screen, messages)
register_policy(app, screen, messages)
register_replay(app, screen)
register_watch(app, screen, messages)

if __name__ == "__main__":
    main()
