"""What is measured: a row for each model and precision, with what is published of this chip.

To add a row, add it to `ROWS`. Published figures are cycles at 900 MHz from the maker's papers and
examples (see `docs/benchmarks.md`); a goal is a number of cycles, or times the bound if it is a
fraction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks import convnets, products, recurrent
from benchmarks.encoder import BASE, LARGE, Bert
from benchmarks.models import Mlp

__all__ = ["ROWS", "Arrays", "Feeds", "Row", "chosen"]

Arrays = dict[str, NDArray[Any]]
Feeds = Callable[[int], Arrays]
"""Inputs of a model from a seed."""


@dataclass(frozen=True, slots=True)
class Row:
    """`quantized` says of which type activations become when onnxruntime quantizes the model.

    `like` is the name of the row that has the same model, if it is this one's. A row of so many
    `chips` has a part of the model on each; else there are as few as hold it.
    """

    name: str
    model: Callable[[], onnx.ModelProto]
    feeds: Feeds
    precision: str = "auto"
    quantized: str = ""
    published: int | None = None
    goal: int | float | None = None
    machine: str = "lpu-v1"
    like: str = ""
    chips: int | None = None


def chosen(names: list[str]) -> list[Row]:
    """The rows of these names, and those that go on from one of them at a hyphen; all if none.

    Raises `KeyError` for a name that is neither.
    """
    found = []
    for name in names or [""]:
        some = [r for r in ROWS if not name or r.name == name or r.name.startswith(f"{name}-")]
        if not some:
            raise KeyError(name)
        found += some
    return [row for row in ROWS if row in found]


# -- inputs ----------------------------------------------------------------------------------------


def _images(seed: int) -> Arrays:
    return {"x": np.random.default_rng(seed).standard_normal((1, 3, 224, 224), dtype=np.float32)}


def _tokens(bert: Bert) -> Feeds:
    """A text that leaves some of its length, or more of it, empty."""

    def feeds(seed: int) -> Arrays:
        rng = np.random.default_rng(seed)
        shape = (1, bert.length)
        mask = np.ones(shape, np.int64)
        mask[:, bert.length - bert.length // (4 + seed) :] = 0
        if not bert.vocabulary:
            sums = 0.035 * rng.standard_normal((*shape, bert.hidden), dtype=np.float32)
            return {"embeddings": sums, "attention_mask": mask}
        types = np.arange(bert.length)[None] * 2 // bert.length
        words = rng.integers(0, bert.vocabulary, shape)
        return {"input_ids": words, "token_type_ids": types, "attention_mask": mask}

    return feeds


def _states(shape: tuple[int, ...]) -> Feeds:
    def feeds(seed: int) -> Arrays:
        rng = np.random.default_rng(seed)
        return {name: rng.uniform(-1, 1, shape).astype(np.float32) for name in ("x", "h", "c")}

    return feeds


def _bytes(shape: tuple[int, ...]) -> Feeds:
    return lambda seed: {"x": np.random.default_rng(seed).integers(-128, 128, shape, np.int8)}


def _floats(shape: tuple[int, ...]) -> Feeds:
    return lambda seed: {"x": np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)}


# -- rows ------------------------------------------------------------------------------------------


def _convnets() -> Iterator[Row]:
    resnet, mobile = convnets.resnet50, convnets.mobilenet_v2
    yield Row("resnet50-int8", resnet, _images, quantized="uint8", published=44_100, goal=44_100)
    yield Row("resnet50-fp16", resnet, _images, "fp16")
    yield Row("mobilenetv2-int8", mobile, _images, quantized="uint8", goal=2.0)
    yield Row("mobilenetv2-fp16", mobile, _images, "fp16")


def _encoders() -> Iterator[Row]:
    """BERT-base as torch exports it, without its embeddings, and as exporters wrote it before."""
    forms = {
        "bert": BASE,
        "bert-encoder": Bert(vocabulary=0),
        "bert-erf": Bert(dynamo=False),
    }
    for name, bert in forms.items():
        feeds, published = _tokens(bert), 117_000
        for precision, kind, goal in (("int8", "int8", 80_000), ("fp16", "", 150_000)):
            how = "fp16" if precision == "fp16" else "auto"
            yield Row(f"{name}-{precision}", bert.model, feeds, how, kind, published, goal)
    yield Row(
        "large-bert-int8", LARGE.model, _tokens(LARGE), quantized="int8", goal=1_102_500, chips=4
    )


_LSTM = {
    512: {1: 670, 3: 718, 6: 790, 8: 838, 32: 1413},
    1024: {1: 1958, 3: 2086, 6: 2278, 8: 2406, 32: 3941},
}
"""Published cycles by size and batch."""


def _lstms() -> Iterator[Row]:
    for spelling in recurrent.SPELLINGS:
        for size, batches in _LSTM.items():
            for batch, cycles in batches.items():
                if spelling == "integer" and batch > 1:
                    continue  # the same step as qdq
                name = f"lstm-{spelling}-{size}-b{batch}"
                rank = (batch, size) if spelling in ("qdq", "integer") else (1, batch, size)
                yield Row(
                    name,
                    partial(recurrent.lstm, spelling, size, batch),
                    _states(rank),
                    published=cycles,
                    goal=cycles,
                )


def _products() -> Iterator[Row]:
    """85% of the int8 rate for the large one: 4096³ products at 409,600 a cycle."""
    full = 4096**3 * 100 // (409_600 * 85)
    for spelling in products.SPELLINGS:
        for m, goal in ((1, 1.3), (8, 1.3), (64, 1.3), (4096, full)):
            yield Row(
                f"matmul-{spelling}-m{m}",
                partial(products.product, spelling, m),
                _bytes((m, 4096)),
                goal=goal,
            )


def _perceptrons() -> Iterator[Row]:
    for mlp, machine in (
        (Mlp("small", 1, (64, 96, 64, 10)), "lpu-v1"),
        (Mlp("square", 64, (320, 320, 320, 320)), "lpu-v1"),
        (Mlp("wide", 32, (2000, 2000, 2000)), "lpu-v1"),
        (Mlp("deep", 16, (640,) * 17), "lpu-v1"),
        (Mlp("two-chips", 1, (8192, 8192, 4096)), "lpu-v1"),
        (Mlp("tiny", 3, (400, 500, 400)), "tiny"),
    ):
        feeds = _floats((mlp.batch, mlp.widths[0]))
        yield Row(f"mlp-{mlp.name}", mlp.model, feeds, "fp16", machine=machine)


_OWN = (*_convnets(), *_encoders(), *_lstms(), *_products(), *_perceptrons())
_ELSEWHERE = ("resnet50-int8", "mobilenetv2-int8", "lstm-qdq-1024-b1", "matmul-qlinear-m64")
_MACHINES = Path(__file__).with_name("machines")


def _others() -> Iterator[Row]:
    """Some rows on other machines, where nothing but the bound says how good they are."""
    for file in sorted(_MACHINES.glob("*.toml")):
        for row in _OWN:
            if row.name in _ELSEWHERE:
                yield replace(
                    row,
                    name=f"{file.stem}-{row.name}",
                    machine=str(file),
                    like=row.name,
                    published=None,
                    goal=1.5,
                )


ROWS = (*_OWN, *_others())
