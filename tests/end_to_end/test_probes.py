"""Probes: every tensor that the compiler says lies in SRAM lies there, in the cycle it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from clockstep_compiler import Options, compile_model
from clockstep_isa import Machine, Program
from clockstep_runtime.debug import probe_values
from tests.support.endtoend import fp16_inputs
from tests.support.machines import MACHINES
from tests.support.models import ACTIVATIONS, mlp, random_inputs, reshapes
from tests.support.quantized import qdq_mlp


def intermediates(model: ModelProto, inputs: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Every tensor of a model, by onnx's own evaluator."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    known = {output.name for output in whole.graph.output}
    names = [name for node in whole.graph.node for name in node.output if name not in known]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    evaluator = ReferenceEvaluator(whole)
    return dict(zip(evaluator.output_names, evaluator.run(None, inputs), strict=True))


def checked(model: ModelProto, machine: Machine, seed: int, **options: Any) -> Program:
    """The program, after a comparison of all its probes with onnx's evaluator."""
    settings = Options(**{"effort": "fast", **options})
    program = compile_model(model.SerializeToString(), machine, settings)
    inputs = fp16_inputs(random_inputs(model, np.random.default_rng(seed), settings.dims))
    wanted = intermediates(model, inputs)
    found = probe_values(program, inputs)
    for probe, value in zip(program.probes, found, strict=True):
        theirs = wanted[probe.binding.name]
        assert value is not None, probe.binding.name
        assert (value.shape, value.dtype) == (theirs.shape, theirs.dtype)
        size = 2.0 if value.dtype.kind == "i" else 1e-2 * float(np.abs(theirs).max(initial=1.0))
        ours, exact = value.astype(np.float64), theirs.astype(np.float64)
        assert np.abs(ours - exact).max(initial=0.0) <= size, probe.binding.name
    return program


@pytest.mark.parametrize("name", MACHINES)
def test_float_layers(name: str) -> None:
    rng = np.random.default_rng(3)
    model = mlp(rng, (20, 40, 40, 9, 9), 7, ACTIVATIONS)
    program = checked(model, MACHINES[name], 1)
    assert len(program.probes) >= 4
    assert program.probes[-1].binding.name == "y"


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_quantized_layers(kind: str) -> None:
    model = qdq_mlp(np.random.default_rng(4), (20, 33, 18, 5), 3, activation_type=kind)
    program = checked(model, MACHINES["tiny"], 2)
    stored = [p.binding for p in program.probes if p.binding.dtype == kind]
    assert len(stored) >= 4
    assert all(b.layouts[0].offset == (-128 if kind == "uint8" else 0) for b in stored)


def test_on_two_chips() -> None:
    model = mlp(np.random.default_rng(5), (33, 48, 48, 20), 5)
    program = checked(model, MACHINES["tiny"], 3, chips=2, objective="throughput", copies=1)
    chips = {row[5] for p in program.probes for row in p.binding.layouts[0].pieces.tolist()}
    assert chips == {0, 1}


def test_every_node_is_between_two_probes() -> None:
    """The nodes of all probes are those of the model, the makers in the order of the probes."""
    model = mlp(np.random.default_rng(6), (10, 12, 12, 4), 2, residual=True)
    program = checked(model, MACHINES["tiny"], 4)
    assert {n for p in program.probes for n in p.nodes} == set(range(len(program.nodes)))
    makers = [p.nodes[-1] for p in program.probes]
    assert makers == sorted(makers)


def test_reshapes() -> None:
    model = reshapes(np.random.default_rng(7))
    program = checked(model, MACHINES["tiny"], 5, dims={"N": 3})
    assert [p.binding.name for p in program.probes] == ["product", "pairs", "y"]  # kept is y
