"""Probes accept what is right and nothing else, and the table of skills routes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta as beta_distribution
from scipy.stats import fisher_exact

from wye import load
from wye.checks.query.probe_programs import format_program, string_program
from wye.query import KNNRouter, NotFittedError, RouterError, get_router
from wye.query.chat_models import ProgramChatModel
from wye.query.chat_models.base import ChatModelError
from wye.query.instruction_adherence import (
    CATEGORIES,
    CapabilityRouter,
    CapabilityTable,
    ProbeRun,
    check_alive,
    drift,
    probes,
    run_probes,
    skills_of,
)
from wye.query.instruction_adherence.change import CategoryDrift
from wye.query.instruction_adherence.probe import unwrapped, without_reasoning
from wye.query.instruction_adherence.probing import as_data
from wye.query.instruction_adherence.skills import declared_needs, required
from wye.query.instruction_adherence.suite import BUILDERS
from wye.query.instruction_adherence.table import PUBLISHED, difficulty, separating
from wye.testing import made_outcomes

ODD = [
    "\x00\ufffd\ud800" * 50,
    "x" * 3_000_000,
    "[" * 15_000,
    "1" * 10_000,
    "```\n```",
    '"',
    "||||",
]
NAMES = [build.__name__ for builders in BUILDERS.values() for build in builders]
FORMAT, STRING = CATEGORIES.index("format_conversion"), CATEGORIES.index("string_manipulation")


@pytest.fixture(scope="module")
def runs() -> tuple[ProbeRun, ProbeRun]:
    return run_probes(format_program(), repeats=3), run_probes(string_program(), repeats=3)


@settings(deadline=None)
@given(st.integers(0, 100_000))
def test_every_probe_accepts_its_reference_and_no_empty_answer(seed: int) -> None:
    made = probes(seed)
    assert [p.name for p in made] == NAMES
    for probe in made:
        assert probe.check(probe.reference).strict, probe
        for empty in ("", " \n\t"):
            assert not probe.check(empty).lenient
        wrong = probe.check("I cannot do that, sorry; ask somebody else, e.g. a poet at tea.")
        assert not wrong.strict
        assert wrong.reason


@settings(deadline=None)
@given(st.integers(0, 1000), st.text(max_size=60), st.integers(0, 19))
def test_strict_implies_lenient_and_wrapping_is_forgiven_leniently(
    seed: int, text: str, which: int
) -> None:
    probe = probes(seed)[which]
    for answer in (text, probe.reference, probe.reference + text):
        verdict = probe.check(answer)
        assert verdict.lenient >= verdict.strict
        assert verdict.strict == (verdict.reason == "")
    for wrapped in (f"```text\n{probe.reference}\n```", f"  {probe.reference}\n"):
        assert probe.check(wrapped).lenient


def test_the_same_seed_gives_the_same_prompts_and_another_gives_others() -> None:
    first, again, other = ([p.prompt for p in probes(s, repeats=2)] for s in (5, 5, 6))
    assert first == again
    assert sum(a == b for a, b in zip(first, other, strict=True)) == 0
    assert len(set(first)) == 40
    only = probes(5, repeats=2, categories=["data_processing"])
    assert {p.prompt for p in only} <= set(first)


@pytest.mark.parametrize("odd", ODD, ids=lambda t: repr(t[:8]))
def test_no_answer_crashes_a_checker(odd: str) -> None:
    for probe in probes(0):
        verdict = probe.check(odd)
        assert not verdict.lenient
        assert verdict.reason


def test_an_exact_checker_rejects_any_single_change() -> None:
    for probe in probes(2):
        if probe.name in ("exact_words", "avoid_letter", "begin_and_end", "to_json"):
            continue
        for place in range(len(probe.reference)):
            if probe.reference[place] in " -":
                continue
            changed = probe.reference[:place] + "~" + probe.reference[place + 1 :]
            assert not probe.check(changed).strict, (probe.name, changed)


@pytest.mark.parametrize(
    ("name", "answer", "passes"),
    [
        ("to_json", '{"name": "A", "city": "B", "age": "3"}', False),
        ("exact_words", "one two", False),
        ("avoid_letter", "a e o t", False),
    ],
)
def test_rules_are_held_to_their_words(name: str, answer: str, passes: bool) -> None:
    probe = next(p for p in probes(0) if p.name == name)
    assert probe.check(answer).strict is passes


def test_wrapping_and_reasoning_are_cut_only_where_they_are() -> None:
    assert unwrapped('```json\n{"a": 1}\n```') == '{"a": 1}'
    assert unwrapped(" “four” ") == "four"
    assert unwrapped("'a' and 'b'") == "'a' and 'b'"
    assert without_reasoning("<think>no</think>\n42", "think") == "42"
    assert without_reasoning("<think>no</think>\n42", None) == "<think>no</think>\n42"
    assert without_reasoning("<think>cut off", "think") == ""
    with pytest.raises(ChatModelError, match="tag"):
        without_reasoning("x", "<think>")


def test_programs_fill_the_table_with_what_they_are(runs: tuple[ProbeRun, ProbeRun]) -> None:
    table = CapabilityTable.of(runs)
    rates = table.passes / table.trials
    expected = np.zeros((2, 5))
    expected[0, FORMAT] = expected[1, STRING] = 1.0
    assert np.array_equal(rates, expected)
    assert (table.trials == 12).all()


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=5, max_size=5))
def test_capabilities_stay_inside_of_0_and_1(cells: list[tuple[int, int]]) -> None:
    passes, failures = np.array(cells, float).T
    for prior in ("uniform", "published"):
        table = CapabilityTable(("m",), passes[None], (passes + failures)[None], prior)
        assert ((table.means > 0) & (table.means < 1)).all()
        low, high = table.interval()
        assert ((low < table.means) & (table.means < high)).all() or (passes + failures == 0).any()
        spread = beta_distribution.std(table.alpha, table.beta)
        assert np.allclose(table.errors, spread)
    laplace = CapabilityTable(("m",), passes[None], (passes + failures)[None]).means[0]
    assert np.allclose(laplace, (passes + 1) / (passes + failures + 2))


def test_an_unprobed_model_is_expected_at_the_published_rates() -> None:
    nothing = np.zeros((1, 5))
    means = CapabilityTable(("m",), nothing, nothing, "published").means[0]
    assert means == pytest.approx([PUBLISHED[c] for c in CATEGORIES])


def test_difficulty_is_the_share_of_models_that_fail(runs: tuple[ProbeRun, ProbeRun]) -> None:
    hard = difficulty(runs)
    assert hard["reverse"] == hard["to_json"] == 0.5
    assert hard["add"] == 1.0
    assert set(separating(hard)) == {
        b.__name__ for c in ("format_conversion", "string_manipulation") for b in BUILDERS[c]
    }


def test_drift_is_flagged_where_a_category_changed(runs: tuple[ProbeRun, ProbeRun]) -> None:
    same = drift(runs[0], run_probes(format_program(), repeats=3, seed=9))
    assert not any(d.flagged for d in same)
    changed = {d.category for d in drift(runs[0], runs[1]) if d.flagged}
    assert changed == {"format_conversion", "string_manipulation"}


def test_a_run_survives_its_file(runs: tuple[ProbeRun, ProbeRun], tmp_path: Path) -> None:
    path = runs[0].save(tmp_path / "run.json")
    assert ProbeRun.load(path) == runs[0]
    for broken in ("{", "[]", '{"format": "x"}', '{"format": "wye.query.probe_run"}'):
        path.write_text(broken)
        with pytest.raises(ChatModelError, match="no run of probes"):
            ProbeRun.load(path)
    with pytest.raises(ChatModelError, match="cannot be written"):
        runs[0].save(tmp_path / "no" / "where.json")


def test_a_model_that_does_not_know_a_capital_is_not_probed() -> None:
    check_alive(ProgramChatModel("good", lambda m: "It is Paris."))
    with pytest.raises(ChatModelError, match="'Rome'"):
        check_alive(ProgramChatModel("bad", lambda m: "Rome"))


def test_every_probe_says_which_skill_it_needs_and_plain_questions_none() -> None:
    for seed in range(20):
        for probe in probes(seed):
            assert probe.category in skills_of(probe.prompt), probe
    for plain in ("Who wrote Faust?", "Tell me about table tennis.", "", "Why is the sky blue?"):
        assert skills_of(plain) == ()
    assert skills_of("Give me the result as JSON, at most 20 words.") == (
        "format_conversion",
        "constraint_compliance",
    )
    assert skills_of("x" * 9000 + " Convert it to YAML.") == ("format_conversion",)


def test_declared_needs_go_before_words() -> None:
    wanted = required(["to JSON", "to JSON", "x"], [None, (), ["string_manipulation"]])
    assert wanted[0].tolist() == [c == "format_conversion" for c in CATEGORIES]
    assert not wanted[1].any()
    assert wanted[2].tolist() == [c == "string_manipulation" for c in CATEGORIES]
    assert declared_needs({"needs": ["data_processing"]}) == ("data_processing",)
    assert declared_needs({}) is None
    with pytest.raises(RouterError, match="list of skills"):
        declared_needs({"needs": "data_processing"})
    with pytest.raises(RouterError, match="'magic'"):
        required(["x"], [["magic"]])
    with pytest.raises(RouterError, match="1 texts"):
        required(["x"], [])


def test_the_table_routes_each_request_to_who_can(runs: tuple[ProbeRun, ProbeRun]) -> None:
    router = CapabilityRouter().fit(as_data(runs))
    fresh = probes(77, repeats=3)
    prompts = [p.prompt for p in fresh]
    chosen = dict(zip(prompts, router.route(prompts).targets, strict=True))
    for probe in fresh:
        if probe.category == "format_conversion":
            assert chosen[probe.prompt] == "format program"
        if probe.category == "string_manipulation":
            assert chosen[probe.prompt] == "string program"
    texts = ["anything", "anything"]
    declared = [["string_manipulation"], ["format_conversion"]]
    assert router.route(texts, needs=declared).targets == ["string program", "format program"]
    # Without a requirement the table abstains: nobody is better.
    quality = router.estimate(["Who wrote Faust?"]).quality[0]
    assert quality[0] == quality[1]
    assert router.scores(["Who wrote Faust?"]).tolist() == [[0.0, 0.0]]
    # Any other router learns from the same outcomes.
    assert KNNRouter().fit(as_data(runs)).models_ == router.models_


def test_scores_are_sums_of_logarithms_minus_cost(runs: tuple[ProbeRun, ProbeRun]) -> None:
    router = CapabilityRouter().fit(as_data(runs))
    C = router.table_.means
    both = router.scores(["x"], [["string_manipulation", "format_conversion"]])
    assert both[0] == pytest.approx(np.log(C[:, STRING]) + np.log(C[:, FORMAT]))
    router.set_prices({"format program": (0.0, 0.0), "string program": (5.0, 5.0)})
    cost = router.estimate(["x"]).cost
    priced = router.scores(["x"], [["string_manipulation"]], cost_weight=100.0)
    assert priced[0] == pytest.approx(np.log(C[:, STRING]) - 100.0 * cost[0])


@pytest.mark.parametrize("minimum", [0.3, 0.6, 0.95])
def test_an_ineligible_model_is_never_chosen(
    minimum: float, runs: tuple[ProbeRun, ProbeRun]
) -> None:
    router = CapabilityRouter(minimum=minimum).fit(as_data(runs))
    prompts = [p.prompt for p in probes(8, repeats=2)]
    C = router.table_.means
    wanted = required(prompts)
    for q, target in enumerate(router.route(prompts).targets):
        able = [m for m in range(2) if (C[m, wanted[q]] >= minimum).all()]
        assert (target is None) == (not able)
        assert target is None or router.models_.index(target) in able
    trace = router.trace(["Convert this to JSON."])[0]
    assert trace.required == ("format_conversion",)
    assert trace.deciding["string program"] == "format_conversion"
    assert trace.eligible == (("format program",) if minimum < 0.9 else ())
    forbidden = router.route(prompts, allowed=np.array([False, True])).targets
    assert "format program" not in forbidden


def test_counts_of_probes_are_a_prior_for_a_log(
    runs: tuple[ProbeRun, ProbeRun], tmp_path: Path
) -> None:
    log = made_outcomes(60)
    weak = {"weak": {"mathematical_operations": [200.0, 200.0]}}
    plain = CapabilityRouter().fit(log)
    informed = get_router("instruction-adherence", capabilities=weak).fit(log)
    text = ["Compute 3 + 4 * 5 and give the result as a number."]
    column = log.model_names.index("weak")
    assert informed.estimate(text).quality[0, column] > 0.85
    assert plain.estimate(text).quality[0, column] < 0.5
    loaded = load(informed.save(tmp_path / "router"))
    assert np.array_equal(loaded.estimate(text).quality, informed.estimate(text).quality)
    json.dumps(CapabilityTable.of(runs).counts())
    informed.remove_model("coder")
    assert informed.table_.models == informed.models_


@pytest.mark.parametrize(
    ("doing", "error", "message"),
    [
        (lambda: probes(0, repeats=0), ChatModelError, "repeats is 0"),
        (lambda: probes(0, categories=["x"]), ChatModelError, "no categories"),
        (lambda: CapabilityTable.of([]), RouterError, "no run"),
        (lambda: as_data([]), ChatModelError, "no run"),
        (
            lambda: CapabilityTable(("m",), np.ones((1, 5)), np.zeros((1, 5))),
            RouterError,
            "at most the trials",
        ),
        (
            lambda: CapabilityTable(("m",), np.ones((1, 5)), np.ones((1, 5)), "x"),  # type: ignore[arg-type]
            RouterError,
            "prior",
        ),
        (lambda: CapabilityTable(("m",), np.ones(5), np.ones(5)), RouterError, "shape"),
        (lambda: CapabilityRouter().scores(["x"]), NotFittedError, "fit"),
        (
            lambda: CapabilityRouter(minimum=1.0).fit(made_outcomes(9)),
            RouterError,
            "minimum",
        ),
        (
            lambda: CapabilityRouter(capabilities={"m": {"x": (1, 2)}}).fit(made_outcomes(9)),
            RouterError,
            "capabilities",
        ),
    ],
)
def test_bad_input_is_answered(doing, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        doing()


def test_it_is_told_when_so_few_trials_could_show_no_change() -> None:
    for trials in range(2, 9):
        largest = drift_of((trials, trials), (0, trials))
        assert largest.detectable == largest.flagged
    assert not drift_of((4, 4), (0, 4)).detectable
    assert drift_of((5, 5), (5, 5)).detectable


def drift_of(before: tuple[int, int], after: tuple[int, int]) -> CategoryDrift:
    cells = [[passed, trials - passed] for passed, trials in (before, after)]
    return CategoryDrift("skill", before, after, float(fisher_exact(cells).pvalue))
