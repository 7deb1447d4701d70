"""Personas: judged in both orders, distilled where they win, gated where they help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from wye.adapter import AdapterError, BootstrapSettings, PersonaRouter, RuleJudge  # noqa: E402
from wye.adapter.distillation import Distilled, distil, token_divergence  # noqa: E402
from wye.adapter.gated_adapter import GatedAdapter  # noqa: E402
from wye.adapter.judging import SelfJudge, wins_both_orders  # noqa: E402
from wye.adapter.lora_modules import module_tensors  # noqa: E402
from wye.adapter.prompts import answers, log_probability, padded  # noqa: E402
from wye.adapter.query_gate import QueryGate, train_query_gate  # noqa: E402
from wye.adapter.query_token import constant_tail, last_query_token  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`"),
]


class Letters:
    """One id a letter; a prompt is [persona, 40,] query, 41, 42."""

    stop = None
    padding = 0
    tail = 2

    def encode(self, query: str, persona: str | None = None) -> list[int]:
        before = [] if persona is None else [*self.encode_answer(persona), 40]
        return [*before, *self.encode_answer(query), 41, 42]

    def encode_answer(self, text: str) -> list[int]:
        return [1 + (ord(c.lower()) - ord("a")) % 26 for c in text]

    def decode(self, ids: Any) -> str:
        return " ".join(str(i) for i in ids)


FORM = Letters()


@pytest.mark.parametrize(
    ("scores", "wins"),
    [((1.0, -1.0), True), ((1.0, 1.0), False), ((-1.0, 1.0), False), ((1.0, 0.0), False)],
)
def test_a_persona_wins_only_in_both_orders(scores: tuple[float, float], wins: bool) -> None:
    def judge(query: str, first: str, second: str) -> float:
        return scores[0] if first == "new" else scores[1]

    assert wins_both_orders(judge, "q", "new", "old") is wins


def test_the_model_as_judge_compares_its_two_labels(llama: Any) -> None:
    model = llama()
    judge = SelfJudge(model, FORM)
    asked: list[str] = []
    form = Letters()
    form.encode = lambda query, persona=None: asked.append(query) or [3, 4]  # type: ignore[assignment, func-returns-value]
    value = SelfJudge(model, form)("why", "because", "thus")
    with torch.no_grad():
        logs = model(torch.tensor([[3, 4]])).logits[0, -1].log_softmax(0)
    [a], [b] = form.encode_answer("A"), form.encode_answer("B")
    assert value == pytest.approx(float(logs[a] - logs[b]), abs=1e-5)
    assert asked[0].index("because") < asked[0].index("thus")
    assert judge("why", "x", "y") == judge("why", "x", "y")


def test_the_last_query_token_is_found_behind_padding_on_either_side() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 0], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    assert last_query_token(mask, 3, 5).tolist() == [3, 4, 4]
    assert last_query_token(mask, 3, 5, tail=2).tolist() == [1, 2, 2]
    assert last_query_token(None, 2, 5, tail=1).tolist() == [3, 3]
    assert constant_tail(FORM.encode) == FORM.tail
    with pytest.raises(AdapterError, match="two-dimensional"):
        last_query_token(torch.ones(3, 1, 5, 5), 3, 5)


def test_divergence_has_a_direction_and_is_zero_between_equals() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(3, 7, generator=generator), torch.randn(3, 7, generator=generator)
    want = torch.nn.functional.kl_div(
        q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    torch.testing.assert_close(token_divergence(p, q), want)
    torch.testing.assert_close(token_divergence(q, p, "reverse"), want)
    assert float(token_divergence(p, p + 3.0)) == pytest.approx(0.0, abs=1e-6)


def test_distillation_moves_the_adapter_towards_its_persona_and_nothing_else(llama: Any) -> None:
    gated = GatedAdapter(llama(), rank=4, tail=FORM.tail).eval()
    answer = tuple(
        answers(gated.inner, FORM, [FORM.encode("query", "be kind")], max_new_tokens=6)[0]
    )
    item = Distilled(tuple(FORM.encode("query")), tuple(FORM.encode("query", "be kind")), answer)
    before = {k: v.clone() for k, v in gated.state_dict().items() if ".lora_" not in k}
    losses = distil(gated, "persona", [item], steps=15, batch=1, rate=1e-2)
    assert losses[-1] < 0.5 * losses[0]
    after = gated.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert len(module_tensors(gated.inner, "persona")) == 14
    with pytest.raises(AdapterError, match="nothing to distil"):
        distil(gated, "persona", [])


def test_a_gate_learns_a_rare_answer_as_well_as_a_common_one() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = (torch.arange(300) % 15 == 0).float()[:, None]
    states = torch.randn(300, 12, generator=generator) * 5
    states[:, 0] += 40.0 * targets[:, 0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        gate = QueryGate(12, 1)
    train_query_gate(gate, states, targets, seed=0)
    said = gate(states) >= 0.5
    assert float((said == (targets > 0.5))[targets > 0.5].float().mean()) >= 0.9
    assert float((said == (targets > 0.5))[targets < 0.5].float().mean()) >= 0.9


@pytest.mark.parametrize(("value", "word"), [(0.0, "closed"), (1.0, "open")])
def test_targets_that_are_all_the_same_give_a_constant_gate_and_a_warning(
    value: float, word: str
) -> None:
    gate = QueryGate(6, 1)
    states = torch.randn(9, 6)
    with pytest.warns(UserWarning, match=f"constantly {word}"):
        fit = train_query_gate(gate, states, torch.full((9, 1), value))
    assert fit.constant == (0,)
    assert bool(((gate(10 * torch.randn(50, 6)) >= 0.5) == (value > 0.5)).all())


def test_a_gate_refuses_targets_and_states_that_it_cannot_learn() -> None:
    gate = QueryGate(6, 1)
    with pytest.raises(AdapterError, match="other than 0, 1"):
        train_query_gate(gate, torch.randn(4, 6), torch.full((4, 1), 0.5))
    with pytest.raises(AdapterError, match="NaN or infinite"):
        train_query_gate(gate, torch.full((4, 6), torch.nan), torch.ones(4, 1))
    with pytest.raises(AdapterError, match="expected \\[4, 1\\]"):
        train_query_gate(gate, torch.randn(4, 6), torch.ones(4, 2))


SETTINGS = BootstrapSettings(
    max_new_tokens=4, samples=2, temperature=1.0, steps=3, distil_batch=2, gate_epochs=30
)
OPEN = [f"a{c}{d}" for c in "bcdefg" for d in "gh"]
SHUT = [f"z{c}{d}" for c in "bcdefg" for d in "uv"]


def bootstrap(llama: Any, **changes: Any) -> PersonaRouter:
    given: dict[str, Any] = {
        "queries": {"kind": OPEN},
        "retain": SHUT,
        # Whoever answers, the persona is right on queries that begin with "a".
        "judge": FavoursPersona(),
        "settings": SETTINGS,
        "rank": 2,
    }
    return PersonaRouter.bootstrap(llama(), FORM, {"kind": "be kind"}, **(given | changes))


class FavoursPersona:
    """Prefers, on queries that begin with "a", an answer whose ids have the larger sum."""

    def __call__(self, query: str, first: str, second: str) -> float:
        if not query.startswith("a"):
            return 0.0
        return float(sum(map(int, first.split())) - sum(map(int, second.split())))


def test_a_bootstrap_makes_gate_and_adapter_from_the_models_own_answers(
    llama: Any, tmp_path: Path
) -> None:
    router = bootstrap(llama)
    history = router.history
    assert history is not None
    won = [c for c in history.comparisons if c.winner]
    assert won
    assert {c.query[0] for c in won} == {"a"}
    assert all(c.answer != c.plain and c.answer for c in won)
    assert len(history.distillation) == 3
    assert len(history.comparisons) == len(OPEN) + len(SHUT)
    again = bootstrap(llama)
    assert again.history == history
    names = router.decide([*OPEN, *SHUT]).names
    assert again.decide([*OPEN, *SHUT]).names == names
    router.save(tmp_path)
    loaded = PersonaRouter.load(llama(), FORM, tmp_path)
    assert loaded.decide([*OPEN, *SHUT]).names == names
    assert loaded.answer(OPEN[:3], max_new_tokens=4) == router.answer(OPEN[:3], max_new_tokens=4)
    other = Letters()
    other.tail = 1
    with pytest.raises(AdapterError, match="2 tokens after the query"):
        PersonaRouter.load(llama(), other, tmp_path)


def test_where_no_persona_wins_the_base_answers_everything(llama: Any) -> None:
    with pytest.warns(UserWarning, match="constantly closed"):
        router = bootstrap(llama, judge=RuleJudge(lambda query, answer: False))
    assert set(router.decide([*OPEN, *SHUT]).names) == {"base"}
    assert router.history is not None
    assert router.history.distillation == ()


def test_a_bootstrap_without_personas_or_queries_is_refused(llama: Any) -> None:
    with pytest.raises(AdapterError, match="at least one persona"):
        PersonaRouter.bootstrap(llama(), FORM, {})
    with pytest.raises(AdapterError, match="no queries"):
        bootstrap(llama, queries={}, retain=())
    with pytest.raises(AdapterError, match="no personas"):
        bootstrap(llama, queries={"rude": OPEN})


def test_answers_do_not_depend_on_who_shares_the_batch(llama: Any) -> None:
    prompts = [FORM.encode(q) for q in ("short", "a longer query", "mid one")]
    together = answers(llama(), FORM, prompts, max_new_tokens=5)
    alone = [answers(llama(), FORM, [p], max_new_tokens=5)[0] for p in prompts]
    assert together == alone
    ids, mask = padded(prompts, 0)
    assert ids.shape == mask.shape == (3, len(prompts[1]))


def test_log_probability_adds_up_over_the_answer(llama: Any) -> None:
    model = llama()
    with torch.no_grad():
        logs = model(torch.tensor([[1, 2, 3, 4]])).logits.log_softmax(-1)[0]
    want = float(logs[1, 3] + logs[2, 4])
    assert log_probability(model, [1, 2], [3, 4]) == pytest.approx(want, abs=1e-5)
