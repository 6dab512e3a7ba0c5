"""Import a model: the frontend's stages, in order.

load -> adopt -> arrange -> check -> bind -> convert -> walk -> compose -> assemble. Loading takes
the weights out, so that nothing after it copies them; arranging comes before what asks for
operators, so that nothing depends on the order of the file; binding precedes conversion, as both
onnx's tools and ours like numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

from onnx import ModelProto

from clockstep_compiler.frontend.adopt import adopt
from clockstep_compiler.frontend.assemble import assemble
from clockstep_compiler.frontend.bound import bind_values
from clockstep_compiler.frontend.compose import compose
from clockstep_compiler.frontend.convert import convert, unknown_operators
from clockstep_compiler.frontend.dims import assume, bind, check_request
from clockstep_compiler.frontend.infer import Inferred, static
from clockstep_compiler.frontend.inline import Step
from clockstep_compiler.frontend.load import Loaded, Model, load
from clockstep_compiler.frontend.rewrites import REWRITES
from clockstep_compiler.frontend.structure import arrange, check, node_name, opset_of
from clockstep_compiler.frontend.tensors import to_array
from clockstep_compiler.frontend.unsupported import unsupported_nodes
from clockstep_compiler.frontend.walk import Walk
from clockstep_compiler.graph import Graph, Tensor
from clockstep_compiler.options import Options
from clockstep_isa.diagnostics import Diagnostic, MalformedFile, UnsupportedModel, UsageError

__all__ = ["Survey", "import_model", "survey"]


@dataclass(frozen=True, slots=True)
class Survey:
    """A model as far as it can be read, and what is wrong with it.

    If `problems` is empty, `graph` is the whole model. Else it is what can be judged further: its
    `assumed` inputs and outputs stand for nodes that are left out. `nodes` has the operator and
    the opset of each node of the model, by its name.
    """

    graph: Graph
    problems: tuple[Diagnostic, ...]
    nodes: Mapping[str, tuple[str, int]]


def import_model(model: Model, options: Options) -> Graph:
    """Read an ONNX model (a path, the bytes of a file, or a proto) as a static graph.

    `options.dims` and `options.shapes` bind what is symbolic, `options.bind` makes inputs constant.
    Operators without a lowering stay in the graph (see `unsupported_nodes`) as long as their shapes
    can be inferred.

    Raises `UsageError` for a file that is not there and for a request that does not suit the model,
    `MalformedFile` for what is not a valid model, `UnsupportedModel` with all problems of the model
    in `diagnostics` for what cannot be made static.
    """
    found = survey(model, options)
    if found.problems:
        _refuse([*found.problems, *unsupported_nodes(found.graph)])
    return found.graph


def survey(model: Model, options: Options) -> Survey:
    """`import_model`, but problems do not end it if there is anything else to judge.

    Raises `UnsupportedModel` if dimensions are unbound, with what is wrong for any size of them.
    """
    loaded = load(model, frozenset((*options.shapes, *options.bind)), options.weights)
    proto = loaded.model
    adopt(proto)
    arrange(proto)
    unknown = unknown_operators(proto)
    check(proto)
    check_request(proto.graph, loaded.weights, options)
    problems = [*bind(proto.graph, loaded.weights, options), *_sparse(proto)]
    bind_values(proto.graph, options.bind)
    inputs = tuple(v.name for v in proto.graph.input if v.name not in loaded.weights)
    outputs = tuple(value.name for value in proto.graph.output)
    if problems:
        further = _of_any_size(proto, loaded, problems) if not unknown else []
        _refuse([*problems, *unknown, *further])
    nodes = _nodes(proto)
    walk = _walk(proto if unknown else _converted(proto), loaded, _declared(proto))
    _judge(walk, bool(options.dims or options.shapes or options.bind))
    if walk.problems:
        graph = _rest(walk, proto.graph.name, inputs, outputs)
        return Survey(graph, _unique([*walk.problems, *walk.mismatches]), nodes)
    compose(walk, outputs)
    return Survey(assemble(walk, proto.graph.name, inputs, outputs), (), nodes)


_SIZELESS = frozenset(["not-a-tensor", "random-values", "unknown-operator", "unsupported-operator"])
"""Problems that a model has whatever the sizes of its inputs are."""


def _of_any_size(
    proto: ModelProto, loaded: Loaded, problems: Iterable[Diagnostic]
) -> list[Diagnostic]:
    """What else is wrong with a model whose dimensions are not all bound."""
    if not assume(proto.graph, loaded.weights, problems):
        return []
    try:
        walk = _walk(_converted(proto), loaded, _declared(proto))
    except UnsupportedModel:
        return []
    inputs = tuple(v.name for v in proto.graph.input if v.name not in loaded.weights)
    graph = _rest(walk, "", inputs, tuple(value.name for value in proto.graph.output))
    found = [*walk.problems, *unsupported_nodes(graph)]
    return [problem for problem in found if problem.code in _SIZELESS]


def _nodes(proto: ModelProto) -> dict[str, tuple[str, int]]:
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    opsets[""] = opset_of(proto)
    return {node_name(n): (n.op_type, opsets.get(n.domain, 0)) for n in proto.graph.node}


def _rest(walk: Walk, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Graph:
    """What can be judged of a model with problems: from the values of refused nodes on, and up to
    their operands."""
    known = frozenset(walk.types)
    given = dict.fromkeys([*inputs, *map(walk.resolve, walk.assumed)])
    kept = [name for name in outputs if walk.resolve(name) in known]
    last = dict.fromkeys([*kept, *map(walk.resolve, walk.wanted)])
    wanted = tuple(n for n in last if n in known and n not in given and n not in walk.constants)
    compose(walk, wanted)
    graph = assemble(walk, name, tuple(given), wanted)
    assumed = frozenset((*given, *wanted)) - frozenset((*inputs, *outputs))
    return replace(graph, assumed=assumed)


def _converted(proto: ModelProto) -> ModelProto:
    converted = convert(proto)
    arrange(converted)
    return converted


def _declared(proto: ModelProto) -> dict[str, Inferred]:
    values = (*proto.graph.value_info, *proto.graph.output)
    return {value.name: static(value.name, value.type) for value in values}


def _sparse(proto: ModelProto) -> list[Diagnostic]:
    return [
        Diagnostic(
            "not-a-tensor",
            "sparse initializers are not supported",
            f"tensor {tensor.values.name!r}",
            "store it as a dense tensor",
        )
        for tensor in proto.graph.sparse_initializer
    ]


def _walk(proto: ModelProto, loaded: Loaded, declared: Mapping[str, Inferred]) -> Walk:
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    walk = Walk(loaded.files, opsets, declared, REWRITES)
    for value in proto.graph.input:
        row = static(value.name, value.type)
        if value.name in loaded.weights:
            walk.add_constant(value.name, loaded.weights[value.name])
            continue
        assert row.dtype is not None, f"{value.name} is no tensor"
        assert row.shape is not None, f"{value.name} was not bound"
        walk.types[value.name] = Tensor(value.name, row.shape, row.dtype)
    for tensor in proto.graph.initializer:
        walk.add_constant(tensor.name, to_array(tensor, loaded.files))
    walk.run(Step(node, node_name(node), opsets) for node in proto.graph.node)
    walk.problems += [
        Diagnostic("not-a-tensor", "is a sequence, not a dense tensor", f"output {value.name!r}")
        for value in proto.graph.output
        if walk.resolve(value.name) in walk.sequences
    ]
    return walk


def _judge(walk: Walk, bound: bool) -> None:
    """Raise if the walk found mismatches alone: the request's fault if it bound anything."""
    if walk.mismatches and not walk.problems:
        first = walk.mismatches[0]
        if bound:
            remedy = "check what is given with --dim, --shape and --bind"
            raise UsageError(first.code, first.message, where=first.where, help=remedy)
        raise MalformedFile(first.code, first.message, where=first.where)


def _unique(problems: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    return tuple(dict.fromkeys(problems))


def _refuse(problems: Iterable[Diagnostic]) -> NoReturn:
    unique = _unique(problems)
    first = unique[0]
    raise UnsupportedModel(
        first.code, first.message, where=first.where, help=first.help, diagnostics=unique
    )
