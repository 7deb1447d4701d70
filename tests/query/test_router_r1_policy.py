"""A Hugging Face model as the policy of Router-R1: turns end at their tags, training moves it."""

from __future__ import annotations

from typing import Any

import pytest

from wye.query.base import RouterError
from wye.query.chat_models import ProgramChatModel
from wye.query.router_r1.reward import EpisodeReward
from wye.query.router_r1.router import MultiRoundRouter, PoolModel

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

WORDS = ["?", "<think>", "</think>", "<search>", "</search>", "<information>", "</information>",
         "<answer>", "</answer>", "north", ":", "who", "Ann", "hm", "None"]  # fmt: skip


def small() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    base = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="?"))
    base.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        eos_token_id=None,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config), PreTrainedTokenizerFast(tokenizer_object=base, unk_token="?")


def test_a_turn_ends_at_its_tag_and_a_seed_repeats_it() -> None:
    from wye.query.router_r1.policy import TransformersPolicy

    model, tokenizer = small()
    before = torch.random.get_rng_state()
    texts = [
        TransformersPolicy(model, tokenizer, max_tokens=30, seed=2)(["who"] * 6) for _ in range(2)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1
    for text in texts[0]:
        ends = text.count("</search>") + text.count("</answer>")
        assert ends <= 1
        assert not ends or text.endswith(("</search>", "</answer>"))
        assert ends or len(text.split()) == 30
    assert torch.equal(before, torch.random.get_rng_state())


def test_episodes_of_a_hugging_face_policy_train_it_and_its_critic() -> None:
    from wye.query.router_r1.policy import TransformersPolicy, critic_of
    from wye.query.router_r1.training import PolicyTrainer, Settings

    model, tokenizer = small()
    policy = TransformersPolicy(model, tokenizer, max_tokens=8)
    pool = [PoolModel("north", ProgramChatModel("n", lambda m: "Ann"), "", 1.0)]
    router = MultiRoundRouter(policy, pool, max_turns=1, prompt=lambda question, pool: question)
    critic = critic_of(model)
    assert (critic(torch.zeros((1, 3), dtype=torch.int64)) == 0).all()
    rates = Settings(actor_rate=1e-2, critic_rate=1e-2, minibatch=4)
    trainer = PolicyTrainer(policy, critic, settings=rates)
    episodes = router.episodes(["who"] * 4)
    rewards = EpisodeReward().learn(episodes, [["Ann"]] * 4)
    first = trainer.step(episodes, rewards)
    second = trainer.step(episodes, rewards)
    assert first["kl"] == pytest.approx(0.0, abs=1e-6)
    assert second["kl"] != first["kl"]
    assert second["value loss"] < first["value loss"]


def test_numbers_out_of_range_are_refused() -> None:
    from wye.query.router_r1.policy import TransformersPolicy

    with pytest.raises(RouterError, match="max_tokens=0"):
        TransformersPolicy(None, None, max_tokens=0)
