"""The same tests on every array library."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Convert = Callable[[Any], Any]


@pytest.fixture(
    params=["numpy", "array_api_strict", pytest.param("torch", marks=pytest.mark.torch)]
)
def to_array(request: pytest.FixtureRequest) -> Convert:
    """A function from NumPy values to arrays of one library."""
    if request.param == "numpy":
        return np.asarray
    library = pytest.importorskip(request.param)
    if request.param == "torch":
        return lambda values: library.from_numpy(np.array(values))
    return lambda values: library.asarray(np.asarray(values))
