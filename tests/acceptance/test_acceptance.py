"""The page of the models is of the committed results; the parts of the tool do what they say."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.acceptance.fetch import archive_of, bring
from tests.acceptance.inputs import GENERATORS, photo, resized
from tests.acceptance.judge import distance, verdict_of
from tests.acceptance.models import BY_NAME, MODELS, Feed, Model
from tests.acceptance.page import PAGE, page, read
from tests.acceptance.weights import with_random_weights


def test_the_page_shows_the_results() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(read()), "run: make models"


def test_the_results_are_of_the_table() -> None:
    assert len(BY_NAME) == len(MODELS)
    for key in read()["rows"]:
        name, precision = key.split()
        assert precision in BY_NAME[name].precisions


def test_nothing_is_wrong() -> None:
    for key, row in read()["rows"].items():
        assert row["verdict"] in ("match", "refused", "too long"), key


@pytest.mark.parametrize("kind", sorted(set(GENERATORS) - {"photo", "zeros"}))
def test_inputs_depend_on_the_seed_alone(kind: str) -> None:
    a, again, b = (GENERATORS[kind]((2, 64), seed) for seed in (0, 0, 1))
    assert np.array_equal(a, again)
    assert not np.array_equal(a, b)


def test_resized() -> None:
    image = np.arange(24.0).reshape(2, 4, 3)
    assert np.array_equal(resized(image, 2, 4), image)
    assert np.allclose(
        resized(image, 1, 2)[0, :, 0], [(0 + 3 + 12 + 15) / 4, (6 + 9 + 18 + 21) / 4]
    )
    assert np.allclose(resized(np.full((5, 3, 3), 7.0), 9, 4), 7)


def test_photo() -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3))
    last = photo((1, 3, 4, 3), 0, channels_last=True, image=image)
    first = photo((1, 3, 3, 4), 0, mean=1, scale=2, image=image)
    assert np.allclose((last.transpose(0, 3, 1, 2) - 1) / 2, first)
    assert photo((1, 1, 3, 4), 0, image=image).shape == (1, 1, 3, 4)


def test_distance() -> None:
    reference = [np.array([0.0, 1.0, 4.0]), np.array([2.0, 0.0, 1.0])]
    assert distance(reference, reference)["off"] == 0
    found = distance([reference[0], np.array([2.0, 0.1, 1.0])], reference)
    assert found["off"] == pytest.approx(0.025)
    assert found["excess"] == pytest.approx(0.1 / 4e-5)
    assert found["best"]
    odd = [np.array([np.inf, 1.0])]
    assert distance(odd, odd)["off"] == 0
    assert distance([np.array([1.0, 1.0])], odd)["off"] == np.inf
    assert distance([np.array([np.nan, 1.0])], [np.array([0.0, 1.0])])["off"] == np.inf


def test_verdicts() -> None:
    assert verdict_of("exact", 1.0, 1.0, 0.0, False) == "match"
    assert verdict_of("exact", 0.0, 1.1, 0.0, True) == "differs"
    assert verdict_of("fp16", 0.019, 99.0, 0.0, False) == "match"
    assert verdict_of("fp16", 0.021, 0.0, 0.0, True) == "differs"
    assert verdict_of("auto", 0.03, 99.0, 0.04, True) == "match"
    assert verdict_of("auto", 0.03, 99.0, 0.02, True) == "differs"
    assert verdict_of("auto", 0.0, 0.0, 0.02, False) == "differs"


def test_archives_and_hashes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "Some_Package-1.2-py3-none-any.whl", "w") as archive:
        archive.writestr("a/b.onnx", b"bytes")
    model = Model("m", "some-package", "1.2", "a/b.onnx", "277089d9", {"x": Feed((1,), "noise")})
    assert archive_of(model, tmp_path) is not None
    assert bring(model, tmp_path, tmp_path).read_bytes() == b"bytes"
    wrong = Model("m", "some-package", "1.2", "a/b.onnx", "00", {})
    with pytest.raises(RuntimeError, match="277089d9"):
        bring(wrong, tmp_path, tmp_path)


def test_random_weights() -> None:
    shape = numpy_helper.from_array(np.array([4, 3], np.int64), "s")
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], [shape]))
    made = with_random_weights(model)
    assert [node.op_type for node in made.graph.node] == ["MatMul"]
    weights = next(t for t in made.graph.initializer if t.name == "w")
    assert numpy_helper.to_array(weights).std() > 0.1
    assert isinstance(made, onnx.ModelProto)
