"""LSTM, GRU and RNN against onnxruntime: every attribute, every optional operand and output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from clockstep_compiler import Options, compile_model
from clockstep_isa import load_machine
from clockstep_isa.diagnostics import ClockstepError
from tests.support.endtoend import assert_close, expected, run_checked
from tests.support.machines import MACHINES

TINY = MACHINES["tiny"]
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
OUTPUTS = {"RNN": ("y", "h"), "GRU": ("y", "h"), "LSTM": ("y", "h", "c")}


@dataclass(frozen=True)
class Case:
    """One node; `size` is steps, batch, input and hidden size."""

    op: str
    size: tuple[int, int, int, int] = (3, 2, 3, 5)
    lengths: Sequence[int] | None = None
    bias: bool = True
    states: bool = True
    peepholes: bool = False
    computed: bool = False
    outputs: tuple[str, ...] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    def values(self) -> dict[str, NDArray[Any]]:
        """All operands by name, those that are absent left out."""
        rng = np.random.default_rng(0)
        steps, batch, depth, hidden = self.size
        directions = 2 if self.attributes.get("direction") == "bidirectional" else 1
        rows = GATES[self.op] * hidden
        shapes: dict[str, tuple[int, ...]] = {
            "X": (steps, batch, depth),
            "W": (directions, rows, depth),
            "R": (directions, rows, hidden),
        }
        if self.bias:
            shapes["B"] = (directions, 2 * rows)
        if self.states:
            shapes["h0"] = (directions, batch, hidden)
        if self.states and self.op == "LSTM":
            shapes["c0"] = (directions, batch, hidden)
        if self.peepholes:
            shapes["P"] = (directions, 3 * hidden)
        found: dict[str, NDArray[Any]] = {
            name: rng.normal(0, 0.6, shape).astype(np.float32) for name, shape in shapes.items()
        }
        if self.lengths is not None:
            found["lengths"] = np.array(self.lengths, np.int32)
        return found

    def model(self) -> tuple[ModelProto, dict[str, NDArray[Any]]]:
        """The model, and its inputs."""
        values = self.values()
        slots = ["X", "W", "R", "B", "lengths", "h0", "c0", "P"]
        names = [name if name in values else "" for name in slots]
        while not names[-1]:
            names.pop()
        constant = () if self.computed else ("W", "R", "B", "P", "lengths")
        inputs = {name: value for name, value in values.items() if name not in constant}
        wanted = self.outputs or OUTPUTS[self.op]
        attributes = {"hidden_size": self.size[3], **self.attributes}
        node = helper.make_node(self.op, names, wanted, **attributes)
        graph = helper.make_graph(
            [node],
            self.op,
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
                )
                for name, value in inputs.items()
            ],
            [helper.make_tensor_value_info(name, 1, None) for name in wanted if name],
            [numpy_helper.from_array(values[n], n) for n in values if n in constant],
        )
        imports = [helper.make_opsetid("", 14)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8), inputs


def case(op: str, **fields: Any) -> Case:
    known = {name: fields.pop(name) for name in list(fields) if name in Case.__dataclass_fields__}
    return Case(op, **known, attributes=fields)


def name_of(value: object) -> str:
    """What is not as in every case."""
    assert isinstance(value, Case)
    rows = [f"{k}={v}" for k, v in vars(value).items() if v != Case.__dataclass_fields__[k].default]
    return " ".join(rows[:-1] + [f"{k}={v}" for k, v in value.attributes.items()])


CASES = [
    *(case(op) for op in GATES),
    *(case(op, direction="reverse", bias=False) for op in GATES),
    *(case(op, direction="bidirectional", states=False) for op in GATES),
    *(case(op, size=(1, 1, 4, 3), computed=True) for op in GATES),
    case("RNN", size=(2, 2, 18, 20)),
    *(case(op, clip=0.2) for op in GATES),
    *(case(op, outputs=("", "h")) for op in GATES),
    *(case(op, outputs=("y",)) for op in GATES),
    *(case(op, lengths=[3, 2], direction="bidirectional") for op in GATES),
    *(case(op, lengths=[1, 2], computed=True, direction="bidirectional") for op in GATES),
    case("LSTM", lengths=[0, 2]),
    case("GRU", lengths=[2, 0], direction="reverse", computed=True),
    case("RNN", lengths=[0, 2], direction="reverse"),
    case("LSTM", outputs=("", "", "c")),
    case("LSTM", peepholes=True),
    case("LSTM", peepholes=True, direction="bidirectional", states=False, clip=0.5),
    case("LSTM", input_forget=1),
    case("GRU", linear_before_reset=1),
    case("GRU", linear_before_reset=1, bias=False),
    case("GRU", linear_before_reset=1, states=False, direction="bidirectional"),
    case("RNN", activations=["Relu"]),
    case("RNN", activations=["Affine"], activation_alpha=[0.5], activation_beta=[0.1]),
    case("GRU", activations=["softplus", "Elu"], activation_alpha=[0.7]),
    case("GRU", activations=["HardSigmoid", "ThresholdedRelu"], activation_alpha=[0.3, 0.1]),
    case(
        "LSTM",
        direction="bidirectional",
        activations=["HardSigmoid", "ScaledTanh", "Softsign", "Sigmoid", "LeakyRelu", "Tanh"],
        activation_alpha=[0.3, 0.7, 0.05],
        activation_beta=[0.4, 0.6],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_against_onnxruntime(case: Case) -> None:
    model, inputs = case.model()
    run = run_checked(model, TINY, inputs, precision="exact")
    assert_close(run.outputs, expected(model, inputs), rtol=3e-6, scale=1.0)


@pytest.mark.parametrize("op", GATES)
def test_in_fp16(op: str) -> None:
    model, inputs = case(op, size=(3, 2, 18, 20)).model()
    assert_close(run_checked(model, TINY, inputs).outputs, expected(model, inputs), scale=1.0)


def test_on_lpu_v1() -> None:
    model, inputs = case("LSTM", size=(5, 1, 64, 128), direction="bidirectional").model()
    run = run_checked(model, load_machine("lpu-v1"), inputs)
    assert_close(run.outputs, expected(model, inputs), rtol=2e-2)


def test_on_two_chips() -> None:
    """Weights that steps share lie on the chips where the first step put them."""
    model, inputs = case("LSTM", size=(3, 2, 18, 20)).model()
    run = run_checked(model, TINY, inputs, chips=2, objective="throughput", copies=1)
    assert_close(run.outputs, expected(model, inputs), scale=1.0)


@pytest.mark.parametrize("op", GATES)
def test_the_batch_first(op: str) -> None:
    """onnxruntime has no layout 1: it is layout 0 with axes exchanged."""
    for direction in ("forward", "bidirectional"):
        model, inputs = case(op, direction=direction).model()
        want = expected(model, inputs)
        model.graph.node[0].attribute.append(helper.make_attribute("layout", 1))
        for value in model.graph.input:
            dims = value.type.tensor_type.shape.dim
            sizes = [d.dim_value for d in dims]
            for dim, size in zip(dims, (sizes[1], sizes[0], *sizes[2:]), strict=True):
                dim.dim_value = size
        turned = {name: np.swapaxes(value, 0, 1) for name, value in inputs.items()}
        run = run_checked(model, TINY, turned, precision="exact")
        exchanged = {
            name: value.transpose(2, 0, 1, 3) if name == "y" else np.swapaxes(value, 0, 1)
            for name, value in want.items()
        }
        assert_close(run.outputs, exchanged, rtol=3e-6, scale=1.0)


def test_steps_share_their_weights() -> None:
    """A layer of ten steps holds its weights once, not ten times."""
    used = []
    for steps in (2, 10):
        model, _ = case("RNN", size=(steps, 1, 3, 30)).model()
        program = compile_model(model.SerializeToString(), TINY, Options(effort="fast"))
        used.append(int(program.image.regions[:, 3].sum()))
    assert used[1] < used[0] + 30


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"activations": ["Affine"]}, "unsupported-form"),
        ({"activations": ["Tanh", "Tanh"]}, "shape-mismatch"),
        ({"activations": ["Sine"]}, "shape-mismatch"),
        ({"direction": "up"}, "shape-mismatch"),
        ({"lengths": [4, 1]}, "shape-mismatch"),
        ({"lengths": [1, 2, 3]}, "shape-mismatch"),
        ({"hidden_size": 4}, "shape-mismatch"),
    ],
    ids=str,
)
def test_refused(fields: dict[str, Any], code: str) -> None:
    model, _ = case("RNN", **fields).model()
    with pytest.raises(ClockstepError) as caught:
        compile_model(model.SerializeToString(), TINY, Options())
    assert caught.value.diagnostic.code == code
