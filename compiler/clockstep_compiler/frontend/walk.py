"""Walk the nodes once, in order: types inferred, constants computed, forwarding nodes removed.

Everything is static, so by the time a node is reached the shapes and constants it depends on are
known; no fixed point is needed. To rewrite one more operator away, add a row to `REWRITES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
from onnx import NodeProto, TypeProto
from onnx.defs import OpSchema

from clockstep_compiler.frontend.convert import unknown_operator
from clockstep_compiler.frontend.external import ExternalFiles
from clockstep_compiler.frontend.fold import evaluate, may_fold
from clockstep_compiler.frontend.infer import Inferred, Mismatch, infer, schema_of, type_proto
from clockstep_compiler.frontend.inline import (
    Step,
    branch_steps,
    function_body,
    function_steps,
    rename,
)
from clockstep_compiler.frontend.load import attributes_of
from clockstep_compiler.frontend.order import live
from clockstep_compiler.frontend.structure import edges, subgraphs
from clockstep_compiler.frontend.tensors import TENSOR_BYTES_LIMIT, Array, bytes_needed, to_array
from clockstep_compiler.frontend.unsupported import place, unsupported_operator
from clockstep_compiler.graph import Tensor
from clockstep_compiler.operators import BY_NAME
from clockstep_isa.diagnostics import Diagnostic

__all__ = ["REWRITES", "Walk"]


class Walk:
    """The flat graph as far as it is known. `declared` has the types the file itself states."""

    def __init__(
        self, files: ExternalFiles, opsets: Mapping[str, int], declared: Mapping[str, Inferred]
    ) -> None:
        self.files, self.opsets, self.declared = files, opsets, declared
        self.types: dict[str, Tensor] = {}
        self.constants: dict[str, Array] = {}
        self.alias: dict[str, str] = {}
        self.steps: list[Step] = []
        self.problems: list[Diagnostic] = []
        self.mismatches: list[Diagnostic] = []
        self._deferred: dict[str, Step] = {}
        self._poisoned: set[str] = set()
        self._taken: set[str] = set()

    def run(self, steps: Iterable[Step]) -> None:
        """Visit `steps`, which are in topological order."""
        steps = tuple(steps)
        for step in steps:
            self._taken.update(step.node.output)
        for step in steps:
            self._visit(step)

    def add_constant(self, name: str, array: Array) -> None:
        """Give `name` a value."""
        self.types[name] = Tensor(name, array.shape, array.dtype.name)
        self.constants[name] = array

    def forward(self, source: str, target: str) -> None:
        """Let `target` be another name of `source`."""
        self.alias[target] = source
        self.types[target] = Tensor(target, self.types[source].shape, self.types[source].dtype)

    def resolve(self, name: str) -> str:
        """The value behind a name that only forwards it."""
        while name in self.alias:
            name = self.alias[name]
        return name

    def fresh(self, name: str) -> str:
        """A value name nobody uses, as near to `name` as possible."""
        while name in self._taken or name in self.types:
            name += "_"
        self._taken.add(name)
        return name

    def refuse(self, step: Step, code: str, problem: str, remedy: str = "") -> bool:
        """Note a problem; what depends on the step is then skipped, not reported again."""
        self.problems.append(Diagnostic(code, problem, place(step.name, step.node.op_type), remedy))
        self.poison(step.node.output)
        return True

    def poison(self, names: Iterable[str]) -> None:
        """Note that nothing is known of `names`, for a reason already reported."""
        self._poisoned.update(names)

    def _visit(self, step: Step) -> None:
        sources = {name: self.resolve(name) for name in edges(step.node).inputs}
        step = replace(step, node=rename(step.node, sources, {}))
        node = step.node
        if self._undefined(step) or self._poisoned.intersection(filter(None, edges(node).inputs)):
            self.poison(node.output)
            return
        rewrite = None if node.domain else REWRITES.get(node.op_type)
        if rewrite and rewrite(self, step):
            return
        if subgraphs(node):
            self.refuse(step, "control-flow", "control flow that depends on data is not static")
            return
        schema = schema_of(node, step.opset)
        outputs = self._inferred(step, schema) if schema else self._declared(step)
        if outputs is None or (schema and self._folded(step, schema, outputs)):
            return
        if self._typed(step, outputs) and not (schema and self._expanded(step, schema)):
            self.steps.append(step)

    def _undefined(self, step: Step) -> bool:
        node = step.node
        problem = None if node.domain else unknown_operator(node, step.name, step.opset)
        self.problems += [problem] if problem else []
        return problem is not None

    def _inferred(self, step: Step, schema: OpSchema) -> tuple[Inferred, ...] | None:
        """Types of the outputs; None if there are none to go on with, and why is noted."""
        try:
            return infer(step.node, schema, step.opsets, self.types, self.constants)
        except Mismatch as error:
            where = place(step.name, step.node.op_type)
            self.mismatches.append(Diagnostic("shape-mismatch", str(error), where))
            self.poison(step.node.output)
            return None

    def _declared(self, step: Step) -> tuple[Inferred, ...] | None:
        named = [name for name in step.node.output if name]
        rows = tuple(self.declared[name] for name in named if name in self.declared)
        if len(rows) == len(named) and all(row.shape is not None for row in rows):
            return rows
        node = step.node
        self.problems.append(unsupported_operator(step.name, node.op_type, node.domain, step.opset))
        self.poison(node.output)
        return None

    def _typed(self, step: Step, outputs: tuple[Inferred, ...]) -> bool:
        for row in outputs:
            if row.dtype is None:
                return not self.refuse(
                    step, "not-a-tensor", f"{row.name!r} is no dense numeric tensor"
                )
            if row.shape is None:
                return not self.refuse(
                    step,
                    "dynamic-shape",
                    f"the shape of {row.name!r} depends on data",
                    "every shape must be known before the model runs",
                )
            size = bytes_needed(row.shape, row.dtype)
            if size > TENSOR_BYTES_LIMIT:
                problem = f"{row.name!r} of shape {row.shape} needs {size} bytes"
                return not self.refuse(step, "tensor-too-large", problem)
            self.types[row.name] = Tensor(row.name, row.shape, row.dtype)
        return True

    def _folded(self, step: Step, schema: OpSchema, outputs: tuple[Inferred, ...]) -> bool:
        names = [name for name in step.node.input if name]
        if not all(name in self.constants or name in self._deferred for name in names):
            return False
        if not may_fold(schema, outputs, sum(self._bytes(name) for name in names)):
            return False
        if step.node.op_type == "DequantizeLinear" and not step.node.domain:
            # Weights stay as narrow as they are; only what is computed from them is folded.
            self._deferred[step.node.output[0]] = step
            return False
        found = evaluate(step, self.types, {name: self._value(name) for name in names})
        if found is None or not _as_inferred(found, outputs):
            return False
        for name, array in found.items():
            self.add_constant(name, array)
        return True

    def _bytes(self, name: str) -> int:
        return bytes_needed(self.types[name].shape, self.types[name].dtype)

    def _value(self, name: str) -> Array:
        if name in self.constants:
            return self.constants[name]
        step = self._deferred[name]
        found = evaluate(step, self.types, self.constants)
        assert found is not None, f"{step.name}: the reference evaluator cannot dequantize"
        return found[name]

    def _expanded(self, step: Step, schema: OpSchema) -> bool:
        """Replace the step by its ONNX function body, if everything in there has a lowering."""
        node = step.node
        if node.op_type in BY_NAME:
            return False
        types = [type_proto(self.types[n]) if n else TypeProto() for n in node.input]
        body = function_body(step, schema, types)
        if body is None:
            return False
        mark = len(self.steps), len(self.problems), len(self.mismatches)
        self.run(function_steps(step, body, schema, self.fresh))
        added = self.steps[mark[0] :]
        clean = mark[1:] == (len(self.problems), len(self.mismatches))
        if clean and self._supported(added, node):
            return True
        del self.steps[mark[0] :], self.problems[mark[1] :], self.mismatches[mark[2] :]
        for name in node.output:
            for table in (self.constants, self.alias, self._deferred):
                table.pop(name, None)
            self._poisoned.discard(name)
        return False

    def _supported(self, steps: list[Step], node: NodeProto) -> bool:
        links = [edges(step.node) for step in steps]
        wanted = [self.resolve(name) for name in node.output if name]
        needed = live(links, range(len(links)), wanted)
        return all(
            not steps[i].node.domain and steps[i].node.op_type in BY_NAME for i in sorted(needed)
        )


def _as_inferred(found: Mapping[str, Array], outputs: tuple[Inferred, ...]) -> bool:
    return all(
        found[row.name].dtype.name == row.dtype and row.shape in (None, found[row.name].shape)
        for row in outputs
    )


def _identity(walk: Walk, step: Step) -> bool:
    walk.forward(step.node.input[0], step.node.output[0])
    return True


def _dropout(walk: Walk, step: Step) -> bool:
    inputs = (*step.node.input, "", "")
    training = walk.constants.get(inputs[2])
    if inputs[2] and (training is None or bool(training.any())):
        return walk.refuse(step, "training", "Dropout in training mode is random")
    walk.forward(inputs[0], step.node.output[0])
    for mask in filter(None, step.node.output[1:]):
        walk.add_constant(mask, np.ones(walk.types[inputs[0]].shape, np.bool_))
    return True


def _if(walk: Walk, step: Step) -> bool:
    condition = walk.constants.get(step.node.input[0])
    if condition is None or condition.size != 1:
        return False
    chosen = "then_branch" if bool(condition.item()) else "else_branch"
    branch = attributes_of(step.node)[chosen].g
    steps, names = branch_steps(step, branch, walk.fresh)
    for tensor in branch.initializer:
        walk.add_constant(names[tensor.name], to_array(tensor, walk.files))
    walk.run(steps)
    for value, target in zip(branch.output, step.node.output, strict=True):
        source = walk.resolve(names.get(value.name, value.name))
        if source in walk.types:
            walk.forward(source, target)
        else:
            walk.poison([target])
    return True


def _constant(walk: Walk, step: Step) -> bool:
    (attribute,) = step.node.attribute
    name = step.node.output[0]
    if attribute.name == "value":
        walk.add_constant(name, to_array(attribute.t, walk.files))
        return True
    kinds: dict[str, Callable[[], Array]] = {
        "value_float": lambda: np.array(attribute.f, np.float32),
        "value_floats": lambda: np.array(attribute.floats, np.float32),
        "value_int": lambda: np.array(attribute.i, np.int64),
        "value_ints": lambda: np.array(attribute.ints, np.int64),
    }
    if attribute.name not in kinds:
        return walk.refuse(step, "element-type", f"a constant cannot be a {attribute.name}")
    walk.add_constant(name, kinds[attribute.name]())
    return True


def _shape(walk: Walk, step: Step) -> bool:
    shape = walk.types[step.node.input[0]].shape
    attributes = attributes_of(step.node)
    start = attributes["start"].i if "start" in attributes else 0
    end = attributes["end"].i if "end" in attributes else len(shape)
    walk.add_constant(step.node.output[0], np.array(shape[start:end], np.int64))
    return True


def _size(walk: Walk, step: Step) -> bool:
    size = int(np.prod(np.array(walk.types[step.node.input[0]].shape, object), initial=1))
    walk.add_constant(step.node.output[0], np.array(size, np.int64))
    return True


REWRITES: Mapping[str, Callable[[Walk, Step], bool]] = {
    "Constant": _constant,
    "Dropout": _dropout,
    "Identity": _identity,
    "If": _if,
    "Shape": _shape,
    "Size": _size,
}
