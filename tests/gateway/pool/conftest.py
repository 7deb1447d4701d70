"""The real embedded model, started once."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from wye.gateway.pool import EmbeddedModel, WeightsError, weights


@pytest.fixture(scope="session")
def gguf() -> Path:
    """The weights; a test that needs them skips where the machine cannot run the model."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed: it comes with the extra `local`")
    try:
        return weights.locate()
    except WeightsError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def model(gguf: Path) -> Iterator[EmbeddedModel]:
    # A slot for each strategy's prompt, so that it is read once in the session.
    with EmbeddedModel(gguf, slots=8, context=1024, threads=1) as running:
        yield running
