"""A cut model: each part computed from what is fed to it, and not from the parts before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from clockstep_compiler.frontend import CUT, cut_model
from clockstep_isa import MalformedFile, UsageError
from tests.support.models import mlp

SHAPES = {"t0": ("float32", (3, 5)), "t1": ("float32", (3, 5)), "none": ("float32", (3, 5))}


def test_parts_are_computed_from_what_is_fed() -> None:
    rng = np.random.default_rng(1)
    model = mlp(rng, (4, 5, 2), 3, ("Relu",), ("linear",), residual=False)
    cut, names = cut_model(model, SHAPES)
    assert names == ("t0", "t1")
    proto = onnx.load_from_string(cut)
    assert [i.name for i in proto.graph.input] == ["x", CUT + "t0", CUT + "t1"]
    assert [o.name for o in proto.graph.output] == ["y", "t0", "t1"]
    x, h = rng.normal(size=(3, 4)).astype("f"), rng.normal(size=(3, 5)).astype("f")
    y, t0, t1 = ReferenceEvaluator(proto).run(None, {"x": x, CUT + "t0": h, CUT + "t1": h})
    assert np.array_equal(t1, np.maximum(h, 0))
    whole = ReferenceEvaluator(model).run(None, {"x": x})[0]
    assert not np.allclose(y, whole)
    same = ReferenceEvaluator(proto).run(
        None, {"x": x, CUT + "t0": t0, CUT + "t1": np.maximum(t0, 0)}
    )
    assert np.allclose(same[0], whole, rtol=1e-6)


def test_the_original_is_left_alone() -> None:
    model = mlp(np.random.default_rng(1), (4, 5, 2), 3, ("Relu",), ("linear",))
    before = model.SerializeToString(deterministic=True)
    cut_model(model, SHAPES)
    assert model.SerializeToString(deterministic=True) == before


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        cut_model(tmp_path / "none.onnx", SHAPES)
    with pytest.raises(MalformedFile):
        cut_model(b"\x00", SHAPES)
