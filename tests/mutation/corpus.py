"""The programs that are mutated: compiled models and hand-made ones, on many machines.

All are small, tens to some hundreds of instructions, because every mutant runs on the reference
interpreter. To add a program, add a row to `PROGRAMS`; the numbers of its mutants follow from its
name, so that no other program's change.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, helper

from clockstep_compiler import Options, compile_model
from clockstep_isa import Machine, Program, Type
from tests.mutation import handmade
from tests.support import models
from tests.support.graphs import random_graph
from tests.support.handmade import adder, gathering, matmul, scattering, two_chips
from tests.support.machines import machine, random_machine, with_words
from tests.support.quantized import matmul_integer, qdq_pair, qlinear_matmul

__all__ = ["PROGRAMS", "program"]

SMALL_LPU: Mapping[str, int] = {
    "lanes__superlanes": 2,
    "mem__slices_per_hemisphere": 12,
    "mem__words_per_bank": 128,
}
"""lpu-v1 with fewer lanes, slices and words; its latencies, streams and units are as they are."""

NODES: Mapping[str, int] = {
    "c2c__links": 3,
    "system__chips_per_node": 2,
    "system__local_links": 1,
    "system__global_links": 1,
    "system__max_nodes": 3,
}
"""Nodes of two chips, so that few chips are several nodes."""

RACKS: Mapping[str, int] = {
    "c2c__links": 4,
    "system__chips_per_node": 2,
    "system__local_links": 1,
    "system__global_links": 3,
    "system__direct_nodes": 1,
    "system__nodes_per_rack": 1,
    "system__rack_links": 1,
    "system__max_nodes": 2,
}
"""Racks of one such node: of its three global links one leads to the other rack."""

FEW_REPEATS: Mapping[str, int] = {"lanes__superlanes": 2, "icu__repeat_max": 10}
"""So few repeats that the most of them are run in no time."""


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _compiled(model: ModelProto, on: Machine, **options: Any) -> Program:
    return compile_model(model.SerializeToString(), on, Options(**{"effort": "fast", **options}))


def _mlp(seed: int, widths: Sequence[int], *activations: str, batch: int = 1) -> ModelProto:
    return models.mlp(_rng(seed), widths, batch, activations)


def _quantized_layers(rng: np.random.Generator, widths: Sequence[int]) -> ModelProto:
    """Layers as quantizers write them: both operands dequantized, MatMul, Relu, QuantizeLinear."""
    zero = np.zeros((), np.int8)
    constants: dict[str, np.ndarray] = {"s": np.array(0.03, np.float32), "z": zero}
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q0"], "quantize")]
    for i in range(len(widths) - 1):
        constants[f"w{i}"] = rng.integers(-128, 128, tuple(widths[i : i + 2])).astype(np.int8)
        for name in (f"q{i}", f"w{i}"):
            nodes.append(helper.make_node("DequantizeLinear", [name, "s", "z"], [f"{name}f"], name))
        nodes.append(helper.make_node("MatMul", [f"q{i}f", f"w{i}f"], [f"m{i}"], f"matmul{i}"))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"r{i}"], f"relu{i}"))
        names = [f"r{i}", "s", "z"]
        nodes.append(helper.make_node("QuantizeLinear", names, [f"q{i + 1}"], f"quantize{i}"))
    last = len(widths) - 1
    nodes.append(helper.make_node("DequantizeLinear", [f"q{last}", "s", "z"], ["y"], "last"))
    inputs = {"x": ("float32", (1, widths[0]))}
    return models.build(nodes, inputs, {"y": ("float32", (1, widths[-1]))}, constants)


def _per_channel() -> ModelProto:
    scale = np.array([0.1, 0.02, 0.5], np.float32)
    return qdq_pair((4, 3), scale, np.array([3, -4, 120], np.int8))


def _types(shape: Sequence[int]) -> ModelProto:
    """Casts among the integer types and back, with arithmetic in each."""
    chain = (("int16", "Neg"), ("uint8", "Abs"), ("int32", "Neg"), ("int8", "Neg"), ("int32", ""))
    nodes, latest = [], "x"
    for i, (dtype, op) in enumerate(chain):
        to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        nodes.append(helper.make_node("Cast", [latest], [f"c{i}"], f"cast{i}", to=to))
        latest = f"c{i}"
        if op:
            nodes.append(helper.make_node(op, [latest], [f"o{i}"], f"op{i}"))
            latest = f"o{i}"
    nodes[-1].output[0] = "y"
    return models.build(nodes, {"x": ("float32", shape)}, {"y": ("int32", shape)})


PROGRAMS: Mapping[str, Callable[[], Program]] = {
    # Layers of floats.
    "mlp": lambda: _compiled(_mlp(0, (5, 6, 4), "Relu"), machine("tiny")),
    "mlp-residual": lambda: _compiled(_mlp(1, (7, 7, 3), "Clip", batch=2), machine("tiny")),
    "mlp-ring": lambda: _compiled(_mlp(2, (5, 6, 4), "Tanh"), machine("ring")),
    "mlp-narrow": lambda: _compiled(_mlp(3, (5, 6, 4), "Sigmoid"), machine("narrow")),
    "mlp-wide": lambda: _compiled(_mlp(4, (9, 20, 5), "LeakyRelu"), machine("wide")),
    "mlp-odd": lambda: _compiled(_mlp(5, (5, 6, 4), "Relu"), machine("odd")),
    "mlp-lpu": lambda: _compiled(_mlp(6, (6, 5), "Relu"), machine("lpu-v1")),
    "mlp-lpu-small": lambda: _compiled(_mlp(7, (9, 8, 4), "Tanh"), machine("lpu-v1", **SMALL_LPU)),
    "mlp-random": lambda: _compiled(_mlp(8, (8, 9, 4), "Relu"), random_machine(_rng(1))),
    "mlp-rows": lambda: _compiled(_mlp(9, (18, 17), "", batch=5), machine("tiny")),
    # Quantized layers and integers.
    "qdq": lambda: _compiled(_quantized_layers(_rng(0), (6, 5, 4)), machine("tiny")),
    "qdq-lpu-small": lambda: _compiled(
        _quantized_layers(_rng(1), (12, 9)), machine("lpu-v1", **SMALL_LPU)
    ),
    "qdq-pair": lambda: _compiled(_per_channel(), machine("tiny")),
    "integer": lambda: _compiled(
        matmul_integer(_rng(0), (3, 9), (9, 5), "uint8", "int8", "column"), machine("tiny")
    ),
    "integer-wide": lambda: _compiled(matmul_integer(_rng(1), (2, 70), (70, 9)), machine("wide")),
    "qlinear-odd": lambda: _compiled(
        qlinear_matmul(_rng(2), (2, 9), (9, 5), "uint8", per_column=True), machine("odd")
    ),
    "types": lambda: _compiled(_types((3, 5)), machine("tiny")),
    # Elementwise operators, shapes, and products of what is computed.
    "add": lambda: _compiled(models.elementwise("Add", [(3, 5), (5,)]), machine("tiny")),
    "elementwise-odd": lambda: _compiled(models.elementwise_graph(_rng(0), 2, 4), machine("odd")),
    "elementwise-random": lambda: _compiled(
        models.elementwise_graph(_rng(1), 3, 4), random_machine(_rng(2))
    ),
    "reshapes": lambda: _compiled(models.reshapes(_rng(0)), machine("tiny"), dims={"N": 1}),
    "reshapes-narrow": lambda: _compiled(
        models.reshapes(_rng(1)), machine("narrow"), dims={"N": 1}
    ),
    "product-of-inputs": lambda: _compiled(models.matmul_of_inputs(3, 4, 5), machine("tiny")),
    "computed-weights": lambda: _compiled(models.computed_b(_rng(0), 2, 5, 3), machine("wide")),
    "batched": lambda: _compiled(
        models.batched_matmul(_rng(0), (2, 3, 4), (2, 4, 3)), machine("tiny")
    ),
    "graph": lambda: _compiled(random_graph(_rng(3), "float32", 5), machine("tiny")),
    "graph-integers": lambda: _compiled(random_graph(_rng(5), "int32", 4), machine("ring")),
    # Several chips.
    "two-chips": lambda: _compiled(
        _mlp(10, (5, 6, 4), "Relu"), machine("tiny"), chips=2, objective="throughput", copies=1
    ),
    "two-chips-odd": lambda: _compiled(
        _mlp(11, (5, 6, 4), "Relu"), machine("odd"), chips=2, objective="throughput", copies=1
    ),
    "ring-of-four": lambda: _compiled(
        _mlp(12, (5, 6, 5, 4), ""), machine("ring"), chips=4, objective="throughput", copies=1
    ),
    "few-words": lambda: _compiled(_mlp(13, (20, 30, 10), "Relu"), with_words("tiny", 4)),
    "integer-chips": lambda: _compiled(
        matmul_integer(_rng(3), (2, 20), (20, 40), zero_points="none"),
        machine("wide"),
        chips=3,
        objective="throughput",
        copies=1,
    ),
    # Made by hand.
    "hand-adder": lambda: adder(5, 2).program(),
    "hand-int8": lambda: matmul(Type.I8, 6)[0].program(),
    "hand-fp16": lambda: matmul(Type.F16, 6)[0].program(),
    "hand-two-chips": lambda: two_chips().program(),
    "hand-scatter": lambda: scattering().program(),
    "hand-gather": lambda: gathering().program(),
    "hand-planes": lambda: handmade.planes(machine("tiny")),
    "hand-alu-i8": lambda: handmade.alus(machine("tiny"), Type.I8),
    "hand-alu-i16": lambda: handmade.alus(machine("odd"), Type.I16),
    "hand-alu-i32": lambda: handmade.alus(machine("wide"), Type.I32),
    "hand-alu-ring": lambda: handmade.alus(machine("ring"), Type.F32),
    "hand-alu-f16": lambda: handmade.alus(machine("tiny"), Type.F16),
    "hand-alu-f32": lambda: handmade.alus(machine("odd"), Type.F32),
    "hand-casts": lambda: handmade.casts(machine("tiny")),
    "hand-sxm": lambda: handmade.sxm(machine("tiny", lanes__superlanes=3)),
    "hand-copies": lambda: handmade.copies(machine("tiny", **FEW_REPEATS)),
    "hand-copies-odd": lambda: handmade.copies(machine("odd")),
    "hand-links": lambda: handmade.links(machine("tiny"), 3, [(0, 0, 1, 1), (1, 0, 2, 1)]),
    "hand-nodes": lambda: handmade.links(
        machine("tiny", **NODES), 5, [(2, 0, 3, 0), (3, 1, 0, 1), (0, 0, 1, 0), (1, 1, 4, 1)]
    ),
    "hand-racks": lambda: handmade.links(
        machine("tiny", **RACKS), 4, [(0, 3, 2, 3), (2, 0, 3, 0), (3, 3, 1, 3)]
    ),
}
"""Name -> what makes the program."""


@functools.cache
def program(name: str) -> Program:
    """The program `name`, made once in a process."""
    return PROGRAMS[name]()
