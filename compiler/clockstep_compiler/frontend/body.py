"""Operators written as other operators: what ONNX's function bodies do not do for us.

A body is a function that writes the operators taking the place of one node, with `Body.op`. Every
operator is walked at once, so a body knows the shape, the type and, of constants, the value of
whatever it has made so far, and constants fold on the way. To compose one more operator, write a
function in a module of `bodies`, register it with `@composes`, and add its row to `OPERATORS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from onnx import GraphProto, helper

from clockstep_compiler.frontend.infer import Mismatch
from clockstep_compiler.frontend.inline import Step, branch_steps
from clockstep_compiler.frontend.load import attributes_of
from clockstep_compiler.frontend.tensors import Array, numpy_dtype, to_array
from clockstep_compiler.frontend.walk import Rewrite, Walk
from clockstep_compiler.graph import CLOCKSTEP, Tensor

__all__ = ["BODIES", "Body", "Refused", "Unknown", "composes"]

OPSET = 23
"""The opset in which bodies are written."""

BODIES: dict[str, Rewrite] = {}
"""The registered bodies, by operator; those of other domains as `domain.operator`."""


class Refused(Exception):
    """Raised by a body for a node that it cannot compose: a code of `refusals`, why, a remedy."""

    def __init__(self, code: str, problem: str, remedy: str = "") -> None:
        super().__init__(code, problem, remedy)
        self.code, self.problem, self.remedy = code, problem, remedy


class Unknown(Exception):
    """An operator in between was refused, or does not fit; that is noted already."""


class Body:
    """Writes the operators that take the place of `step`, and reads what is known of values."""

    def __init__(self, walk: Walk, step: Step) -> None:
        self.walk, self.step = walk, step
        self._attributes = attributes_of(step.node)

    # -- the node ---------------------------------------------------------------------------------

    def inputs(self, count: int) -> tuple[str, ...]:
        """The first `count` operands; "" for those that are absent."""
        return (*self.step.node.input, *[""] * count)[:count]

    def wants(self, index: int) -> bool:
        """Whether the node has an output of that index."""
        return index < len(self.step.node.output) and bool(self.step.node.output[index])

    def declared(self, index: int) -> tuple[int, ...] | None:
        """The shape that the file states for an output, if it states one in numbers."""
        name = self.step.node.output[index] if self.wants(index) else ""
        return self.walk.declared[name].shape if name in self.walk.declared else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute as a Python value, strings decoded; `default` if it is absent.

        `Mismatch` if it is not of the kind of the default: a number, a string, a list.
        """
        if name not in self._attributes:
            return default
        value = _decoded(helper.get_attribute_value(self._attributes[name]))
        wanted = (int, float) if isinstance(default, float) else type(default)
        if default is not None and not isinstance(value, wanted):
            raise Mismatch(f"attribute {name!r} is {value!r}, should be like {default!r}")
        return value

    def give(self, index: int, name: str) -> None:
        """Let the value `name` be the node's output of that index, if it has one."""
        if self.wants(index):
            self.walk.forward(self.walk.resolve(name), self.step.node.output[index])

    # -- values -----------------------------------------------------------------------------------

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value; all are known. `Mismatch` if it is an operand that is absent."""
        return self._type(name).shape

    def dtype(self, name: str) -> str:
        """The element type of a value, by numpy's name."""
        return self._type(name).dtype

    def _type(self, name: str) -> Tensor:
        if not name:
            raise Mismatch("an operand is missing")
        return self.walk.types[name]

    def value(self, name: str) -> Array | None:
        """The array behind a value, None if it is computed when the model runs, or absent."""
        return self.walk.constants.get(self.walk.resolve(name)) if name else None

    def constant(self, array: ArrayLike, dtype: DTypeLike = np.int64) -> str:
        """A new constant; axes, shapes and indices are int64."""
        name = self.walk.fresh(f"{self.step.name}/constant")
        self.walk.add_constant(name, np.asarray(array, dtype))
        return name

    def sequence(self, name: str) -> tuple[str, ...] | None:
        """The elements of a sequence, None if it is a tensor."""
        return self.walk.sequences.get(self.walk.resolve(name))

    def give_sequence(self, index: int, elements: Sequence[str]) -> None:
        """Let the node's output of that index be a sequence."""
        if self.wants(index):
            found = tuple(map(self.walk.resolve, elements))
            self.walk.sequences[self.step.node.output[index]] = found

    # -- operators --------------------------------------------------------------------------------

    def op(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add an operator with one output; returns the name of that value."""
        return self.ops(op, inputs, 1, domain=domain, **attributes)[0]

    def ops(
        self, op: str, inputs: Sequence[str], outputs: int, *, domain: str = "", **attributes: Any
    ) -> tuple[str, ...]:
        """Add an operator with several outputs. Attributes that are None are left out."""
        walk, step = self.walk, self.step
        name = walk.fresh(f"{step.name}/{op}")
        made = [name, *(walk.fresh(f"{name}/{k}") for k in range(1, outputs))]
        given = {key: value for key, value in attributes.items() if value is not None}
        node = helper.make_node(op, inputs, made, name, domain=domain, **given)
        walk.run([Step(node, name, {**step.opsets, "": OPSET})])
        return tuple(map(self.known, made))

    def shared(self, make: Callable[[], str], *key: object) -> str:
        """The value that `make` gives, made once for all nodes that ask with the same key.

        The key begins with a word of its own and has the names of values as `known` gives them.
        """
        if key not in self.walk.shared:
            self.walk.shared[key] = make()
        return self.walk.shared[key]

    def inline(self, graph: GraphProto, given: Sequence[str] = ()) -> list[str]:
        """Walk a copy of a subgraph with values for its inputs; the values of its outputs."""
        walk = self.walk
        if len(graph.input) != len(given):
            raise Mismatch(f"{graph.name!r} has {len(graph.input)} inputs, not {len(given)}")
        formals = {value.name: name for value, name in zip(graph.input, given, strict=True)}
        steps, names = branch_steps(self.step, graph, walk.fresh, formals)
        for tensor in graph.initializer:
            walk.add_constant(names[tensor.name], to_array(tensor, walk.files))
        walk.run(steps)
        return [self.known(names.get(value.name, value.name)) for value in graph.output]

    def known(self, name: str) -> str:
        """The value behind a name that a step gives; the body ends if that step was refused."""
        found = self.walk.resolve(name)
        if found not in self.walk.types and found not in self.walk.sequences:
            raise Unknown
        return found

    def own(self, op: str, inputs: Sequence[str], like: Tensor, **attributes: Any) -> str:
        """Add an operator of our own (domain `CLOCKSTEP`), whose result has the type of `like`.

        It needs a lowering; ONNX knows nothing of it, so it is neither inferred nor folded.
        """
        walk, step = self.walk, self.step
        name = walk.fresh(f"{step.name}/{op}")
        given = {**attributes, "op": step.node.op_type, "opset": step.opset}
        node = helper.make_node(op, inputs, [name], name, domain=CLOCKSTEP, **given)
        walk.types[name] = Tensor(name, like.shape, like.dtype)
        walk.steps.append(Step(node, name, {**step.opsets, CLOCKSTEP: 1}))
        return name

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """The elements in another shape, every axis given."""
        if self.shape(name) == tuple(shape):
            return name
        if math.prod(self.shape(name)) != math.prod(shape):
            raise Mismatch(f"{name!r} of shape {self.shape(name)} is not of {list(shape)} elements")
        return self.op("Reshape", name, self.constant(shape), allowzero=1)

    def transpose(self, name: str, order: Sequence[int]) -> str:
        """The axes in another order."""
        if list(order) == sorted(order):
            return name
        return self.op("Transpose", name, perm=list(order))

    def slice(self, name: str, axis: int, start: int, end: int) -> str:
        """Elements `start` up to `end` along one axis."""
        if (start, end) == (0, self.shape(name)[axis]):
            return name
        return self.op("Slice", name, *(self.constant([n]) for n in (start, end, axis)))

    def stack(self, names: Sequence[str], axis: int) -> str:
        """Values of one shape side by side along a new axis."""
        shape = self.shape(names[0])
        rank = len(shape) + 1
        if not -rank <= axis < rank:
            raise Mismatch(f"axis {axis} of a result that has {rank}")
        parts = [self.reshape(name, (1, *shape)) for name in names]
        joined = self.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
        order = list(range(1, rank))
        order.insert(axis % rank, 0)
        return self.transpose(joined, order)

    def take(self, name: str, axis: int, index: int) -> str:
        """One element along an axis, which goes."""
        return self.op("Gather", name, self.constant(index), axis=axis)

    def cast(self, name: str, dtype: str) -> str:
        """The value in another element type, by numpy's name."""
        if self.dtype(name) == dtype:
            return name
        return self.op("Cast", name, to=helper.np_dtype_to_tensor_dtype(numpy_dtype(dtype)))

    def like(self, number: float, name: str) -> str:
        """A scalar constant in the element type of a value."""
        scalar = self.constant(number, np.float32 if isinstance(number, float) else np.int64)
        return self.cast(scalar, self.dtype(name))


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (list, tuple)):
        return [_decoded(item) for item in value]
    return value


Compose = Callable[[Body], bool | None]

_UNFIT = (ArithmeticError, LookupError, TypeError, ValueError)
"""What Python and numpy make of operands of other ranks, sizes and kinds than a body expects."""


def composes(*names: str) -> Callable[[Compose], Compose]:
    """Register a body for operators, those of other domains as `domain.operator`.

    The body gives every output of the node, or returns False before it writes anything: the node
    is then treated as any other, folded, moved or lowered. It raises `Refused`, or `Mismatch` for a
    node that ONNX does not allow.
    """

    def register(body: Compose) -> Compose:
        def rewrite(walk: Walk, step: Step) -> bool:
            try:
                return body(Body(walk, step)) is not False
            except Refused as error:
                return walk.refuse(step, error.code, error.problem, error.remedy)
            except Unknown:
                walk.poison(step.node.output)
                return True
            except _UNFIT as error:  # nobody has checked the operands before a body takes them
                raise Mismatch(f"its operands or attributes do not fit: {error}") from error

        for name in names:
            assert name not in BODIES, f"{name} is composed twice"
            BODIES[name] = rewrite
        return body

    return register
