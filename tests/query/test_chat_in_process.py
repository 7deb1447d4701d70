"""Chat models in this process: a program, and a transformer against its own probabilities."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from wye.query.chat_models import ProgramChatModel, TransformersChatModel
from wye.query.chat_models.base import ChatModelError

ASK = [{"role": "user", "content": "b a c"}]
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


def test_a_program_answers_and_its_words_are_counted() -> None:
    model = ProgramChatModel(
        "reverse",
        lambda messages: messages[-1]["content"][::-1],
        price_in_per_mtok=1e6,
        price_out_per_mtok=1e6,
    )
    made = model.generate(ASK)
    assert made.text == "c a b"
    assert (made.input_tokens, made.output_tokens, made.cost_usd) == (3, 3, 6.0)
    cut = model.generate(ASK, max_tokens=2)
    assert (cut.text, cut.output_tokens, cut.finish_reason) == ("c a", 2, "length")
    assert model.generate(ASK, stop=[" b"]).text == "c a"


def test_a_program_that_fails_or_gives_no_text_says_so() -> None:
    with pytest.raises(ChatModelError, match="broken failed: ZeroDivisionError"):
        ProgramChatModel("broken", lambda m: str(1 // 0)).generate(ASK)
    with pytest.raises(ChatModelError, match="gave 3, expected a string"):
        ProgramChatModel("number", lambda m: 3).generate(ASK)  # type: ignore[arg-type,return-value]
    with pytest.raises(ChatModelError, match="does not score"):
        ProgramChatModel("mute", lambda m: "").label_log_probabilities(ASK, ["a", "b"])


def test_a_judging_program_is_normalised() -> None:
    model = ProgramChatModel("judge", lambda m: "", scores=lambda m, labels: [0.0, np.log(3)])
    np.testing.assert_allclose(np.exp(model.label_log_probabilities(ASK, ["a", "b"])), [0.25, 0.75])
    with pytest.raises(ChatModelError, match="expected 3 finite"):
        model.label_log_probabilities(ASK, ["a", "b", "c"])


@lru_cache(maxsize=1)
def tiny() -> Any:
    """A random two-layer Llama over nine words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {w: i for i, w in enumerate(["<end>", "a", "b", "c", "d", "e", "f", "g", "?"])}
    base = Tokenizer(models.WordLevel(words, unk_token="?"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base, eos_token="<end>", unk_token="?", chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=9,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        eos_token_id=0,
        bos_token_id=None,
        pad_token_id=None,
        initializer_range=0.6,
    )
    return LlamaForCausalLM(config).eval(), tokenizer


def log_probabilities_of(ids: list[int]) -> np.ndarray[Any, Any]:
    """`[S - 1, V]` of each next token, one forward pass per prefix."""
    import torch

    model, _ = tiny()
    rows = []
    with torch.no_grad():
        for end in range(1, len(ids)):
            logits = model(torch.tensor([ids[:end]])).logits[0, -1].double()
            rows.append(torch.log_softmax(logits, -1).numpy())
    return np.array(rows)


@pytest.mark.torch
class TestTransformers:
    @pytest.mark.parametrize("remembers", [True, False])
    def test_labels_of_unequal_length_get_their_exact_probability(
        self, remembers: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from transformers import Cache

        if not remembers:
            monkeypatch.delattr(Cache, "batch_repeat_interleave")
        chat = TransformersChatModel(*tiny())
        labels = ["d", "e f g", "g a"]
        expected = []
        for label in labels:
            ids = tiny()[1]("b a c " + label)["input_ids"]
            steps = log_probabilities_of(ids)[2:]
            expected.append(sum(steps[i][t] for i, t in enumerate(ids[3:])))
        np.testing.assert_allclose(
            np.exp(chat.label_log_probabilities(ASK, labels)),
            np.exp(expected) / np.exp(expected).sum(),
            rtol=1e-5,
        )

    def test_greedy_takes_the_most_probable_token_and_says_how_probable(self) -> None:
        made = TransformersChatModel(*tiny()).generate(ASK, max_tokens=6)
        assert made.log_probabilities is not None
        assert made.runner_up is not None
        ids = tiny()[1]("b a c " + made.text)["input_ids"]
        steps = log_probabilities_of([*ids, 0])[2:]
        ordered = np.sort(steps, axis=1)[: made.output_tokens]
        np.testing.assert_allclose(made.log_probabilities, ordered[:, -1], atol=1e-5)
        np.testing.assert_allclose(made.runner_up, ordered[:, -2], atol=1e-5)

    def test_the_same_seed_draws_the_same_and_leaves_the_global_generator_alone(self) -> None:
        import torch

        chat = TransformersChatModel(*tiny())
        torch.manual_seed(5)
        before = torch.random.get_rng_state()
        drawn = [chat.generate(ASK, max_tokens=9, temperature=9.0, seed=s).text for s in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]
        assert torch.equal(before, torch.random.get_rng_state())

    def test_an_answer_ends_before_a_stop_string(self) -> None:
        chat = TransformersChatModel(*tiny())
        whole = chat.generate(ASK, max_tokens=6)
        last = whole.text.split()[2]
        cut = chat.generate(ASK, max_tokens=6, stop=[last])
        assert cut.text.strip() == whole.text[: whole.text.find(last)].strip()
        assert cut.finish_reason == "stop"
        assert cut.output_tokens < whole.output_tokens

    def test_the_context_is_never_overrun(self) -> None:
        chat = TransformersChatModel(*tiny())
        long = [{"role": "user", "content": "a " * 22}]
        assert chat.generate(long, max_tokens=9).output_tokens <= 2
        with pytest.raises(ChatModelError, match=r"25 tokens and .* reads 24"):
            chat.generate([{"role": "user", "content": "a " * 25}])
        with pytest.raises(ChatModelError, match="reads 24"):
            chat.label_log_probabilities(long, ["a b c"])

    def test_a_tokenizer_without_template_and_an_unknown_name_are_refused(self) -> None:
        from transformers import PreTrainedTokenizerFast

        model, tokenizer = tiny()
        plain = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
        with pytest.raises(ChatModelError, match="no chat template"):
            TransformersChatModel(model, plain)
        with pytest.raises(ChatModelError, match=r"loaded from '\./nothing'"):
            TransformersChatModel.from_pretrained("./nothing")
