"""A real pretrained decoder is upcycled, and is the dense model at step 0."""

from typing import Any

import pytest
import torch
from torch import Tensor

import wye

pytestmark = [pytest.mark.torch, pytest.mark.local]


@pytest.fixture(scope="module")
def model() -> Any:
    pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    from wye.checks.base import CheckError
    from wye.checks.moe.smollm import load_smollm

    try:
        return load_smollm()
    except CheckError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def ids(model: Any) -> Tensor:
    from wye.checks.moe.smollm import tokens_of

    text = "A wye is the junction where one track becomes two. Routing decides which. " * 4
    return tokens_of(text, 40).reshape(2, 20)


@pytest.mark.parametrize("options", [{}, {"slices": 4}])
def test_one_upcycled_layer_leaves_the_logits_as_they_were(
    model: Any, ids: Tensor, options: dict[str, int]
) -> None:
    with torch.no_grad():
        dense = model(ids).logits
        wye.attach(model, experts=4, k=2, layers=[15], **options)
        try:
            assert float((model(ids).logits - dense).abs().max()) < 1e-4
        finally:
            wye.detach(model)
        assert torch.equal(model(ids).logits, dense)
