"""Dense decoders of any make become mixtures that start where the dense model stands."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import wye
from wye.attachment import AttachError
from wye.moe import MoEError, aux_loss, routed_layers

pytestmark = pytest.mark.torch

DENSE = ["llama", "llama with biases", "qwen2", "gemma", "phi3", "gpt2", "gpt_neox"]
Build = Callable[..., Any]


@pytest.mark.parametrize("options", [{}, {"slices": 4}, {"experts": 3, "k": 1, "router": "top_k"}])
@pytest.mark.parametrize("name", DENSE)
def test_at_step_zero_it_is_the_dense_model(
    build: Build, ids: Tensor, mask: Tensor, name: str, options: dict[str, Any]
) -> None:
    dense = build(name)
    given = {"experts": 4, "k": 2, **options}
    if given["k"] == 1:
        given["normalise"] = True
    model = wye.attach(copy.deepcopy(dense), **given)
    assert len(routed_layers(model)) == 3
    made = model(ids, attention_mask=mask).logits
    expected = dense(ids, attention_mask=mask).logits
    real = mask.bool()
    torch.testing.assert_close(made[real], expected[real], atol=2e-5, rtol=1e-5)
    options = {"max_new_tokens": 4, "do_sample": False, "attention_mask": mask}
    assert torch.equal(model.generate(ids, **options), dense.generate(ids, **options))


def test_the_experts_learn_and_the_dense_weights_stay(build: Build, ids: Tensor) -> None:
    model = wye.attach(build("llama"), "switch", experts=4, k=2, layers=[1], noise=0.01).train()
    dense = {n: p.clone() for n, p in model.named_parameters() if "layers.1.mlp.gate_proj" in n}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert float(aux_loss(model)) > 0
    assert all(torch.equal(dict(model.named_parameters())[n], p) for n, p in dense.items())
    experts = model.model.layers[1].mlp.wye.experts
    assert not torch.allclose(experts.up[0], experts.up[1])


def test_detaching_brings_back_the_dense_model(build: Build, ids: Tensor) -> None:
    model = build("gpt2")
    expected, layout = model(ids).logits, str(model)
    wye.attach(model, experts=4, layers=[-1], reinitialise=0.5)
    assert not torch.equal(model(ids).logits, expected)
    wye.detach(model)
    assert torch.equal(model(ids).logits, expected)
    assert str(model) == layout
    assert all(p.requires_grad for p in model.parameters())


def test_dropout_of_the_dense_network_stays(build: Build, ids: Tensor) -> None:
    model = build("gpt2", resid_pdrop=0.5, attn_pdrop=0.0, embd_pdrop=0.0)
    wye.attach(model, experts=2, layers=[0])
    x = torch.randn(1, 200, 32)
    made = model.transformer.h[0].mlp.train()(x)
    # 6,400 draws of a half: five standard errors are 0.031.
    assert abs(float((made == 0).float().mean()) - 0.5) < 0.035


def test_the_dense_model_is_saved_and_loaded_as_ever(
    build: Build, ids: Tensor, tmp_path: Any
) -> None:
    model = build("llama")
    expected = model(ids).logits
    wye.attach(model, experts=4, noise=1.0)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_a_mixture_s_dense_layer_can_be_upcycled_too(build: Build, ids: Tensor) -> None:
    model = build("deepseek_v3")
    expected = model(ids).logits
    wye.attach(model, experts=4, layers=[0])
    torch.testing.assert_close(model(ids).logits, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("llama", {}, "experts=..."),
        ("llama", {"experts": 0}, "expected"),
        ("llama", {"experts": 2, "k": 3}, "k=3"),
        ("llama", {"experts": 2, "slices": 5}, "divisor of 48"),
        ("llama", {"experts": 2, "router": "own"}, "dense"),
        ("llama", {"experts": 2, "layers": [7]}, "layers"),
        ("bloom", {"experts": 2}, "residual"),
        ("mixtral", {"experts": 2}, "feed-forward networks"),
    ],
)
def test_what_cannot_be_upcycled_is_refused_and_leaves_the_model_alone(
    build: Build, name: str, options: dict[str, Any], message: str
) -> None:
    model = build(name)
    layout, implementation = str(model), model.config._experts_implementation
    with pytest.raises(MoEError, match=message):
        wye.attach(model, **options)
    assert str(model) == layout
    assert model.config._experts_implementation == implementation
    with pytest.raises(AttachError, match="attach"):
        wye.detach(model)
