"""Values of the engine as bytes and back, however numpy happens to hold them."""

from __future__ import annotations

import numpy as np
import pytest

from clockstep_runtime.engine.gather import as_bytes, as_value


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (3, 1, 2, 0), (0, 3, 1, 2), (2, 3, 0, 1)])
def test_bytes_in_any_order_of_memory(width: int, axes: tuple[int, ...]) -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (5, 2, 16, width), np.uint8)
    raw = np.ascontiguousarray(drawn.transpose(axes)).transpose(np.argsort(axes))
    value = as_value(raw)
    assert np.array_equal(value, as_value(drawn))
    assert np.array_equal(as_bytes(value), drawn)
