"""Pipelines read from files: what they become, and what the reader of a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from wye.catalog import System, load_catalog
from wye.cli import app
from wye.errors import WyeError
from wye.query.constant import ConstantRouter
from wye.query.pipelines.frame import Facets, PipelineError
from wye.query.pipelines.reading import read_pipeline
from wye.query.policies.judging import Answer
from wye.testing.query_data import made_outcomes

WHOLE = """
targets = ["generalist", "calculator", "coder", "weak"]

[ledger]
total_usd = 5.0

[[stage]]
kind = "refuse"
pattern = "(?i)password"
reason = "asks for secrets"

[[stage]]
kind = "eligible"
offers = { generalist = ["tools"], calculator = ["tools"], coder = [], weak = [] }

[[stage]]
kind = "route"
router = "router"
policy = "utility:cost_weight=50"

[[stage]]
kind = "judge"
threshold = 0.7

[[stage]]
kind = "run"
target = "generalist"
cost_usd = 0.01
"""

RUN = 'targets = ["a"]\n[[stage]]\nkind = "run"\ntarget = "a"'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pipeline")
    ConstantRouter().fit(made_outcomes(60)).save(made / "router")
    (made / "pipeline.toml").write_text(WHOLE, encoding="utf-8")
    return made


def test_a_file_becomes_the_chain_it_describes(folder: Path) -> None:
    pipeline = read_pipeline(folder / "pipeline.toml")
    assert [s.name for s in pipeline.stages] == [
        "guard",
        "eligible",
        "route",
        "judge",
        "run generalist",
    ]
    assert pipeline.ledger.total_usd == 5.0
    refused = pipeline.run("my PassWord?", lambda m, t: (Answer(m, t), 0.1))
    assert refused.rejected == "asks for secrets"
    answered = pipeline.run(
        "x", lambda m, t: (Answer(m, t, confidence=0.0), 0.1), metadata={"needs": ["tools"]}
    )
    assert answered.answer is not None
    assert answered.answer.model == "generalist"


def test_the_command_prints_the_frame(folder: Path) -> None:
    result = CliRunner().invoke(app, ["explain", str(folder / "pipeline.toml")])
    assert result.exit_code == 0, result.output
    assert "after the answer" in result.output
    assert len(result.output.strip().splitlines()) == 6


def test_systems_say_when_they_decide() -> None:
    result = CliRunner().invoke(app, ["explain", "knn-routing", "cascade-routing"])
    assert result.exit_code == 0, result.output
    assert "before the answer" in result.output
    assert "after the answer" in result.output
    assert CliRunner().invoke(app, ["explain", "switch"]).exit_code != 0


@pytest.mark.parametrize("system", load_catalog(plugins=False).of_scale("query").systems)
def test_every_system_of_queries_stands_in_the_frame(system: System) -> None:
    Facets(system.when, tuple(system.reads.split(", ")), system.how)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("targets = [", "cannot be read"),
        ("targets = 3", "expected a list"),
        ('targets = ["a"]', "no stages"),
        ('targets = ["a"]\nsurprise = 1', "surprise"),
        ('[[stage]]\nkind = "run"', "there are no targets"),
        ('targets = ["a"]\nstage = [1]', "stage 1 is 1"),
        ('targets = ["a"]\n[[stage]]\nkind = ["run"]', "the kind"),
        ('targets = ["a"]\n[[stage]]\nkind = "run"\ntarget = "b"', r"names \['b'\]"),
        ('targets = ["a"]\n[[stage]]\nkind = "run"\ntarget = 5', "target is 5"),
        (RUN + '\ncost_usd = "1"', "cost_usd is '1'"),
        (RUN + "\ncost_usd = nan", "cost_usd is nan"),
        (RUN + '\n[[stage]]\nkind = "run"\ntarget = "a"', "runs: a target answers a query once"),
        (RUN + '\n[[stage]]\nkind = "judge"\nthreshold = "x"', "stage 2 .* threshold is 'x'"),
        (RUN + '\n[[stage]]\nkind = "judge"\nthreshold = true', "threshold is True"),
        (RUN + '\n[[stage]]\nkind = "refuse"\npattern = "x"\nreason = "y"', "put it first"),
        ('ledger = { total_usd = "ten" }\n' + RUN, "total_usd is 'ten'"),
        ("ledger = [1]\n" + RUN, "expected keys and values"),
        ('targets = ["a"]\n[[stage]]\nkind = "refuse"\npattern = "x"\nreason = 5', "reason is 5"),
        ('targets = ["a"]\n[[stage]]\nkind = "eligible"\noffers = 5', "lists of words"),
        ('targets = ["a"]\n[[stage]]\nkind = "eligible"\noffers = { a = "x" }', "lists of words"),
        ('targets = ["a"]\n[[stage]]\nkind = "eligible"\noffers = { b = [] }', r"names \['b'\]"),
        ('targets = ["a"]\n[[stage]]\nkind = "route"\nrouter = 5', "router is 5"),
        ('targets = ["a"]\n[[stage]]\nkind = "route"\nrouter = "x"\npolicy = 5', "policy is 5"),
        (
            'targets = ["a"]\n[[stage]]\nkind = "route"\nrouter = "x"',
            r"pipeline.toml: stage 1 \(route\): .* holds no router",
        ),
        ('targets = ["a"]\n[[stage]]\nkind = "pray"', "kind 'pray'"),
        ('targets = ["a"]\n[[stage]]\nkind = "run"', "lacks"),
        ('targets = ["a"]\n[[stage]]\nkind = "run"\ntarget = "a"\nspeed = 3', "speed"),
        ('targets = ["a"]\n[[stage]]\nkind = "judge"\nthreshold = 0.5', "reads answers"),
        (
            'targets = ["a"]\n[[stage]]\nkind = "refuse"\npattern = "("\nreason = "x"',
            "no regular expression",
        ),
        ('targets = ["a"]\n[ledger]\ntotal_usd = -1\n[[stage]]\nkind = "run"\ntarget = "a"', "-1"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "pipeline.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(PipelineError, match=complaint):
        read_pipeline(file)
    result = CliRunner().invoke(app, ["explain", str(file)])
    assert result.exit_code != 0


def test_a_router_of_other_models_is_refused(folder: Path) -> None:
    file = folder / "strangers.toml"
    file.write_text('targets = ["a"]\n[[stage]]\nkind = "route"\nrouter = "router"')
    with pytest.raises(PipelineError, match=r"knows .*, and none of the targets \['a'\]"):
        read_pipeline(file)


def test_a_file_among_systems_and_an_unknown_system_are_told(folder: Path) -> None:
    with pytest.raises(WyeError, match="explained alone"):
        CliRunner().invoke(
            app, ["explain", str(folder / "pipeline.toml"), "automix"], catch_exceptions=False
        )
    with pytest.raises(WyeError, match="did you mean 'knn-routing'") as told:
        CliRunner().invoke(app, ["explain", "knn-routin"], catch_exceptions=False)
    assert len(str(told.value)) < 120, "names of all systems bury the hint"
