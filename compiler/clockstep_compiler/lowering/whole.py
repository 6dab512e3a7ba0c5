"""All nodes of a graph lowered, or every reason why they are not; what inputs must be limited to.

Nothing is known of an operator here: those are in the other files of this folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clockstep_compiler.frontend.unsupported import unsupported_operator
from clockstep_compiler.graph import Graph, Node
from clockstep_compiler.lowering.lower import HANDLERS, STORED, WORDS, Lowering, is_float
from clockstep_compiler.operators import BY_NAME, full_name
from clockstep_compiler.options import Options
from clockstep_compiler.steps import Lowered, Value
from clockstep_isa.diagnostics import Diagnostic, UnsupportedModel
from clockstep_isa.machine import Machine

__all__ = ["lower"]


def _problem(node: Node, error: UnsupportedModel) -> Diagnostic:
    d = error.diagnostic
    where = f"node {node.name!r} ({node.op})"
    return Diagnostic(d.code, d.message, where, d.help, node.name, node.op, node.opset)


def _check_types(graph: Graph) -> list[Diagnostic]:
    """Graph inputs and outputs of an element type that cannot be stored."""
    return [
        Diagnostic(
            "element-type",
            f"{graph.tensors[name].dtype} cannot be stored",
            f"{kind} {name!r}",
            "cast to one of " + ", ".join(STORED),
        )
        for kind, names in (("input", graph.inputs), ("output", graph.outputs))
        for name in names
        if graph.tensors[name].dtype not in STORED and name not in graph.assumed
    ]


def lower(graph: Graph, options: Options, machine: Machine) -> Lowered:
    """Turn every node into steps on a machine.

    Where results of 64 bits could exceed 32, inputs of 64 bits are taken from a smaller range.
    Raises `UnsupportedModel` with one diagnostic for each node that cannot be lowered.
    """
    limits: dict[str, int] = {}
    while True:
        try:
            return _lowered(graph, options, machine, limits)
        except UnsupportedModel as error:
            less = _tighter(graph, limits, error.diagnostics)
            if less == limits:
                raise
            limits = less


_LIMITS = (2**31 - 1, 2**30 - 1, 2**24, 2**20, 46_340, 2**10, 2**7, 2**4, 2**3)
"""The largest magnitude of an input of 64 bits, tried in this order: 46340 squared fits 32 bits."""


def _tighter(
    graph: Graph, limits: Mapping[str, int], problems: Sequence[Diagnostic]
) -> dict[str, int]:
    """The next smaller limits of the inputs that nodes whose results are too large depend on."""
    failed = {(d.node, d.op) for d in problems if d.code == "integer-range"}
    wanted: set[str] = set()
    for node in reversed(graph.nodes):
        if (node.name, node.op) in failed or not wanted.isdisjoint(node.outputs):
            wanted.update(n for n in node.inputs if n and not is_float(graph.tensors[n].dtype))
    less = dict(limits)
    for name in graph.inputs:
        at = _LIMITS.index(limits.get(name, _LIMITS[0]))
        if name in wanted and graph.tensors[name].dtype in WORDS and at + 1 < len(_LIMITS):
            less[name] = _LIMITS[at + 1]
    return less


def _lowered(
    graph: Graph, options: Options, machine: Machine, limits: Mapping[str, int]
) -> Lowered:
    state = Lowering(graph, options, machine, limits)
    problems = [*_check_types(graph), *_lower_nodes(state)]
    if problems:
        first = problems[0]
        raise UnsupportedModel(
            first.code,
            first.message,
            where=first.where,
            help=first.help,
            diagnostics=tuple(problems),
        )
    outputs = tuple((name, state.store(name)) for name in graph.outputs)
    return Lowered(
        tuple(state.steps),
        tuple(state.values),
        outputs,
        _stored(state),
        state.weight_bytes,
        (*_doubles(graph, options), *state.warnings, *_limited(graph, limits)),
        {name: state.bounds[name] for name in limits},
        frozenset(name for name, _ in graph.states),
    )


def _limited(graph: Graph, limits: Mapping[str, int]) -> list[str]:
    """What is to be said of inputs that are taken from less than their type's range."""
    return [
        f"input {name!r} is {graph.tensors[name].dtype}: the program takes magnitudes up to {most}"
        for name, most in limits.items()
    ]


def _doubles(graph: Graph, options: Options) -> list[str]:
    """That float64 is not what it says, unless it is only converted."""
    made = (name for node in graph.nodes for name in node.outputs if name)
    found = [n for n in (*graph.inputs, *made) if graph.tensors[n].dtype == "float64"]
    if not found or options.precision == "exact":
        return []
    return [f"{len(found)} tensors, {found[0]!r} the first, are float64: computed in float32"]


def _lower_nodes(state: Lowering) -> list[Diagnostic]:
    """Lower every node, or say why not; what a refused node makes is then taken as given."""
    graph, problems = state.graph, list[Diagnostic]()
    broken = {n for n in graph.inputs if graph.tensors[n].dtype not in STORED}
    assumed = set(graph.assumed)
    for index, node in enumerate(graph.nodes):
        state.start_node(index)
        try:
            _check_operator(node)
            if not broken.isdisjoint(node.inputs):
                broken.update(node.outputs)
                continue
            _lower_node(state, node)
        except UnsupportedModel as error:
            found = _problem(node, error)
            # Of a value that is assumed, the range is unknown for that reason alone.
            known = found.code != "integer-range" or assumed.isdisjoint(node.inputs)
            problems += [found] if known else []
            broken.update(n for n in node.outputs if not state.assume(n))
            assumed.update(node.outputs)
        if not assumed.isdisjoint(node.inputs):
            assumed.update(node.outputs)
    return problems


def _stored(state: Lowering) -> tuple[tuple[str, Value], ...]:
    """The tensors that steps store in their own type, by the first name of each matrix."""
    found: dict[int, tuple[str, Value]] = {}
    for name, tensor in state.tensors.items():
        value = tensor.values.get(state.stored_type(name))
        if value is not None and value.origin == "step":
            found.setdefault(value.number, (name, value))
    return tuple(found.values())


def _check_operator(node: Node) -> None:
    """Refuse a node without a lowering, whatever became of those before it."""
    if node.domain not in ("", "ai.onnx", "clockstep") or node.op not in HANDLERS:
        name = full_name(node.domain, node.op)
        if name in BY_NAME:
            raise UnsupportedModel("unsupported-form", BY_NAME[name].problem)
        d = unsupported_operator(node.name, node.op, node.domain, node.opset)
        raise UnsupportedModel(d.code, d.message, help=d.help)


def _lower_node(state: Lowering, node: Node) -> None:
    exact = state.options.precision == "exact"
    for name in (*node.inputs, *node.outputs):
        if not name or state.constant(name) is not None:
            continue
        if exact and state.dtype(name) == "float64" and not _converts_exactly(state, node):
            raise UnsupportedModel(
                "element-type",
                f"float64 of {name!r} would be computed in float32",
                help="cast to float32, or choose another --precision",
            )
        if state.dtype(name) not in STORED:
            raise UnsupportedModel(
                "element-type",
                f"element type {state.dtype(name)} of {name!r} is not supported",
                help="cast to one of " + ", ".join(STORED),
            )
        if state.dtype(name) in _UNSIGNED and not _takes(node, state.dtype(name)):
            raise UnsupportedModel(
                "element-type",
                f"{node.op} of {state.dtype(name)} is not supported",
                help="cast to int32",
            )
    HANDLERS[node.op](state, node)


def _converts_exactly(state: Lowering, node: Node) -> bool:
    """Whether a node reads or writes float64 only as what f32 holds, or the host has rounded."""
    if node.op not in ("Cast", "CastLike"):
        return False
    source, target = state.dtype(node.inputs[0]), state.dtype(node.outputs[0])
    if source != "float64":
        return is_float(source) or source in ("bool", "int8", "uint8", "int16", "uint16")
    rounded = ("float16", "float32", "float64")
    return target in rounded or (node.inputs[0] not in state.graph.inputs and is_float(target))


_UNSIGNED = ("uint32", "uint64")
"""Types that share words with int32: only operators that say so know the difference."""


def _takes(node: Node, dtype: str) -> bool:
    row = BY_NAME.get(node.origin[1])
    return row is not None and (row.types.startswith("any") or dtype in row.types)
