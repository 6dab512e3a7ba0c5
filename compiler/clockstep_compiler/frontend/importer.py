"""Import a model: the frontend's stages, in order.

load -> adopt -> arrange -> check -> bind -> convert -> walk -> compose -> assemble. Loading takes
the weights out, so that nothing after it copies them; arranging comes before what asks for
operators, so that nothing depends on the order of the file; binding precedes conversion, as both
onnx's tools and ours like numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from onnx import ModelProto

from clockstep_compiler.frontend.adopt import adopt
from clockstep_compiler.frontend.assemble import assemble
from clockstep_compiler.frontend.compose import compose
from clockstep_compiler.frontend.convert import convert, unknown_operators
from clockstep_compiler.frontend.dims import bind, check_request
from clockstep_compiler.frontend.infer import Inferred, static
from clockstep_compiler.frontend.inline import Step
from clockstep_compiler.frontend.load import Loaded, Model, load
from clockstep_compiler.frontend.rewrites import REWRITES
from clockstep_compiler.frontend.structure import arrange, check, node_name
from clockstep_compiler.frontend.tensors import to_array
from clockstep_compiler.frontend.unsupported import unsupported_nodes
from clockstep_compiler.frontend.walk import Walk
from clockstep_compiler.graph import Graph, Node, Tensor
from clockstep_compiler.options import Options
from clockstep_isa.diagnostics import Diagnostic, MalformedFile, UnsupportedModel, UsageError

__all__ = ["import_model"]


def import_model(model: Model, options: Options) -> Graph:
    """Read an ONNX model (a path, the bytes of a file, or a proto) as a static graph.

    `options.dims` and `options.shapes` bind what is symbolic. Operators without a lowering stay in
    the graph (see `unsupported_nodes`) as long as their shapes can be inferred.

    Raises `UsageError` for a file that is not there and for a request that does not suit the model,
    `MalformedFile` for what is not a valid model, `UnsupportedModel` with all problems of the model
    in `diagnostics` for what cannot be made static.
    """
    loaded = load(model, frozenset(options.shapes))
    proto = loaded.model
    adopt(proto)
    arrange(proto)
    unknown = unknown_operators(proto)
    check(proto)
    check_request(proto.graph, loaded.weights, options)
    problems = [*bind(proto.graph, loaded.weights, options), *_sparse(proto)]
    if problems:
        _refuse([*problems, *unknown])
    inputs = tuple(v.name for v in proto.graph.input if v.name not in loaded.weights)
    outputs = tuple(value.name for value in proto.graph.output)
    walk = _walk(proto if unknown else _converted(proto), loaded, _declared(proto))
    _judge(walk, bool(options.dims or options.shapes))
    compose(walk, outputs)
    return assemble(walk, proto.graph.name, inputs, outputs)


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
    return walk


def _judge(walk: Walk, bound: bool) -> None:
    """Raise for what the walk found; a mismatch is the request's fault if it bound anything."""
    if walk.problems:
        graph = Graph("", (), (), {}, {}, _rough(walk), "")
        _refuse([*walk.problems, *walk.mismatches, *unsupported_nodes(graph)])
    if walk.mismatches:
        first = walk.mismatches[0]
        if bound:
            remedy = "check the sizes given with --dim and --shape"
            raise UsageError(first.code, first.message, where=first.where, help=remedy)
        raise MalformedFile(first.code, first.message, where=first.where)


def _rough(walk: Walk) -> tuple[Node, ...]:
    """The steps as far as diagnostics need them."""
    return tuple(
        Node(s.name, s.node.op_type, s.node.domain, s.opset, (), (), _original(s))
        for s in walk.steps
    )


def _original(step: Step) -> dict[str, str | int]:
    _, op, opset = step.origin
    return {"op": op, "opset": opset}


def _refuse(problems: list[Diagnostic]) -> NoReturn:
    unique = tuple(dict.fromkeys(problems))
    first = unique[0]
    raise UnsupportedModel(
        first.code, first.message, where=first.where, help=first.help, diagnostics=unique
    )
