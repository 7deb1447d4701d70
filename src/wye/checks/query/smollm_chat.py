"""SmolLM2-135M-Instruct in PyTorch as a chat model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wye.checks.moe.smollm import load_smollm, weights_file

if TYPE_CHECKING:
    from wye.query.chat_models import TransformersChatModel


def smollm_chat() -> TransformersChatModel:
    """A new one at every call; loading reads the weights.

    Raises:
        CheckError: transformers, gguf or the weights are missing.
    """
    from wye.query.chat_models import TransformersChatModel

    model = load_smollm()
    file = weights_file()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    return TransformersChatModel(model, tokenizer, "smollm2-135m-instruct")
