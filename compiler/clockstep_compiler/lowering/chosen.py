"""Products with one of several matrices of constant weights: a number says which at run time."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from clockstep_compiler.expr import Acc, Expr, Leaf, cast
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_bits import i32
from clockstep_compiler.lowering.fixed_point import fixed_point_product, many_bytes
from clockstep_compiler.lowering.lower import Lowering, lowers
from clockstep_compiler.lowering.matmul_floats import constant_parts
from clockstep_compiler.lowering.parts import factors, scaled, split
from clockstep_compiler.lowering.reduce_rows import hold
from clockstep_compiler.steps import Product, Term, Value, Weights
from clockstep_compiler.uniform import different, in_order, spread
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.machine import Machine
from clockstep_isa.table import Type

__all__: list[str] = []


@lowers("ChosenMatMul")
def _lower_chosen(state: Lowering, node: Node) -> None:
    """x [1, K] times matrix `which` [1] of weights [E, K, N], bytes or floats: [1, N].

    A number that none has counts as the nearest that one has.
    """
    x, name, which = node.inputs
    if not _can_choose(state.machine):
        problem = "weights that are chosen when the model runs take four streams of every plane"
        raise UnsupportedModel("unsupported-form", problem, help="use a machine with more streams")
    number = _number(state, which, state.shape(name)[0])
    state.define(node.outputs[0], _product(state, x, name, number))


@cache
def _can_choose(machine: Machine) -> bool:
    """Whether there are streams and slices for weights beside those for numbers."""
    return all(Floorplan(machine).chosen_streams(kind.bytes) for kind in (Type.I8, Type.F16))


def _number(state: Lowering, which: str, count: int) -> Value:
    """The number of a matrix, from 0 to `count` - 1."""
    key = ("number", which, count)
    if key not in state.memo:
        index = Leaf(state.store(which), None)
        inside = i32("max", i32("min", index, count - 1), 0)
        state.memo[key] = hold(state, cast(inside, Type.I16, saturate=False), (1, 1)).value
    found: Value = state.memo[key]
    return found


def _product(state: Lowering, x: str, name: str, number: Value) -> Expr:
    """In 16-bit fixed point where weights stay bytes, of floats in parts where that is exact."""
    stack = state.constant(name)
    assert stack is not None
    shape, precision = state.shape(name), state.options.precision
    if stack.dtype == np.int8 and precision == "auto" and many_bytes(state):
        weights = replace(_weights(state, name, Type.I8), which=(number,))
        return fixed_point_product(state, state.store(x, Type.F16), weights, 1, None)
    if precision != "exact" or state.dtype(x) == "float16":
        term = Term(
            state.store(x, Type.F16),
            replace(_weights(state, name, Type.F16), which=(number,)),
            None,
        )
        return Acc(Product(Type.F16, 1, shape[2], (term,), None))
    left, key = split(state, state.store(x, Type.F32)), ("parts", name)
    if key not in state.memo:
        stack = np.swapaxes(stack.astype(np.float32), 1, 2)
        state.memo[key] = constant_parts(state, stack)
    parts, scale = state.memo[key]
    parts, units = [replace(part, which=(number,)) for part in parts], []
    if isinstance(left.unit, Value):
        units.append(left.unit)
    else:
        scale = scale * left.unit
    terms = tuple(Term(value, w, None) for value, w in factors(state, left, parts))
    sums = Acc(Product(Type.F16, 1, shape[2], terms, None))
    return scaled(state, sums, (1, shape[2]), scale, units)


def _weights(state: Lowering, name: str, kind: Type) -> Weights:
    """All matrices, the inner dimension along the lanes."""
    key = ("chosen", name, kind)
    if key not in state.memo:
        stack = state.constant(name)
        assert stack is not None
        few = np.swapaxes(different(stack), 1, 2).astype(np.int8 if kind is Type.I8 else np.float16)
        experts, depth, columns = stack.shape
        data = spread(in_order(few), (experts, columns, depth))
        state.weight_bytes += data.nbytes
        state.memo[key] = Weights(experts, columns, depth, data=data)
    found: Weights = state.memo[key]
    return found
