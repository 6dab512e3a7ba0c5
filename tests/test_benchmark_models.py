"""Models that benchmarks make are valid, and right on `tiny`; the page is what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

import clockstep
from benchmarks import measure, page, peers, products, recurrent, schedules
from benchmarks.convnets import mobilenet_v2, resnet50
from benchmarks.encoder import BASE, Bert
from benchmarks.models import Mlp
from benchmarks.rows import ROWS, Row, chosen

Arrays = dict[str, NDArray[Any]]

SMALL = Bert(layers=1, hidden=24, heads=2, inner=40, length=6, vocabulary=30)


def _onnxruntime(model: onnx.ModelProto, feeds: Arrays) -> Arrays:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in model.graph.output]
    return dict(zip(names, session.run(names, feeds), strict=True))


def _off(model: onnx.ModelProto, feeds: Arrays, precision: str = "auto") -> float:
    """The largest error in parts of the range, of all outputs, on `tiny`."""
    program = clockstep.compile(model, machine="tiny", precision=precision)
    ours, theirs = clockstep.Session(program).run(feeds), _onnxruntime(model, feeds)
    assert list(ours) == list(theirs)
    errors = [np.abs(ours[n].astype(np.float64) - theirs[n]).max() for n in theirs]
    return max(e / np.ptp(theirs[n]) for e, n in zip(errors, theirs, strict=True))


def _tokens(bert: Bert) -> Arrays:
    rng, ids = np.random.default_rng(0), (1, bert.length)
    mask = (np.arange(bert.length)[None] < bert.length - 2).astype(np.int64)
    if not bert.vocabulary:
        shape = (*ids, bert.hidden)
        return {"embeddings": rng.standard_normal(shape, np.float32), "attention_mask": mask}
    words = rng.integers(0, bert.vocabulary, ids)
    return {"input_ids": words, "token_type_ids": 1 - mask, "attention_mask": mask}


@pytest.mark.parametrize(
    "bert", [SMALL, replace(SMALL, dynamo=False), replace(SMALL, vocabulary=0)]
)
def test_encoders(bert: Bert) -> None:
    assert _off(bert.model(), _tokens(bert), "fp16") < 2e-2


def test_both_ways_of_writing_an_encoder_say_the_same() -> None:
    feeds = _tokens(SMALL)
    new, old = (_onnxruntime(replace(SMALL, dynamo=d).model(), feeds) for d in (True, False))
    for name in new:
        np.testing.assert_allclose(new[name], old[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("network", [resnet50, mobilenet_v2])
def test_convolutional_networks(network: Callable[..., onnx.ModelProto]) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32), np.float32)
    assert _off(network(32, 4, 10), {"x": x}, "fp16") < 2e-2


@pytest.mark.parametrize("spelling", recurrent.SPELLINGS)
def test_steps_of_an_lstm(spelling: str) -> None:
    rank = (2, 10) if spelling in ("qdq", "integer") else (1, 2, 10)
    rng = np.random.default_rng(0)
    feeds = {name: rng.uniform(-1, 1, rank).astype(np.float32) for name in "xhc"}
    assert _off(recurrent.lstm(spelling, 10, 2), feeds) < 5e-3


@pytest.mark.parametrize("spelling", products.SPELLINGS)
def test_products(spelling: str) -> None:
    x = np.random.default_rng(0).integers(-128, 128, (5, 40), np.int8)
    step = 0 if spelling == "integer" else 1 / 200
    assert _off(products.product(spelling, 5, 40, 20), {"x": x}) <= step


def test_sizes_are_the_published_ones() -> None:
    """Parameters, without what batch normalisation is folded into."""
    assert Bert(12, 768, 12, 3072, 128, 30522) == BASE
    for network, count in ((resnet50, 25_530_472), (mobilenet_v2, 3_487_816)):
        sizes = [int(np.prod(i.dims)) for i in network().graph.initializer if len(i.dims) > 0]
        assert sum(sizes) - 4 == count  # less the axes and the shape of the last layers


def test_rows_are_chosen_by_their_first_words() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert [row.name for row in chosen(["resnet50-int8"])] == ["resnet50-int8"]
    assert {row.name.partition("-")[0] for row in chosen(["lstm", "mlp"])} == {"lstm", "mlp"}
    assert chosen([]) == list(ROWS)
    assert {name for name in peers.NETWORKS} <= {row.name for row in ROWS}
    with pytest.raises(KeyError):
        chosen(["lst"])


def test_the_page_is_what_was_measured() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page(page.read())


@pytest.fixture
def row() -> Row:
    return _perceptron("mlp-small", 24)


def _perceptron(name: str, width: int) -> Row:
    """A network of `width` hidden units that stands in for the row of this name."""

    def feeds(seed: int) -> Arrays:
        return {"x": np.random.default_rng(seed).standard_normal((2, 16), np.float32)}

    model = Mlp(name, 2, (16, width, 8)).model
    return Row(name, model, feeds, quantized="uint8", goal=1, machine="tiny")


def test_one_row(row: Row, tmp_path: Path) -> None:
    found = measure.measure(row, [], tmp_path)
    assert found["verdict"] == "match", found
    assert 0 < found["lower_bound_cycles"] <= found["cycles"]
    assert sum(found["causes"].values()) == found["cycles"]
    assert found["seconds"] > 0
    assert found["megabytes"] > 0
    text = page.page({"machine": "x", "rows": {row.name: found}, "peers": {}})
    assert f"| {row.name} | match |" in text
    assert f"| {found['cycles']:,} |" in text
    left = [path.suffix for path in tmp_path.glob("*/*")]
    assert left == [".onnx"], "nothing but the model is kept"


def test_wrong_answers_are_noticed(row: Row, tmp_path: Path) -> None:
    """A model that is not the one that was compiled: the reference answers something else."""
    model, other = measure.made(row, tmp_path), _perceptron("mlp-wide", 20)
    wrong = measure.compiled(other, measure.made(other, tmp_path), tmp_path / "p.lpu", [])
    assert wrong["cycles"] > 0
    assert measure._ran(row, model, tmp_path / "p.lpu")["verdict"] == "differs"


def test_refusals_are_rows_too(row: Row, tmp_path: Path) -> None:
    found = measure.measure(row, ["--chips", "0"], tmp_path)
    assert found["verdict"] == "failed"
    assert found["problem"].startswith("option-chips: ")
    assert found["problem"] in page.page({"machine": "", "rows": {row.name: found}, "peers": {}})


@pytest.mark.parametrize(("before", "status", "word"), [(99, 1, "worse"), (101, 0, "better")])
def test_what_became_worse_is_told(
    before: int,
    status: int,
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = tmp_path / "results.json"
    rows = {"mlp-small": {"cycles": before}, "mlp-square": {"cycles": 100}}
    results.write_text(json.dumps({"machine": "", "rows": rows, "peers": {}}))
    monkeypatch.setattr(page, "RESULTS", results)
    monkeypatch.setattr(schedules, "CACHE", tmp_path)
    monkeypatch.setattr(schedules, "compiled", lambda *_: {"cycles": 100})
    assert schedules.main(["--check", "mlp-small", "mlp-square", "mlp-wide"]) == status
    printed = capsys.readouterr().out
    assert f"mlp-small: {word}, {before} to 100 cycles" in printed
    assert "mlp-square" not in printed
    assert f"{status} of 3 rows are worse" in printed
