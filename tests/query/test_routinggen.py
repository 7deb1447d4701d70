"""Prompt programs and routing between them: slots, stages, tokens, judges, kept choices."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import comb, isnan

import numpy as np
import pytest

from wye.query import RouterError, get_router
from wye.query.arch_router import ArchRouter
from wye.query.chat_models import ProgramChatModel
from wye.query.chat_models.base import ChatModelError, Message
from wye.query.metrics.pass_at_k import pass_at_k
from wye.query.policies import Abstain, Utility
from wye.query.prompt_router import DescriptionRouter
from wye.query.prompts.label_choice import LabelAsker
from wye.query.prompts.programs import (
    PromptStrategy,
    Stage,
    StrategyChatModel,
    first_code,
    strategy,
    strategy_names,
)
from wye.query.routinggen import (
    COMPLEX,
    DIRECT,
    JudgeScorer,
    LearnedScorer,
    PromptRouter,
    RuleScorer,
)
from wye.testing.query_data import made_outcomes

TASK = "def twice(x: int) -> int:"
INTENTION = "Specification: an integer {{task}} in, one out.\nIdea: add it to itself."


def coder(messages: Sequence[Message]) -> str:
    if "Write no code" in messages[-1]["content"]:
        return INTENTION
    return "Here:\n```python\ndef twice(x):\n    return x + x\n```\nDone."


CODER = ProgramChatModel("coder", coder, price_in_per_mtok=1.0, price_out_per_mtok=2.0)


def judge(label: str, name: str = "judge") -> ProgramChatModel:
    return ProgramChatModel(name, lambda m: f"{label}: because I say so")


def test_every_strategy_that_ships_runs_and_puts_the_task_into_its_last_call() -> None:
    assert {DIRECT, COMPLEX, "few-shot", "step-by-step", "persona"} <= set(strategy_names())
    for name in strategy_names():
        run = strategy(name).run(CODER, TASK)
        assert TASK in run.stages[-1].messages[-1]["content"] or len(run.stages) > 1
        assert any(TASK in m["content"] for m in run.stages[-1].messages)
        assert not any("{{" in m["content"] for m in run.stages[0].messages)
        assert strategy(name).name == name


def test_the_intention_stands_verbatim_in_the_second_prompt() -> None:
    run = strategy(COMPLEX).run(CODER, TASK)
    first, second = run.stages
    assert first.text == INTENTION
    assert INTENTION in second.messages[-1]["content"]
    assert run.text == "def twice(x):\n    return x + x"


def test_tokens_and_cost_are_those_of_all_stages() -> None:
    run = strategy(COMPLEX).run(CODER, TASK)
    assert run.input_tokens == sum(CODER.prompt_tokens(s.messages) for s in run.stages)
    expected = (run.input_tokens * 1.0 + run.output_tokens * 2.0) / 1e6
    assert run.cost_usd == pytest.approx(expected)
    direct = strategy(DIRECT).run(CODER, TASK)
    assert direct.input_tokens < run.input_tokens


def test_a_strategy_is_a_target_that_keeps_the_conversation() -> None:
    seen: list[list[Message]] = []

    def listen(messages: Sequence[Message]) -> str:
        seen.append(list(messages))
        return "fine. end"

    target = StrategyChatModel(strategy("persona"), ProgramChatModel("m", listen))
    made = target.generate(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": "How are you?"},
        ],
        stop=["."],
    )
    assert [m["role"] for m in seen[0]] == ["system", "user", "assistant", "user"]
    assert "Be brief." in seen[0][0]["content"]
    assert seen[0][-1]["content"] == "How are you?"
    assert made.text == "fine"
    assert made.model == target.name == "persona(m)"
    with pytest.raises(ChatModelError, match="expected the user's"):
        target.generate([{"role": "assistant", "content": "x"}])


def test_a_persona_is_a_slot() -> None:
    pirate = strategy("persona").filled("pirate", persona="a pirate")
    echo = ProgramChatModel("echo", lambda m: m[0]["content"])
    assert "a pirate" in pirate.run(echo, "Hi").text
    assert pirate.name == "pirate"
    with pytest.raises(RouterError, match="no slots"):
        strategy("persona").filled("x", mood="bad")


def test_only_the_first_fenced_block_is_code() -> None:
    assert first_code("a\n```\nx\n```\n```\ny\n```") == "x"
    assert first_code("```py\nx = 1") == "x = 1"
    assert first_code("x = 1") == "x = 1"


STAGE = '[[stage]]\nname = "a"\n[[stage.message]]\nrole = "user"\ncontent = "{{task}}"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "no TOML"),
        ('name = "x"\n' + STAGE, "lacks 'description'"),
        ('name = "x"\ndescription = ""\nmood = 1\n' + STAGE, r"keys \['mood'\]"),
        ('name = "x"\ndescription = ""\n' + STAGE.replace("task", "nothing"), r"\['nothing'\]"),
        ('name = "x"\ndescription = ""\n' + STAGE + STAGE, "two texts named 'a'"),
        ('name = "x"\ndescription = ""\n' + STAGE.replace("user", "robot"), "roles"),
        ('name = "x"\ndescription = ""\n' + STAGE.replace("[[stage.m", "top_p = 2\n[[stage.m"),
         "top_p"),
        ('name = "x"\ndescription = ""\n' + STAGE.replace("[[stage.m", 'read = "x"\n[[stage.m'),
         "reads 'x'"),
    ],
)  # fmt: skip
def test_a_wrong_strategy_file_is_refused(text: str, message: str) -> None:
    with pytest.raises(RouterError, match=message):
        PromptStrategy.from_toml(text)


def test_a_strategy_without_stage_and_an_unknown_one_are_refused() -> None:
    with pytest.raises(RouterError, match="no stage"):
        PromptStrategy(name="x", description="", stages=())
    with pytest.raises(RouterError, match="no prompt strategy is named 'x'"):
        strategy("x")
    assert Stage(name="a", messages=(("user", "{{ b }}"),)).slots == {"b"}


@pytest.mark.parametrize(
    ("label", "chosen", "route"),
    [
        ("Easy", "Easy", DIRECT),
        ("**easy**", "Easy", DIRECT),
        ("Medium", "Medium", COMPLEX),
        ("Hard", "Hard", COMPLEX),
        ("Easygoing", "Unknown", COMPLEX),
        ("The task is Easy", "Unknown", COMPLEX),
        ("", "Unknown", COMPLEX),
    ],
)
def test_labels_route_and_the_unparsable_goes_the_complex_way(
    label: str, chosen: str, route: str
) -> None:
    (choice,) = PromptRouter(JudgeScorer(judge(label))).choose([TASK])
    assert (choice.label, choice.strategy) == (chosen, route)


def test_all_easy_takes_the_tokens_of_direct_and_the_judge() -> None:
    router = PromptRouter(JudgeScorer(judge("Easy")))
    routed = router.answer(TASK, CODER, samples=3)
    direct = strategy(DIRECT).run(CODER, TASK)
    judged = routed.choice.input_tokens + routed.choice.output_tokens
    assert judged > 0
    assert routed.tokens == 3 * (direct.input_tokens + direct.output_tokens) + judged
    assert len(routed.texts) == 3


def test_the_judge_can_be_read_by_probabilities() -> None:
    model = ProgramChatModel("j", lambda m: "no idea", scores=lambda m, labels: [0.0, 1.0, 0.5])
    (choice,) = PromptRouter(JudgeScorer(model, by="log-probabilities")).choose([TASK])
    assert choice.label == "Medium"
    assert sum(np.exp(list(choice.scores.values()))) == pytest.approx(1.0)
    assert choice.output_tokens == 1
    assert choice.input_tokens > len(TASK.split())


def test_a_task_is_judged_once_and_again_by_a_changed_judge() -> None:
    calls: list[int] = []

    def count(messages: Sequence[Message]) -> str:
        calls.append(1)
        return "Easy"

    kept: dict[str, object] = {}
    first = PromptRouter(JudgeScorer(ProgramChatModel("one", count)), kept=kept)  # type: ignore[arg-type]
    first.choose([TASK, TASK, "other"])
    first.choose([TASK])
    assert len(calls) == 2
    PromptRouter(JudgeScorer(ProgramChatModel("two", count)), kept=kept).choose([TASK])  # type: ignore[arg-type]
    assert len(calls) == 3


def test_the_same_seed_gives_the_same_route() -> None:
    data = made_outcomes(60).with_models(["generalist", "coder"])
    programs = {n: strategy(DIRECT) for n in data.model_names}
    router = get_router("knn").fit(data)
    routes = [
        [
            c.strategy
            for c in PromptRouter(LearnedScorer(router, seed=3), programs).choose(data.texts)
        ]
        for _ in range(2)
    ]
    assert routes[0] == routes[1] == router.route(data.texts, seed=3).targets


def test_a_learned_scorer_takes_any_policy_and_a_dear_token_shortens_the_way() -> None:
    data = made_outcomes(60).with_models(["generalist", "coder"])
    programs = {n: strategy(DIRECT) for n in data.model_names}
    router = get_router("knn").fit(data)
    free = LearnedScorer(router, Utility())
    dear = LearnedScorer(router, Utility(cost_weight=1e9))
    assert free.key != dear.key
    assert {c.strategy for c in PromptRouter(dear, programs).choose(data.texts)} == {"coder"}
    assert {c.strategy for c in PromptRouter(free, programs).choose(data.texts)} == set(programs)


def test_what_no_strategy_answers_is_an_error() -> None:
    with pytest.raises(RouterError, match=r"chose the strategy 'x'.*direct-code"):
        PromptRouter(RuleScorer("r", lambda t: "x")).choose([TASK])
    data = made_outcomes(60)
    shy = LearnedScorer(get_router("knn").fit(data), Abstain(max_std=1e-9))
    with pytest.raises(RouterError, match="without a strategy"):
        shy.choose(["hello"])
    with pytest.raises(RouterError, match="samples is 0"):
        PromptRouter(RuleScorer("r", lambda t: DIRECT)).answer(TASK, CODER, samples=0)


def test_pass_at_k_is_the_share_of_samples_of_k_that_hold_a_right_one() -> None:
    for n in range(1, 9):
        for k in range(1, n + 1):
            expected = [float(1 - Fraction(comb(n - c, k), comb(n, k))) for c in range(n + 1)]
            np.testing.assert_allclose(pass_at_k(n, np.arange(n + 1), k), expected, atol=1e-12)
        assert pass_at_k(n, np.arange(n + 1), n).tolist() == [0.0] + [1.0] * n


def test_pass_at_k_rises_with_k_and_refuses_what_cannot_be() -> None:
    made = [pass_at_k(20, 3, k) for k in range(1, 21)]
    assert (np.diff(made) >= 0).all()
    assert pass_at_k(20, 0, 7) == 0.0
    for n, c, k in ((5, 6, 1), (5, -1, 1), (5, 2, 6), (5, 2, 0), (5, float("nan"), 1)):
        with pytest.raises(RouterError, match="expected 1 <= k"):
            pass_at_k(n, c, k)


def test_labels_that_begin_each_other_are_told_apart() -> None:
    asker = LabelAsker(judge(""), ["code", "code review", "other"])
    assert asker.parse("code review, please") == ("code review", ", please")
    assert asker.parse("Code.")[0] == "code"
    assert asker.parse("codes")[0] is None
    with pytest.raises(RouterError, match="different, non-empty"):
        LabelAsker(judge(""), ["a", "a"])


POLICIES = {"code": "writing or repairing programs", "travel": "trips and places"}
TARGETS = {"code": "big", "travel": "small", "other": "small"}
TALK = [{"role": "user", "content": "Fix this loop."}]


def test_a_policy_is_chosen_by_its_probability_and_mapped_by_a_table_of_its_own() -> None:
    def scores(messages: Sequence[Message], labels: Sequence[str]) -> list[float]:
        return [2.0 if label == "code" else 0.0 for label in labels]

    router = ArchRouter(ProgramChatModel("a", lambda m: "", scores=scores), POLICIES, TARGETS)
    match = router.choose(TALK)
    assert (match.policy, match.target) == ("code", "big")
    assert sum(match.probabilities.values()) == pytest.approx(1.0)
    assert list(match.probabilities) == ["code", "travel", "other"]
    router.targets["code"] = "newer"
    assert router.choose(TALK).target == "newer"
    assert "Fix this loop." in router.prompt(TALK)
    assert all(text in router.prompt(TALK) for text in POLICIES.values())


def test_what_names_no_policy_is_other_and_a_table_must_be_whole() -> None:
    router = ArchRouter(judge("I think code"), POLICIES, TARGETS, by="text")
    assert router.choose(TALK).policy == "other"
    with pytest.raises(RouterError, match="empty"):
        router.choose([])
    with pytest.raises(RouterError, match=r"\['other'\] have no target"):
        ArchRouter(judge(""), POLICIES, {"code": "a", "travel": "b"})
    with pytest.raises(RouterError, match="none of them 'other'"):
        ArchRouter(judge(""), {"other": "x"}, TARGETS)


def test_descriptions_are_read_and_a_reply_without_a_name_falls_back() -> None:
    pool = {"small": "cheap", "large": "strong"}
    assert DescriptionRouter(judge("large"), pool, otherwise="small").choose("q").target == "large"
    lost = DescriptionRouter(judge("hm"), pool, otherwise="small").choose("q")
    assert (lost.target, lost.fallback) == ("small", True)
    assert isnan(LabelAsker(_Unpriced(), ["a"], by="log-probabilities").ask(TALK).cost_usd)
    with pytest.raises(RouterError, match="otherwise"):
        DescriptionRouter(judge(""), pool, otherwise="huge")


def test_shuffled_descriptions_come_in_the_same_order_for_the_same_query() -> None:
    pool = {f"m{i}": "x" for i in range(6)}
    router = DescriptionRouter(judge("m1"), pool, otherwise="m0", shuffled=True, seed=4)
    prompts = {router.prompt(f"q{i}").replace(f"q{i}", "") for i in range(8)}
    assert len(prompts) > 1
    assert router.prompt("q") == router.prompt("q")


class _Unpriced(ProgramChatModel):
    """A model that scores labels and has no prices."""

    def __init__(self) -> None:
        super().__init__("u", lambda m: "", scores=lambda m, labels: [0.0] * len(labels))
        del self.price_in_per_mtok, self.price_out_per_mtok
