"""The recurrent router: its cell, what flows up through the layers, and what is registered once."""

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from wye.moe import Context, LanguageModel, MoEError, Shape, build_layers, get_router
from wye.moe.parts.recurrent import DepthCell, RecurrentScores

pytestmark = pytest.mark.torch
SHAPE = Shape(n_layers=3, width=12, hidden=8, n_experts=5, k=2)
LINE = Context(batch=1, length=9)


def scores_of(layers: list[Any]) -> list[RecurrentScores]:
    return [layer.router.scores for layer in layers]


def lively(module: Any, seed: int = 0) -> None:
    """Weights large enough for gates to move."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.6)


def layers_of(**options: Any) -> list[Any]:
    layers = build_layers("layerwise-recurrent-router", SHAPE, cell_width=6, **options)
    for i, layer in enumerate(layers):
        lively(layer, i)
    return layers


def climb(layers: list[Any], x: Any) -> list[Any]:
    """What every layer's scores give, the state handed on; every layer reads the same x."""
    found, state = [], None
    for scores in scores_of(layers):
        found.append(scores(x, Context(batch=1, length=x.shape[0], state=state)))
        state = found[-1].state
    return found


@pytest.mark.parametrize(
    ("kind", "peer"),
    [("gru", torch.nn.GRUCell), ("rnn", torch.nn.RNNCell), ("lstm", torch.nn.LSTMCell)],
)
def test_the_cell_equals_that_of_torch_with_the_same_weights(kind: Any, peer: Any) -> None:
    cell, theirs = DepthCell(6, kind=kind), peer(6, 6)
    lively(theirs)
    cell.load_state_dict(theirs.state_dict())
    u, memory = torch.randn(7, 6), torch.randn(7, cell.memory)
    out, after = cell(u, memory)
    if kind == "lstm":
        h, c = theirs(u, tuple(memory.split(6, dim=1)))
        torch.testing.assert_close(after, torch.cat([h, c], dim=1), atol=1e-6, rtol=0)
    else:
        h = theirs(u, memory)
        torch.testing.assert_close(after, h, atol=1e-6, rtol=0)
    torch.testing.assert_close(out, h, atol=1e-6, rtol=0)


def test_the_logits_are_the_equations_of_the_paper() -> None:
    layers = layers_of()
    x = torch.randn(9, 12)
    cell = scores_of(layers)[0].cell
    w_ir, w_iz, w_in = cell.weight_ih.chunk(3)
    w_hr, w_hz, w_hn = cell.weight_hh.chunk(3)
    b_ir, b_iz, b_in = cell.bias_ih.chunk(3)
    b_hr, b_hz, b_hn = cell.bias_hh.chunk(3)
    s = torch.zeros(9, 6)
    for scores, found in zip(scores_of(layers), climb(layers, x), strict=True):
        u = x @ scores.projection.T
        r = torch.sigmoid(u @ w_ir.T + b_ir + s @ w_hr.T + b_hr)
        z = torch.sigmoid(u @ w_iz.T + b_iz + s @ w_hz.T + b_hz)
        n = torch.tanh(u @ w_in.T + b_in + r * (s @ w_hn.T + b_hn))
        s = (1 - z) * n + z * s
        torch.testing.assert_close(found.logits, s @ scores.head.T, atol=1e-5, rtol=1e-5)


def test_without_a_passed_state_the_layers_below_do_not_matter() -> None:
    x = torch.randn(9, 12)
    for passes in (False, True):
        layers = layers_of(pass_state=passes)
        upright = climb(layers, x)[2].logits
        swapped = climb([layers[1], layers[0], layers[2]], x)[2].logits
        assert torch.equal(upright, swapped) == (not passes)


def test_without_hidden_weights_the_state_still_passes_through_the_update_gate() -> None:
    layers = layers_of()
    cell = scores_of(layers)[0].cell
    with torch.no_grad():
        cell.weight_hh.zero_()
        cell.bias_hh.zero_()
    top = scores_of(layers)[1]
    x, below = torch.randn(9, 12), torch.randn(9, 6)

    def logits(state: Any) -> Any:
        return top(x, Context(batch=1, length=9, state=state)).logits

    assert not torch.allclose(logits(below), logits(-below))
    with torch.no_grad():
        cell.bias_ih[6:12] = -1e4  # z = sigmoid(...) is 0
    u = x @ top.projection.T
    expected = torch.tanh(u @ cell.weight_ih[12:].T + cell.bias_ih[12:]) @ top.head.T
    torch.testing.assert_close(logits(below), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(logits(-below), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("detach", [False, True])
def test_the_gradient_reaches_the_layer_below_unless_detached(detach: bool) -> None:
    layers = layers_of(detach_state=detach)
    below, above = scores_of(layers)[:2]
    x = torch.randn(9, 12)
    state = below(x, LINE).state
    above(x, Context(batch=1, length=9, state=state)).logits.square().sum().backward()
    if detach:
        assert below.projection.grad is None
    else:
        assert float(below.projection.grad.abs().max()) > 0
    assert float(above.projection.grad.abs().max()) > 0


def test_residual_logits_add_the_softmax_of_the_layer_below() -> None:
    x = torch.randn(9, 12)
    plain, residual = climb(layers_of(), x), climb(layers_of(residual_logits=0.7), x)
    torch.testing.assert_close(plain[0].logits, residual[0].logits)
    for i in (1, 2):
        below = torch.softmax(residual[i - 1].logits, dim=1)
        torch.testing.assert_close(residual[i].logits, plain[i].logits + 0.7 * below)


def test_one_cell_is_shared_and_registered_once() -> None:
    layers = build_layers("layerwise-recurrent-router", SHAPE, cell_width=6)
    assert len({id(s.cell) for s in scores_of(layers)}) == 1
    model = LanguageModel(layers, width=12, length=8, n_heads=2)
    cells = [name for name in model.state_dict() if name.endswith("weight_hh")]
    assert len(cells) == 1
    per_layer = 6 * 12 + 5 * 6
    routers = sum(p.numel() for layer in layers for p in layer.router.parameters())
    assert routers == 3 * per_layer + 2 * (18 * 6 + 18)
    other = copy.deepcopy(model)
    cell = scores_of([b.feed_forward for b in other.blocks])
    assert cell[1].cell is cell[0].cell
    assert cell[0].cell is not scores_of(layers)[0].cell


def test_a_model_hands_the_state_up_and_it_stays_with_its_token() -> None:
    layers = layers_of()
    model = LanguageModel(layers, width=12, length=8, n_heads=2).eval()
    ids = torch.randint(0, 256, (3, 8))
    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[1, 5:] = False
    padded = model(ids, mask=mask)
    logits = [layer.last.logits for layer in layers]
    alone = model(ids[1:2, :5])
    torch.testing.assert_close(padded[1, :5], alone[0], atol=1e-5, rtol=1e-4)
    for whole, layer in zip(logits, layers, strict=True):
        torch.testing.assert_close(whole[8:13], layer.last.logits, atol=1e-5, rtol=1e-4)
    # The state mattered: without it the upper layers score otherwise.
    for scores in scores_of(layers):
        scores.pass_state = False
    model(ids, mask=mask)
    assert torch.equal(layers[0].last.logits, logits[0])
    assert not torch.allclose(layers[2].last.logits, logits[2])


def test_the_cell_computes_in_float32_whatever_the_model_does() -> None:
    layers = layers_of()
    scores = scores_of(layers)[0]
    x = torch.randn(9, 12).bfloat16()
    for module in (scores, copy.deepcopy(scores).bfloat16()):
        scored = module(x, LINE)
        assert scored.logits.dtype == torch.float32
        assert scored.state.dtype == torch.float32


def test_fine_tuning_freezes_head_and_cell() -> None:
    first, second = scores_of(layers_of())[:2]
    first.freeze(cell=False)
    assert not first.head.requires_grad
    assert first.cell.weight_hh.requires_grad
    second.freeze()
    assert not any(p.requires_grad for p in first.cell.parameters())
    assert second.projection.requires_grad


def test_a_dense_layer_between_routed_ones_does_not_advance_the_state() -> None:
    from wye.moe import FeedForward

    layers = layers_of()
    dense = FeedForward(12, 8)
    with torch.no_grad():
        dense.down.zero_()
    ids = torch.randint(0, 256, (2, 6))
    torch.manual_seed(0)
    model = LanguageModel([layers[0], dense, layers[1]], width=12, length=8, n_heads=2).eval()
    model.blocks[1].attention.output.weight.data.zero_()
    model(ids)
    between = layers[1].last.logits
    shorter = copy.deepcopy(model)
    del shorter.blocks[1]
    shorter(ids)
    torch.testing.assert_close(shorter.blocks[1].feed_forward.last.logits, between)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(MoEError, match="expected one of"):
        DepthCell(4, kind="tanh")  # type: ignore[arg-type]
    with pytest.raises(MoEError, match="at least 1"):
        DepthCell(0)
    router = get_router("layerwise_recurrent_router", 12, 5, cell_width=6)
    with pytest.raises(MoEError, match="must share one cell"):
        router(torch.randn(9, 12), Context(batch=1, length=9, state=torch.zeros(9, 7)))


def test_gates_are_shares_of_the_softmax_over_the_logits() -> None:
    layer = layers_of()[0]
    routing = layer.eval().router(torch.randn(9, 12), LINE)
    kept = F.softmax(routing.logits, dim=1).topk(2, dim=1).values
    expected = kept / kept.sum(dim=1, keepdim=True)
    torch.testing.assert_close(routing.plan.weight.reshape(9, 2), expected)
