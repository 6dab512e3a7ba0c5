"""Walk the nodes once, in order: types inferred, constants computed, forwarding nodes removed.

Everything is static, so by the time a node is reached the shapes and constants it depends on are
known; no fixed point is needed. Operators that vanish as they are met are in `rewrites`. What a
refused node makes is taken as given where its type is known, so that what follows is judged too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TypeProto, helper
from onnx.defs import OpSchema

from clockstep_compiler.frontend.convert import unknown_operator
from clockstep_compiler.frontend.external import ExternalFiles
from clockstep_compiler.frontend.fold import evaluate, may_fold
from clockstep_compiler.frontend.infer import Inferred, Mismatch, infer, schema_of, type_proto
from clockstep_compiler.frontend.inline import (
    Step,
    function_body,
    function_steps,
    has_body,
    rename,
)
from clockstep_compiler.frontend.messages import place
from clockstep_compiler.frontend.moves import ELEMENTS_LIMIT, elements, is_move, moves
from clockstep_compiler.frontend.narrow import Integers
from clockstep_compiler.frontend.order import live
from clockstep_compiler.frontend.settle import Moved, changes_nothing, filled
from clockstep_compiler.frontend.structure import edges, subgraphs
from clockstep_compiler.frontend.tensors import (
    TENSOR_BYTES_LIMIT,
    Array,
    bytes_needed,
    numpy_dtype,
)
from clockstep_compiler.frontend.unsupported import RANDOM, is_supported, unsupported_operator
from clockstep_compiler.graph import CLOCKSTEP, Tensor
from clockstep_compiler.operators import BY_NAME, full_name
from clockstep_isa.diagnostics import Diagnostic

__all__ = ["OF_SEQUENCES", "Rewrite", "Walk"]

OF_SEQUENCES = frozenset(
    [
        *("ConcatFromSequence", "Identity", "If", "Loop", "OptionalGetElement", "SequenceAt"),
        *("OptionalHasElement", "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap"),
    ]
)
"""Operators that take sequences, which are known element by element."""

Rewrite = Callable[["Walk", Step], bool]
"""Takes the place of a step where it can, and says whether it did."""


_EVERY = 1021
"""Of so many elements of an index one is compared before all are."""


class Walk:
    """The flat graph as far as it is known. `declared` has the types the file itself states.

    `assumed` are the values of refused steps whose types are known, `wanted` the operands of steps
    that were left out.
    """

    def __init__(
        self,
        files: ExternalFiles,
        opsets: Mapping[str, int],
        declared: Mapping[str, Inferred],
        rewrites: Mapping[str, Rewrite],
    ) -> None:
        self.files, self.opsets, self.declared = files, opsets, declared
        self._rewrites = rewrites
        self.types: dict[str, Tensor] = {}
        self.constants: dict[str, Array] = {}
        self.alias: dict[str, str] = {}
        self.sequences: dict[str, tuple[str, ...]] = {}
        self.steps: list[Step] = []
        self.problems: list[Diagnostic] = []
        self.mismatches: list[Diagnostic] = []
        self.assumed: list[str] = []
        self.wanted: list[str] = []
        self.unrolled = 0
        self.shared: dict[tuple[object, ...], str] = {}
        """Values that several nodes have in common, by what they are."""
        self._deferred: dict[str, Step] = {}
        self._indices: dict[tuple[tuple[int, ...], bytes], NDArray[np.int64]] = {}
        self._integers = Integers(self.types, self.constants)
        self._poisoned: set[str] = set()
        self._vague: set[str] = set()
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}

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

    def add_move(self, step: Step, moved: Moved) -> bool:
        """Let `moved` take the place of the step, or part of it; whether that takes a step."""
        name = moved.output.name
        if not moved.inputs:
            self.add_constant(name, filled(moved))
        elif len(moved.inputs) == 1 and changes_nothing(moved, self.types[moved.inputs[0]]):
            self.forward(moved.inputs[0], name)
        else:
            node = helper.make_node("Move", moved.inputs, [name], step.node.name, domain=CLOCKSTEP)
            self.types[name] = moved.output
            move = replace(moved.move, index=self._known(moved.move.index))
            self.steps.append(Step(node, step.name, {CLOCKSTEP: 1}, move))
            return True
        return False

    def _known(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same index that another move has, if one does: those of equal layers are large."""
        key = index.shape, index.reshape(-1)[::_EVERY].tobytes()
        known = self._indices.setdefault(key, index)
        return known if np.array_equal(known, index) else index

    def forward(self, source: str, target: str) -> None:
        """Let `target` be another name of `source`."""
        self.alias[target] = source
        if source not in self.sequences:
            self.types[target] = Tensor(target, self.types[source].shape, self.types[source].dtype)

    def resolve(self, name: str) -> str:
        """The value behind a name that only forwards it."""
        while name in self.alias:
            name = self.alias[name]
        return name

    def fresh(self, name: str) -> str:
        """A value name nobody uses: `name`, or that with a number."""
        free = name
        while free in self._taken or free in self.types:
            self._numbers[name] = self._numbers.get(name, 1) + 1
            free = f"{name}.{self._numbers[name]}"
        self._taken.add(free)
        return free

    def refuse(self, step: Step, code: str, problem: str, remedy: str = "") -> bool:
        """Note a problem; what depends on the step is judged as far as the step's types say."""
        name, op = step.name, step.node.op_type
        where = place(name, op)
        self.problems.append(Diagnostic(code, problem, where, remedy, name, op, step.opset))
        self.wanted += edges(step.node).inputs
        types = self._expected(step)
        self.types.update(types)
        self.assumed += types
        self.poison(name for name in step.node.output if name not in types)
        return True

    def poison(self, names: Iterable[str]) -> None:
        """Note that nothing is known of `names`, for a reason already reported."""
        self._poisoned.update(names)

    def _expected(self, step: Step) -> dict[str, Tensor]:
        """The types of a refused step's outputs; none if it could be a constant or a monster."""
        schema, names = schema_of(step.node, step.opset), [n for n in step.node.input if n]
        if schema is None or all(n in self.constants or n not in self.types for n in names):
            return {}
        if not self.sequences.keys().isdisjoint(names):
            return {}
        try:
            rows = infer(step.node, schema, step.opsets, self.types, self.constants)
        except Mismatch:
            return {}
        known = [(row.name, row.shape, row.dtype) for row in rows if row.shape is not None]
        return {
            name: Tensor(name, shape, dtype)
            for name, shape, dtype in known
            if dtype is not None and math.prod(shape) <= ELEMENTS_LIMIT
        }

    def _visit(self, step: Step) -> None:
        sources = {name: self.resolve(name) for name in edges(step.node).inputs}
        step = replace(step, node=rename(step.node, sources, {}))
        node = step.node
        if self._unknowable(step) or self._no_tensor(step) or self._rewritten(step):
            return
        if self._narrowed(step):
            return
        if subgraphs(node):
            self.refuse(step, "control-flow", "control flow that depends on data is not static")
            return
        schema = schema_of(node, step.opset)
        outputs = self._inferred(step, schema) if schema else self._declared(step)
        if outputs is None or self._empty(outputs):
            return
        if schema and self._folded(step, schema, outputs):
            return
        if self._moved(step, outputs):
            return
        if schema and self._expanded(step, schema):
            return
        if self._typed(step, schema, outputs):
            self.steps.append(step)
            if node.op_type == "DequantizeLinear" and not node.domain:
                self._integers.note(step)

    def _no_tensor(self, step: Step) -> bool:
        """Whether an operator of tensors is given a sequence; notes it."""
        found = [name for name in step.node.input if name in self.sequences]
        if not found or (step.node.op_type in OF_SEQUENCES and not step.node.domain):
            return False
        return self.refuse(step, "not-a-tensor", f"{found[0]!r} is a sequence")

    def _rewritten(self, step: Step) -> bool:
        rewrite = self._rewrites.get(full_name(step.node.domain, step.node.op_type))
        try:
            return rewrite is not None and rewrite(self, step)
        except Mismatch as error:
            return self._mismatch(step, error)

    def _narrowed(self, step: Step) -> bool:
        """Replace a step by one of integers, if it moves or quantizes what was dequantized."""
        if step.node.op_type == "QuantizeLinear" and not step.node.domain:
            source = self._integers.source(step)
            if source is not None:
                self.forward(source, step.node.output[0])
            return source is not None
        if not self._integers.moves(step):
            return False
        fresh = {name: self.fresh(f"{name}.integers") for name in step.node.output if name}
        self.run(self._integers.moved(step, fresh))
        return True

    def _mismatch(self, step: Step, error: Mismatch) -> bool:
        where = place(step.name, step.node.op_type)
        self.mismatches.append(Diagnostic("shape-mismatch", str(error), where))
        self.poison(step.node.output)
        return True

    def _unknowable(self, step: Step) -> bool:
        """Whether the step has no meaning, or depends on what has none; notes why."""
        node = step.node
        problem = None if node.domain else unknown_operator(node, step.name, step.opset)
        if node.domain == CLOCKSTEP:  # ours alone
            problem = unsupported_operator(step.name, node.op_type, node.domain, step.opset)
        poisoned = self._poisoned.intersection(filter(None, edges(node).inputs))
        if problem is None and not poisoned:
            return False
        if problem is None and not self._vague.intersection(poisoned):
            problem = self._certainly_unsupported(step)
        self.problems += [problem] if problem else []
        self.wanted += edges(node).inputs
        self.poison(node.output)
        # A shape is a constant even where it is unknown: what is computed from it might fold.
        if self._vague.intersection(poisoned) or node.op_type in ("Shape", "Size"):
            self._vague.update(node.output)
        return True

    def _certainly_unsupported(self, step: Step) -> Diagnostic | None:
        node, schema = step.node, schema_of(step.node, step.opset)
        name = full_name(node.domain, node.op_type)
        lowered = name in BY_NAME or name in self._rewrites
        if lowered or (schema and has_body(schema) and name not in RANDOM):
            return None
        return unsupported_operator(step.name, node.op_type, node.domain, step.opset)

    def _inferred(self, step: Step, schema: OpSchema) -> tuple[Inferred, ...] | None:
        """Types of the outputs; None if there are none to go on with, and why is noted."""
        try:
            return infer(step.node, schema, step.opsets, self.types, self.constants)
        except Mismatch as error:
            self._mismatch(step, error)
            return None

    def _declared(self, step: Step) -> tuple[Inferred, ...] | None:
        named = [name for name in step.node.output if name]
        rows = tuple(self.declared[name] for name in named if name in self.declared)
        if len(rows) == len(named) and all(row.shape is not None for row in rows):
            return rows
        self._unshaped(step)
        return None

    def _typed(self, step: Step, schema: OpSchema | None, outputs: tuple[Inferred, ...]) -> bool:
        for row in outputs:
            if row.shape is None and schema and not schema.has_type_and_shape_inference_function:
                return self._unshaped(step)
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
                return not self.refuse(step, "model-form", problem)
            self.types[row.name] = Tensor(row.name, row.shape, row.dtype)
        return True

    def _unshaped(self, step: Step) -> bool:
        node = step.node
        self.problems.append(unsupported_operator(step.name, node.op_type, node.domain, step.opset))
        self.wanted += edges(node).inputs
        self.poison(node.output)
        return False

    def _empty(self, outputs: tuple[Inferred, ...]) -> bool:
        """Whether all results are without elements, and so known whatever the operator does."""
        known = [(r.name, r.shape, r.dtype) for r in outputs if r.shape is not None and r.dtype]
        if len(known) < len(outputs) or not all(0 in shape for _, shape, _ in known):
            return False
        for name, shape, dtype in known:
            self.add_constant(name, np.empty(shape, numpy_dtype(dtype)))
        return bool(known)

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
        values = {name: self._value(name) for name in names}
        known = {name: value for name, value in values.items() if value is not None}
        found = evaluate(step, self.types, known) if len(known) == len(values) else None
        if found is None or not _as_inferred(found, outputs):
            return False
        for name, array in found.items():
            self.add_constant(name, array)
        return True

    def _bytes(self, name: str) -> int:
        return bytes_needed(self.types[name].shape, self.types[name].dtype)

    def _value(self, name: str) -> Array | None:
        """A constant, dequantized now if that was put off; None if onnx cannot dequantize it."""
        if name in self.constants:
            return self.constants[name]
        found = evaluate(self._deferred[name], self.types, self.constants)
        return None if found is None else found[name]

    def _moved(self, step: Step, outputs: tuple[Inferred, ...]) -> bool:
        """Replace a step that only moves elements by a move for each of its outputs."""
        if not is_move(step, self.constants):
            return False
        count = elements(step, outputs, self.types)
        if count > ELEMENTS_LIMIT:
            problem = f"moves {count} elements; the most are {ELEMENTS_LIMIT}"
            return self.refuse(step, "model-form", problem)
        found = moves(step, outputs, self.types, self.constants)
        for moved in found or ():
            self.add_move(step, moved)
        return found is not None

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
        guesses = len(self.assumed), len(self.wanted)
        self.run(function_steps(step, body, schema, self.fresh))
        added = self.steps[mark[0] :]
        clean = mark[1:] == (len(self.problems), len(self.mismatches))
        if clean and self._supported(added, node):
            return True
        del self.steps[mark[0] :], self.problems[mark[1] :], self.mismatches[mark[2] :]
        del self.assumed[guesses[0] :], self.wanted[guesses[1] :]
        for name in node.output:
            for table in (self.constants, self.alias, self._deferred):
                table.pop(name, None)
            self._poisoned.discard(name)
        return False

    def _supported(self, steps: list[Step], node: NodeProto) -> bool:
        links = [edges(step.node) for step in steps]
        wanted = [self.resolve(name) for name in node.output if name]
        needed = live(links, range(len(links)), wanted)
        parts = [steps[i] for i in sorted(needed)]
        return all(is_supported(*s.origin[:2], s.move is not None) for s in parts)


def _as_inferred(found: Mapping[str, Array], outputs: tuple[Inferred, ...]) -> bool:
    return all(
        found[row.name].dtype.name == row.dtype and row.shape in (None, found[row.name].shape)
        for row in outputs
    )
