"""Language models with caches of a fixed size: a prompt, then tokens one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clockstep_isa import load_machine
from tests.support.decoder import Decoder
from tests.support.endtoend import build_session, expected

Array = NDArray[Any]


@pytest.mark.parametrize(
    ("spelling", "precision"), [("genai", "fp16"), ("genai", "exact"), ("opset", "exact")]
)
def test_decoding(spelling: str, precision: str) -> None:
    """Our caches go on to the next step; at each step the logits are those of the reference.

    One program decodes at every place: the place is data.
    """
    decoder = Decoder(spelling, layers=1 if precision == "exact" else 2)
    machine = load_machine("tiny")
    caches: dict[str, Array] = {n: np.zeros(s, np.float32) for n, s in decoder.caches.items()}
    sessions = {
        count: build_session(decoder.model(count), machine, precision=precision) for count in (4, 1)
    }
    tokens, length = np.array([[5, 11, 2, 30]]), 0
    seen = []
    for _ in range(4):
        count = tokens.shape[1]
        length += count
        inputs = {"tokens": tokens, "length": np.array([length]), **caches}
        want = expected(decoder.model(count), inputs)
        have = sessions[count].execute(inputs).outputs
        span = np.abs(want["logits"]).max()
        error = np.abs(have["logits"] - want["logits"]).max()
        assert error <= (3e-6 if precision == "exact" else 1e-2) * span
        caches = {name: np.asarray(have[f"new_{name}"]) for name in caches}
        tokens = want["logits"][:, -1:].argmax(-1)
        seen.append(int(tokens[0, 0]))
    assert len(set(seen)) > 1
