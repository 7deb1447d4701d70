"""The language model: causal, blind to padding, and it tells its routers what they ask for."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from wye.core import SelectionError
from wye.moe import (
    ComposedRouter,
    Experts,
    FeedForward,
    Gate,
    LanguageModel,
    LinearScores,
    LossFreeBias,
    MoEError,
    MoELayer,
    Shape,
    TopK,
    ZLoss,
    load_language_model,
    routed_layers,
)

pytestmark = pytest.mark.torch

SHAPE = Shape(n_layers=2, width=16, hidden=8, n_experts=4, k=2)


def ids_of(batch, length, seed=0):
    return torch.randint(0, 256, (batch, length), generator=torch.Generator().manual_seed(seed))


def small(**changes):
    torch.manual_seed(0)
    return LanguageModel.build("top_k", SHAPE, **{"length": 12, "n_heads": 2, **changes})


class Curious(ComposedRouter):
    """Keeps the context that it was given, and hands a state up."""

    def __init__(self, *, attention=False, state=False):
        super().__init__(
            16, LinearScores(16, 4), gate=Gate(normalise=True), selection=TopK(2), balance=[]
        )
        self.needs_attention, self.hands_up = attention, state
        self.seen = None

    def forward(self, x_SD, context):
        self.seen = context
        routing = super().forward(x_SD, context)
        if not self.hands_up:
            return routing
        before = torch.zeros(len(x_SD), 1) if context.state is None else context.state
        return replace(routing, state=before + 1)


def curious(n=1, dense_at=(), **flags):
    torch.manual_seed(0)
    layers = [
        FeedForward(16, 8) if i in dense_at else MoELayer(Curious(**flags), Experts(4, 16, 8))
        for i in range(n)
    ]
    return LanguageModel(layers, width=16, length=12, n_heads=2).eval()


def test_a_causal_model_sees_no_later_token_and_another_does():
    ids = ids_of(2, 10)
    other = ids.clone()
    other[:, 6:] = (other[:, 6:] + 7) % 256
    causal, both_ways = small().eval(), small(causal=False).eval()
    assert torch.allclose(causal(ids)[:, :6], causal(other)[:, :6], atol=1e-6)
    assert not torch.allclose(both_ways(ids)[:, :6], both_ways(other)[:, :6], atol=1e-3)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_no_token(causal, side):
    model = small(causal=causal).eval()
    ids = ids_of(3, 8)
    extra = ids_of(3, 4, seed=1)
    real, pad = torch.ones(3, 8, dtype=torch.bool), torch.zeros(3, 4, dtype=torch.bool)
    order = (extra, ids), (pad, real)
    if side == "right":
        order = (ids, extra), (real, pad)
    padded, mask = (torch.cat(parts, dim=1) for parts in order)
    assert torch.allclose(model(padded, mask=mask)[mask], model(ids).flatten(0, 1), atol=1e-5)


def test_a_batch_of_padding_alone_gives_finite_logits():
    logits = small().eval()(ids_of(2, 5), mask=torch.zeros(2, 5))
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (1, 1)])
def test_empty_and_single_inputs_have_logits_of_their_shape(shape):
    assert small().eval()(ids_of(*shape)).shape == (*shape, 256)


def test_attention_equals_a_loop_over_pairs_of_positions():
    model = small()
    attention = model.blocks[0].attention
    x = torch.randn(1, 6, 16)
    q, k, v = attention.input(x)[0].reshape(6, 3, 2, 8).unbind(1)
    expected = torch.zeros(6, 2, 8)
    rates = [10_000.0 ** (-2 * i / 8) for i in range(4)]
    for head in range(2):
        for t in range(6):
            scores = []
            for s in range(t + 1):
                score = 0.0
                for i, rate in enumerate(rates):
                    # Two vectors turned by t and s meet at an angle of t - s.
                    a, b = q[t, head, [i, i + 4]], k[s, head, [i, i + 4]]
                    cos, sin = math.cos((t - s) * rate), math.sin((t - s) * rate)
                    score += (a[0] * b[0] + a[1] * b[1]) * cos + (a[0] * b[1] - a[1] * b[0]) * sin
                scores.append(score / math.sqrt(8))
            weights = torch.softmax(torch.stack(scores), dim=0)
            expected[t, head] = weights @ v[: t + 1, head]
    y, _ = attention(x, model.turns[:6], None, False)
    assert torch.allclose(y[0], attention.output(expected.flatten(1)), atol=1e-5)


def test_a_router_that_needs_attention_gets_it_and_the_others_do_not():
    asking, silent = curious(attention=True), curious()
    silent.load_state_dict(asking.state_dict())
    ids = ids_of(2, 7)
    assert torch.allclose(asking(ids), silent(ids), atol=1e-5)
    attention = asking.blocks[0].feed_forward.router.seen.attention
    assert attention.shape == (2, 2, 7, 7)
    assert torch.allclose(attention.sum(-1), torch.ones(2, 2, 7), atol=1e-6)
    assert bool((attention.triu(1) == 0).all())
    assert silent.blocks[0].feed_forward.router.seen.attention is None


def test_no_attention_goes_to_padding():
    model = curious(attention=True)
    mask = torch.ones(1, 6, dtype=torch.bool)
    mask[0, :2] = False
    model(ids_of(1, 6), mask=mask)
    attention = model.blocks[0].feed_forward.router.seen.attention
    assert bool((attention[0, :, 2:, :2] == 0).all())


def test_routers_are_told_ids_labels_and_mask_ratio_of_the_tokens_they_get():
    model = curious()
    ids, mask = ids_of(2, 5), torch.ones(2, 5)
    mask[1, 3:] = 0
    labels, ratio = torch.tensor([1, 2]), torch.tensor([0.5, 0.25])
    model(ids, mask=mask, labels=labels, mask_ratio=ratio)
    seen = model.blocks[0].feed_forward.router.seen
    assert seen.token_ids.tolist() == ids[mask.bool()].tolist()
    assert seen.labels is labels
    assert seen.mask_ratio is ratio


class Summing(nn.Module):
    """Adds to every token the sum of those that are no padding."""

    takes_mask = True

    def forward(self, x, *, mask=None):
        kept = x if mask is None else x * mask[..., None]
        return kept.sum(dim=1, keepdim=True).expand_as(x)


def test_modules_that_mix_tokens_are_told_of_padding():
    torch.manual_seed(0)
    model = LanguageModel([Summing()], width=16, length=12, n_heads=2, causal=False).eval()
    ids = ids_of(1, 8)
    mask = torch.ones(1, 8)
    mask[0, 5:] = 0
    assert torch.allclose(model(ids, mask=mask)[:, :5], model(ids[:, :5]), atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_state_goes_up_from_routed_layer_to_routed_layer_past_dense_ones(padded):
    model = curious(4, dense_at=(1,), state=True)
    mask = torch.ones(2, 5)
    mask[0, 4] = 0
    model(ids_of(2, 5), mask=mask if padded else None)
    routers = [b.feed_forward.router for b in model.blocks if hasattr(b.feed_forward, "router")]
    assert routers[0].seen.state is None
    assert [float(r.seen.state.mean()) for r in routers[1:]] == [1.0, 2.0]
    assert routers[2].seen.state.shape == (9 if padded else 10, 1)


def test_checkpointing_changes_neither_gradients_nor_counts():
    torch.manual_seed(0)
    layers = [
        MoELayer(
            ComposedRouter(
                16,
                LinearScores(16, 4),
                gate=Gate(),
                selection=TopK(2),
                balance=[LossFreeBias(4), ZLoss(0.1)],
            ),
            Experts(4, 16, 8),
        )
        for _ in range(2)
    ]
    gradients, loads = [], []
    for checkpointing in (False, True):
        model = LanguageModel(layers, width=16, length=12, n_heads=2, checkpointing=checkpointing)
        torch.manual_seed(1)
        for module in (model.embedding, *(b.attention for b in model.blocks)):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.2)
        model.zero_grad()
        model(ids_of(2, 8)).logsumexp(-1).mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
        loads.append([layer.router.balance[0].load.clone() for layer in layers])
        for layer in layers:
            layer.router.after_step()
            layer.router.balance[0].bias_E.zero_()
    for plain, again in zip(*gradients, strict=True):
        assert torch.allclose(plain, again, atol=1e-6)
    for plain, again in zip(*loads, strict=True):
        assert plain.tolist() == again.tolist()
        assert int(plain.sum()) == 2 * 8 * 2


def test_embeddings_are_tied_to_the_output():
    model = LanguageModel([nn.Identity()], width=8, length=4, vocabulary=11, n_heads=2)
    vocabulary_sized = [n for n, p in model.named_parameters() if 11 in p.shape]
    assert vocabulary_sized == ["embedding.weight"]


def test_a_saved_model_comes_back_with_equal_logits(tmp_path):
    model = small(causal=False).eval()
    ids = ids_of(2, 9)
    back = load_language_model(model.save(tmp_path / "model"))
    assert not back.training
    assert not back.causal
    assert torch.equal(back(ids), model(ids))
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "language_model.json",
        "language_model.safetensors",
    ]


def test_a_model_of_own_modules_comes_back_with_modules_of_the_same_kind(tmp_path):
    torch.manual_seed(0)
    model = LanguageModel([FeedForward(16, 8)], width=16, length=6).eval()
    model.save(tmp_path)
    with pytest.raises(MoEError, match="pass the same as feed_forwards"):
        load_language_model(tmp_path)
    back = load_language_model(tmp_path, feed_forwards=[FeedForward(16, 8)])
    assert torch.equal(back(ids_of(1, 6)), model(ids_of(1, 6)))
    with pytest.raises(MoEError, match="do not fit the model"):
        load_language_model(tmp_path, feed_forwards=[FeedForward(16, 9)])


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(MoEError, match="holds no saved language model"):
        load_language_model(tmp_path)
    small().save(tmp_path)
    (tmp_path / "language_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(MoEError, match=r"weights in .* do not fit"):
        load_language_model(tmp_path)


def test_options_that_json_cannot_hold_are_refused_when_saving(tmp_path):
    model = small()
    model._recipe["options"] = {"activation": object()}
    with pytest.raises(MoEError, match="cannot be written as JSON"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_heads": 3}, "whole and even"),
        ({"n_heads": 16}, "whole and even"),
        ({"length": 0}, "length=0, expected an integer of at least 1"),
        ({"vocabulary": 2.5}, "vocabulary=2.5"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(MoEError, match=said):
        small(**changes)


def test_bad_inputs_are_refused_with_what_was_expected():
    model = small().eval()
    with pytest.raises(MoEError, match=r"expected \[B, L\] with L <= 12"):
        model(ids_of(1, 13))
    with pytest.raises(MoEError, match=r"expected \[B, L\]"):
        model(ids_of(1, 5)[0])
    with pytest.raises(MoEError, match=r"mask has shape \(1, 4\), expected \(1, 5\)"):
        model(ids_of(1, 5), mask=torch.ones(1, 4))
    with pytest.raises(MoEError, match="feed_forwards is empty"):
        LanguageModel([], width=16, length=4)


def test_nan_weights_are_an_error_and_no_choice():
    model = small().eval()
    with torch.no_grad():
        model.embedding.weight.fill_(float("nan"))
    with pytest.raises(SelectionError, match="NaN"):
        model(ids_of(1, 4))


def test_a_bfloat16_model_gives_bfloat16_logits_and_float32_scores():
    model = small().to(torch.bfloat16).eval()
    assert model(ids_of(2, 6)).dtype == torch.bfloat16
    assert {layer.last.logits.dtype for layer in routed_layers(model).values()} == {torch.float32}
