"""Running checks: verdicts, exit codes, and a failed check told from a claim that fails."""

import json
from collections.abc import Callable
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from wye.catalog import Catalog, System
from wye.checks import CheckContext, CheckError, CheckResult, Claim, run_checks
from wye.data import RoutingData
from wye.errors import WyeError


def tiny() -> RoutingData:
    return RoutingData(
        pd.DataFrame({"query_id": ["q"], "dataset": ["d"], "text": ["t"], "split": ["test"]}),
        pd.DataFrame({"query_id": ["q"], "model": ["m"], "quality": [0.5]}),
        pd.DataFrame({"model": ["m"]}),
        name="tiny",
    )


def good(context: CheckContext) -> CheckResult:
    context.progress("at work")
    figures = {"mean": float(np.nanmean(context.data.quality)), "unknown": float("nan")}
    return CheckResult((Claim("mean", figures["mean"], ">=", 0.5),), figures, context.seeds, "Ran.")


def bad(context: CheckContext) -> CheckResult:
    claims = (Claim("zero", 0.0, ">=", 0.1), Claim("one", 1.0, "<=", 1.0))
    return CheckResult(claims, {}, context.seeds, "Ran.")


def broken(context: CheckContext) -> CheckResult:
    raise CheckError("this data has no costs")


def defective(context: CheckContext) -> CheckResult:
    return 1 / 0  # type: ignore[return-value]


def shapeless(context: CheckContext) -> CheckResult:
    return "fine"  # type: ignore[return-value]


def catalog_of(*checks: Callable[[CheckContext], CheckResult]) -> Catalog:
    """A catalogue whose systems carry the name of their check; the last one is slow."""
    return Catalog(
        systems=tuple(
            System(
                slug=check.__name__,
                scale="query",
                title="Test",
                entry="json:dumps",
                check=f"{__name__}:{check.__name__}",
                seconds=100.0 if check is defective else 1.0,
                status="test",
            )
            for check in checks
        )
    )


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the catalogue import this module by its name."""
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _this_module())


def _this_module():  # type: ignore[no-untyped-def]
    import types

    module = types.ModuleType(__name__)
    module.__dict__.update(globals())
    return module


@pytest.mark.parametrize(
    ("checks", "verdicts", "code"),
    [
        ((good,), ["holds"], 0),
        ((good, bad), ["holds", "does not hold"], 1),
        ((bad, broken, good), ["does not hold", "error", "holds"], 3),
        ((defective,), ["error"], 3),
        ((shapeless,), ["error"], 3),
    ],
)
def test_a_claim_that_fails_and_a_check_that_fails_are_told_apart(checks, verdicts, code) -> None:  # type: ignore[no-untyped-def]
    summary = run_checks(data=tiny(), catalog=catalog_of(*checks))
    assert [run.verdict for run in summary.runs] == verdicts
    assert summary.exit_code == code


def test_the_error_of_a_check_names_what_was_raised() -> None:
    summary = run_checks(data=tiny(), catalog=catalog_of(broken, defective, shapeless))
    errors = [run.error or "" for run in summary.runs]
    assert errors[0] == "CheckError: this data has no costs"
    assert errors[1].startswith("ZeroDivisionError")
    assert "expected CheckResult" in errors[2]


def test_the_summary_is_json_without_nan_and_a_table_with_every_figure() -> None:
    summary = run_checks(data=tiny(), catalog=catalog_of(good, bad, broken), seeds=(7,))
    report = json.loads(json.dumps(summary.to_dict(), allow_nan=False))
    assert report["data"] == "tiny"
    assert report["checks"][0]["result"]["figures"] == {"mean": 0.5, "unknown": None}
    assert report["checks"][0]["result"]["seeds"] == [7]
    assert report["checks"][1]["result"]["claims"][0] == {
        "figure": "zero", "value": 0.0, "relation": ">=", "threshold": 0.1, "holds": False,
    }  # fmt: skip
    assert report["checks"][2]["result"] is None
    screen = Console(file=StringIO(), width=160)
    screen.print(summary)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    for part in ("zero = 0.0000 >= 0.1: does not hold", "this data has no costs", "seeds 7",
                 "3 checks on tiny: 1 holds, 1 does not hold, 1 error"):  # fmt: skip
        assert part in shown


def test_systems_are_chosen_by_slug_by_scale_or_all() -> None:
    catalog = catalog_of(good, bad, defective)

    def ran(*args: object, **options: object) -> list[str]:
        return [r.slug for r in run_checks(*args, data=tiny(), catalog=catalog, **options).runs]  # type: ignore[arg-type]

    assert ran(["bad", "good", "bad"]) == ["bad", "good"]
    assert ran() == ran(scale="query") == ["good", "bad", "defective"]
    assert ran(fast=True) == ["good", "bad"]
    with pytest.raises(WyeError, match=r"no system is called 'god'.*did you mean 'good'"):
        ran(["god"])
    with pytest.raises(WyeError, match=r"none of \['defective'\] ends within 30 s"):
        ran(["defective"], fast=True)


def test_progress_is_told_and_leaves_nothing_behind() -> None:
    screen = Console(file=StringIO(), force_terminal=False)
    run_checks(data=tiny(), catalog=catalog_of(good), console=screen)
    assert screen.file.getvalue() == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_no_number_is_never_a_verdict(value: float) -> None:
    with pytest.raises(CheckError, match="expected a number"):
        Claim("x", value, "<=", 1.0)


def test_a_check_without_a_claim_is_an_error() -> None:
    with pytest.raises(CheckError, match="at least one claim"):
        CheckResult((), {}, (0,), "Nothing.")
