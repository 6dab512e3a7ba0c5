"""Folding: rows of several pixels change how much is done at a time, and no bit of any result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from clockstep_compiler import Options, compile_model, pipeline
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.fold import _Group, _Search, fold
from clockstep_compiler.lowering import lower
from clockstep_compiler.partition import find_product
from clockstep_compiler.problems import lowered_model
from clockstep_compiler.shard import shard, share
from clockstep_compiler.steps import Compute, Lowered, Move
from clockstep_isa import Machine, load_machine
from clockstep_runtime import Session
from tests.support.endtoend import assert_equal, expected, run_checked
from tests.support.machines import machine

LPU = load_machine("lpu-v1")

Image = tuple[str, int, int, int]
"""A tensor of integers, its channels, height and width."""


class _Chain:
    """A network of quantized layers as it grows; every scale is a power of two.

    `zero` is the zero point of all its bytes.
    """

    def __init__(
        self, rng: np.random.Generator, channels: int, height: int, width: int, zero: int = 120
    ) -> None:
        self.rng, self.zero = rng, zero
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.shape: tuple[int, ...] = (1, channels, height, width)
        self.last: Image = (self.quantized("x"), channels, height, width)

    def name(self) -> str:
        return f"t{len(self.nodes)}"

    def constant(self, array: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        out = self.name()
        self.nodes.append(helper.make_node(op, inputs, [out], out, **attributes))
        return out

    def quantized(self, name: str) -> str:
        scale = self.constant(np.float32(2.0**-4))
        return self.node("QuantizeLinear", [name, scale, self.constant(np.uint8(self.zero))])

    def real(self, name: str) -> str:
        scale = self.constant(np.float32(2.0**-4))
        return self.node("DequantizeLinear", [name, scale, self.constant(np.uint8(self.zero))])

    def convolve(self, channels: int, kernel: int, stride: int, groups: int = 1) -> None:
        name, c, h, w = self.last
        weights = self.rng.integers(-127, 128, (channels, c // groups, kernel, kernel))
        scale = self.constant(np.float32(2.0**-9))
        zero = self.constant(np.int8(0))
        stored = self.constant(weights.astype(np.int8))
        factors = self.node("DequantizeLinear", [stored, scale, zero])
        pad = kernel // 2
        options: dict[str, Any] = {"pads": [pad] * 4, "strides": [stride] * 2, "group": groups}
        out = self.node("Conv", [self.real(name), factors], **options)
        high, wide = ((n + 2 * pad - kernel) // stride + 1 for n in (h, w))
        self.last = self.quantized(self.node("Relu", [out])), channels, high, wide

    def pool(self, kernel: int, stride: int) -> None:
        name, c, h, w = self.last
        pad = kernel // 2
        options: dict[str, Any] = {
            "kernel_shape": [kernel] * 2,
            "pads": [pad] * 4,
            "strides": [stride] * 2,
        }
        out = self.node("MaxPool", [self.real(name)], **options)
        high, wide = ((n + 2 * pad - kernel) // stride + 1 for n in (h, w))
        self.last = self.quantized(out), c, high, wide

    def add(self, other: Image) -> None:
        total = self.node("Add", [self.real(self.last[0]), self.real(other[0])])
        self.last = self.quantized(total), *self.last[1:]

    def model(self) -> ModelProto:
        out = self.real(self.last[0])
        graph = helper.make_graph(
            self.nodes,
            "chain",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(out, TensorProto.FLOAT, (1, *self.last[1:]))],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _random(rng: np.random.Generator, most: int) -> ModelProto:
    """A few layers over images of up to `most` channels."""
    width = int(rng.choice([6, 8, 12]))
    chain = _Chain(rng, int(rng.integers(1, most + 1)), int(rng.integers(4, 9)), width)
    for _ in range(int(rng.integers(1, 5))):
        kind = int(rng.integers(0, 5))
        before = chain.last
        channels = int(rng.integers(1, most + 1))
        if kind == 0:
            chain.pool(3, int(rng.integers(1, 3)))
        elif kind == 1:
            chain.convolve(before[1], 3, int(rng.integers(1, 3)), groups=before[1])
        elif kind == 2:
            chain.convolve(before[1], 3, 1)
            chain.add(before)
        else:
            chain.convolve(channels, int(rng.choice([1, 3, 5])), int(rng.integers(1, 3)))
    return chain.model()


def _inputs(model: ModelProto, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    shape = tuple(d.dim_value for d in dims)
    return {"x": (rng.integers(-130, 140, shape) / 16).astype(np.float32)}


def _lowered(model: ModelProto, target: Machine) -> tuple[Lowered, Lowered]:
    """The steps of a model, not folded and folded."""
    plain = lowered_model(model.SerializeToString(), Options(), LPU)[1]
    return plain, fold(Floorplan(target), plain)


def _same_bits(model: ModelProto, target: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = _inputs(model, np.random.default_rng(5))
    folded = run_checked(model, target, inputs)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "fold", lambda _, lowered: lowered)
        program = compile_model(model.SerializeToString(), target, Options(effort="fast"))
    assert_equal(folded.outputs, dict(Session(program).run(inputs)))


def _folded(model: ModelProto, target: Machine) -> dict[str, tuple[int, int]]:
    """The shapes of matrices that are folded, those of other shapes than without."""
    plain, folded = _lowered(model, target)
    before = {v.number: (v.rows, v.columns) for v in plain.values}
    after = {v.number: v for v in folded.values if v.number in before}
    return {
        f"{v.name}:{n}": (v.rows, v.columns)
        for n, v in after.items()
        if (v.rows, v.columns) != before[n]
    }


def test_pixels_of_a_line_share_a_row() -> None:
    """Eight channels of sixteen lanes: two pixels in a row, from the input to the output."""
    chain = _Chain(np.random.default_rng(0), 8, 16, 16)
    chain.convolve(8, 1, 1)
    chain.convolve(8, 1, 1)
    shapes = _folded(chain.model(), machine("tiny"))
    assert len(shapes) >= 4
    assert set(shapes.values()) == {(128, 16)}


def test_full_vectors_stay_as_they_are() -> None:
    """Where channels fill the lanes there is nothing to fold, and the steps are the same object."""
    chain = _Chain(np.random.default_rng(0), 16, 6, 6)
    chain.convolve(16, 3, 1)
    plain, folded = _lowered(chain.model(), machine("tiny"))
    assert folded is plain


def test_floats_are_not_multiplied_so() -> None:
    """The infinity of a pixel must not meet the zeros of its neighbour."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [16, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [16, 4])
    weights = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "multiply")
    graph = helper.make_graph([node], "floats", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    inputs = {"x": np.ones((16, 4), np.float32)}
    inputs["x"][3, 1] = np.inf
    want = np.full((16, 4), 4, np.float32)
    want[3] = np.inf
    assert_equal(run_checked(model, machine("tiny"), inputs).outputs, {"y": want})


def test_a_first_convolution_of_few_channels_takes_no_move(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An image is loaded in windows, and the maxima after the convolution are of integers."""
    chain = _Chain(np.random.default_rng(1), 3, 16, 16)
    chain.convolve(16, 7, 2)
    chain.pool(3, 2)
    model, target = chain.model(), load_machine("lpu-v1")
    plain, folded = _lowered(model, target)
    assert any(isinstance(step, Move) for step in plain.steps)
    assert all(isinstance(step, Compute) for step in folded.steps)
    _same_bits(model, target, monkeypatch)


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "rows"), [(1, 3, 1, 48), (1, 3, 3, 12), (1, 4, 2, 35)]
)
def test_a_row_is_all_that_a_kernel_sees(
    channels: int, kernel: int, stride: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen lanes hold the windows of a pixel or two, and each row is multiplied once."""
    chain = _Chain(np.random.default_rng(4), channels, 8, 12)
    chain.convolve(8, kernel, stride)
    model, target = chain.model(), machine("tiny")
    folded = _lowered(model, target)[1]
    loaded = [v for v in folded.values if v.windows]
    assert [v.rows for v in loaded] == [rows]
    product = next(
        p for s in folded.steps if isinstance(s, Compute) and (p := find_product(s.expr))
    )
    assert [term.a.rows for term in product.terms] == [rows]
    _same_bits(model, target, monkeypatch)


def test_windows_that_no_vector_holds_are_not_loaded() -> None:
    chain = _Chain(np.random.default_rng(4), 2, 8, 12)
    chain.convolve(8, 3, 1)
    folded = _lowered(chain.model(), machine("tiny"))[1]
    assert not any(v.windows for v in folded.values)


def test_pixels_that_a_border_repeats_make_no_class_of_their_own() -> None:
    """Along a line the first pixel stands twice in its window; once is enough."""
    chain = _Chain(np.random.default_rng(1), 16, 32, 32)
    chain.convolve(16, 3, 1)
    chain.pool(3, 2)
    chain.convolve(16, 3, 1)
    folded = _lowered(chain.model(), load_machine("lpu-v1"))[1]
    products = [find_product(s.expr) for s in folded.steps if isinstance(s, Compute)]
    assert any(products)
    assert all(product is None or product.w_set is None for product in products)


@pytest.mark.parametrize(
    ("kernel", "stride", "size", "terms"),
    [(3, 1, (8, 16), 6), (5, 1, (6, 12), 10), (3, 2, (8, 16), 9), (3, 1, (6, 16), 6)],
)
def test_pixels_of_a_depthwise_convolution_lie_channel_by_channel(
    kernel: int, stride: int, size: tuple[int, int], terms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More channels than half a vector has lanes; fewer products than the kernel has taps."""
    chain = _Chain(np.random.default_rng(4), 3, *size)
    chain.shape = (2, *chain.shape[1:])
    chain.convolve(24, 1, 1)
    chain.convolve(24, kernel, stride, groups=24)
    chain.convolve(3, 1, 1)
    model, target = chain.model(), machine("tiny", mem__words_per_bank=4096)
    steps = [s for s in _lowered(model, target)[1].steps if isinstance(s, Compute)]
    products = [find_product(s.expr) for s in steps]
    assert terms in [len(p.terms) for p in products if p is not None]
    _same_bits(model, target, monkeypatch)
    inputs = _inputs(model, np.random.default_rng(6))
    assert_equal(run_checked(model, target, inputs).outputs, expected(model, inputs))


@pytest.mark.parametrize(("channels", "terms"), [(4, 4), (8, 6)])
def test_patches_of_a_convolution_that_fill_a_vector(
    channels: int, terms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patches of two by two pixels, or of one by two: few of them meet."""
    chain = _Chain(np.random.default_rng(7), channels, 8, 8)
    chain.convolve(16, 1, 1)
    chain.convolve(channels, 1, 1)
    chain.convolve(channels, 3, 1)
    chain.convolve(16, 1, 1)
    model, target = chain.model(), machine("tiny", mem__words_per_bank=4096)
    steps = [s for s in _lowered(model, target)[1].steps if isinstance(s, Compute)]
    products = [p for s in steps if (p := find_product(s.expr)) is not None]
    assert max(len(product.terms) for product in products) == terms
    _same_bits(model, target, monkeypatch)
    inputs = _inputs(model, np.random.default_rng(6))
    assert_equal(run_checked(model, target, inputs).outputs, expected(model, inputs))


@pytest.mark.parametrize(("size", "candidate"), [((8, 8), 0), ((4, 12), 1), ((4, 6), 0)])
def test_patches_of_images_that_are_added(
    size: tuple[int, int], candidate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patches begin elsewhere with every depthwise convolution, and what is added follows them.

    The last one makes a smaller image. Whatever is chosen, no bit changes.
    """
    chain = _Chain(np.random.default_rng(7), 6, *size, zero=0)
    for stride in (1, 1, 1, 2):
        before = chain.last
        chain.convolve(18, 1, 1)
        chain.convolve(18, 3, stride, groups=18)
        chain.convolve(6, 1, 1)
        if stride == 1:
            chain.add(before)
    model, target = chain.model(), machine("tiny", mem__words_per_bank=4096)

    def choose(search: _Search, group: _Group) -> None:
        options = group.candidates
        option = options[min(candidate, len(options) - 1)] if options else {}
        search._set([value.number for value in group.values], option)

    monkeypatch.setattr(_Search, "_choose", choose)
    steps = [s for s in _lowered(model, target)[1].steps if isinstance(s, Compute)]
    products = [find_product(s.expr) for s in steps]
    assert [len(p.terms) for p in products if p is not None].count(4) > 3
    _same_bits(model, target, monkeypatch)
    inputs = _inputs(model, np.random.default_rng(6))
    assert_equal(run_checked(model, target, inputs).outputs, expected(model, inputs))


def test_what_is_beyond_an_image_is_not_always_zero() -> None:
    """Where zero is not the least byte, it cannot be put beyond the image in its patches."""
    found = {}
    for zero in (0, 120):
        chain = _Chain(np.random.default_rng(7), 32, 28, 28, zero)
        for number in range(4):
            before = chain.last
            chain.convolve(192, 1, 1)
            chain.convolve(192, 3, 1, groups=192)
            chain.convolve(32, 1, 1)
            if number:
                chain.add(before)
        steps = [
            s
            for s in _lowered(chain.model(), load_machine("lpu-v1"))[1].steps
            if isinstance(s, Compute)
        ]
        products = [find_product(s.expr) for s in steps]
        found[zero] = [len(p.terms) for p in products if p is not None]
    assert 4 in found[0]
    assert 4 not in found[120]


def test_a_folded_model_matches_onnxruntime() -> None:
    """Scales are powers of two and sums exact, so nothing is rounded in another way."""
    chain = _Chain(np.random.default_rng(2), 4, 8, 8)
    chain.convolve(5, 3, 1)
    before = chain.last
    chain.convolve(5, 3, 1)
    chain.add(before)
    chain.pool(3, 2)
    model = chain.model()
    target = machine("tiny", mem__words_per_bank=2048)
    assert _folded(model, target)
    inputs = _inputs(model, np.random.default_rng(3))
    assert_equal(run_checked(model, target, inputs).outputs, expected(model, inputs))


@pytest.mark.parametrize("seed", range(12))
def test_random_chains_on_a_small_machine(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _random(np.random.default_rng(seed), 8)
    _same_bits(model, machine("tiny", mem__words_per_bank=2048), monkeypatch)


@pytest.mark.parametrize("seed", range(4))
def test_random_chains_of_whole_vectors(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _random(np.random.default_rng(100 + seed), 24)
    _same_bits(model, load_machine("lpu-v1"), monkeypatch)


def test_what_folding_adds_is_on_the_chip_of_its_step() -> None:
    """A model on one of two chips takes no link for rows that are put side by side."""
    names = set()
    for seed in range(12):
        model = _random(np.random.default_rng(seed), 8)
        graph, _ = lowered_model(model.SerializeToString(), Options(), LPU)
        part = shard(graph, LPU, share(graph, LPU, 1))
        folded = fold(Floorplan(LPU), lower(part, Options(), LPU))
        assert {step.out.chips for step in folded.steps} == {(0,)}
        names |= {step.out.name.rpartition(".")[2] for step in folded.steps}
    assert "part" in names
