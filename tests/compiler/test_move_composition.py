"""Moves in a graph: composed where that is worth it, gone where they change nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper
from onnx.reference import ReferenceEvaluator

from clockstep_compiler.frontend import import_model, unsupported_nodes
from clockstep_compiler.frontend.moves import ELEMENTS_LIMIT
from clockstep_compiler.graph import CLOCKSTEP, Graph
from clockstep_compiler.lowering import lower
from clockstep_compiler.options import Options
from clockstep_isa import load_machine
from clockstep_isa.diagnostics import UnsupportedModel
from tests.support.models import build
from tests.support.moving import apply_move, random_array

LPU = load_machine("lpu-v1")

Array = NDArray[np.generic]


def _node(op: str, inputs: str, outputs: str, name: str = "", **attributes: object) -> NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name, **attributes)


def _import(
    nodes: Sequence[NodeProto],
    shape: Sequence[int],
    outputs: Mapping[str, Sequence[int]],
    constants: Mapping[str, Array] | None = None,
    opset: int = 21,
) -> Graph:
    """The graph of a model of one input x, checked to compute what the model does."""
    kinds = {name: ("float32", tuple(sizes)) for name, sizes in outputs.items()}
    model = build(nodes, {"x": ("float32", shape)}, kinds, constants, opset)
    graph = import_model(model, Options())
    _check(model, graph, random_array(tuple(shape), "float32", 0))
    return graph


def _check(model: ModelProto, graph: Graph, x: Array) -> None:
    values: dict[str, Array] = {"x": x, **graph.constants}
    for node in graph.nodes:
        values[node.outputs[0]] = _made(node.op, node.attributes, [values[n] for n in node.inputs])
    found = ReferenceEvaluator(model).run(None, {"x": x})
    for name, wanted in zip(graph.outputs, found, strict=True):
        assert values[name].shape == graph.tensors[name].shape == wanted.shape
        assert values[name].tobytes() == np.ascontiguousarray(wanted).tobytes()


def _made(op: str, attributes: Mapping[str, object], arrays: list[Array]) -> Array:
    if op == "Move":
        index, fill = attributes["index"], attributes["fill"]
        assert isinstance(index, np.ndarray)
        assert isinstance(fill, bool | int | float)
        return apply_move(index, fill, arrays, arrays[0].dtype)
    if op == "Neg":
        return np.negative(arrays[0])
    assert op == "Identity"
    return arrays[0]


def _ops(graph: Graph) -> list[str]:
    return [node.origin[1] for node in graph.nodes]


def test_a_move_has_the_node_s_name_and_says_what_it_was() -> None:
    graph = _import([_node("Transpose", "x", "y", "turn")], (2, 3), {"y": (3, 2)})
    (node,) = graph.nodes
    assert (node.name, node.op, node.domain, node.opset) == ("turn", "Move", CLOCKSTEP, 1)
    assert node.origin == ("", "Transpose", 21)
    assert node.attributes["index"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert node.attributes["fill"] == 0


def test_a_move_of_a_move_is_one_move() -> None:
    starts = {"s": np.array([1]), "e": np.array([3]), "pads": np.array([0, 1, 0, 0])}
    nodes = [
        _node("Transpose", "x", "t"),
        _node("Slice", "t s e", "u"),
        _node("Pad", "u pads", "y", "last"),
    ]
    graph = _import(nodes, (2, 3), {"y": (2, 3)}, starts)
    (node,) = graph.nodes
    assert (node.name, node.inputs) == ("last", ("x",))
    assert node.attributes["index"].tolist() == [[-1, 1, 4], [-1, 2, 5]]


def test_moves_that_undo_each_other_disappear() -> None:
    nodes = [
        _node("Neg", "x", "n"),
        _node("Transpose", "n", "t"),
        _node("Transpose", "t", "u"),
        _node("Neg", "u", "y"),
    ]
    graph = _import(nodes, (2, 3), {"y": (2, 3)})
    assert _ops(graph) == ["Neg", "Neg"]
    nodes = [_node("Transpose", "x", "t"), _node("Transpose", "t", "y")]
    graph = _import(nodes, (2, 3), {"y": (2, 3)})
    assert [(n.op, n.inputs, n.outputs) for n in graph.nodes] == [("Identity", ("x",), ("y",))]


def test_a_move_that_changes_nothing_disappears() -> None:
    constants = {"all": np.array([0, 2]), "none": np.zeros(4, np.int64), "same": np.array([1, 1])}
    nodes = [
        _node("Expand", "x same", "e"),
        _node("Pad", "e none", "p"),
        _node("Split", "p all", "empty q", axis=0),
        _node("Concat", "q", "c", axis=0),
        _node("Neg", "c", "y"),
    ]
    graph = _import(nodes, (2, 3), {"y": (2, 3)}, constants)
    assert _ops(graph) == ["Neg"]


def test_a_costly_move_that_others_use_stays_one() -> None:
    nodes = [
        _node("Transpose", "x", "t"),
        _node("Transpose", "t", "y", perm=[1, 0]),
        _node("Concat", "t t", "z", axis=0),
        _node("Neg", "t", "w"),
    ]
    graph = _import(nodes, (2, 3), {"y": (2, 3), "z": (6, 2), "w": (3, 2)})
    assert sorted(_ops(graph)) == ["Concat", "Neg", "Transpose", "Transpose"]
    (concat,) = (node for node in graph.nodes if node.origin[1] == "Concat")
    assert concat.inputs == ("t",)


def test_rows_are_taken_through_a_move_however_many_use_it() -> None:
    constants = {"s": np.array([1]), "e": np.array([4])}
    nodes = [
        _node("Slice", "x s e", "r"),
        _node("Transpose", "r", "y"),
        _node("Transpose", "r", "t"),
        _node("Neg", "t", "z"),
        _node("Neg", "r", "w"),
    ]
    graph = _import(nodes, (5, 3), {"y": (3, 3), "z": (3, 3), "w": (3, 3)}, constants)
    moved = [node for node in graph.nodes if node.origin[1] == "Transpose"]
    assert [node.inputs for node in moved] == [("x",), ("x",)]


def test_different_fills_are_not_mixed() -> None:
    constants = {"p": np.array([0, 1]), "one": np.float32(1), "two": np.float32(2)}
    pads = [_node("Pad", "x p one", "t"), _node("Pad", "t p two", "y")]
    graph = _import(pads, (3,), {"y": (5,)}, constants)
    assert [node.attributes["fill"] for node in graph.nodes] == [1.0, 2.0]
    pads = [_node("Pad", "x p one", "t"), _node("Pad", "t p one", "y")]
    graph = _import(pads, (3,), {"y": (5,)}, constants)
    assert [node.attributes["index"].tolist() for node in graph.nodes] == [[0, 1, 2, -1, -1]]


def test_a_split_is_a_move_for_each_output_that_is_used() -> None:
    nodes = [
        _node("Split", "x", "a b c", "cut", axis=0, num_outputs=3),
        _node("Concat", "c a", "y", axis=0),
    ]
    graph = _import(nodes, (6, 2), {"y": (4, 2), "c": (2, 2)})
    assert [(n.name, n.inputs, n.outputs) for n in graph.nodes] == [
        ("cut", ("x",), ("c",)),
        ("y", ("x",), ("y",)),
    ]


def test_what_takes_nothing_is_a_constant() -> None:
    constants = {"s": np.array([5]), "e": np.array([9]), "far": np.array(7)}
    nodes = [_node("Slice", "x s e", "y"), _node("Trilu", "x far", "z", upper=1)]
    graph = _import(nodes, (2, 3), {"y": (0, 3), "z": (2, 3)}, constants)
    assert graph.nodes == ()
    assert not graph.constants["z"].any()


@pytest.mark.parametrize(
    ("node", "opset", "constants", "size"),
    [
        (_node("Upsample", "x k", "y"), 9, {"k": np.array([1, 2], np.float32)}, (2, 6)),
        (_node("Upsample", "x", "y", scales=[2.0, 1.0]), 7, {}, (4, 3)),
        (_node("Pad", "x", "y", pads=[1, 0, 0, 2], value=3.0), 2, {}, (3, 5)),
        (_node("Slice", "x", "y", starts=[1], ends=[3], axes=[1]), 1, {}, (2, 2)),
        (_node("Scatter", "x i x", "y"), 9, {"i": np.array([[1, 0, 1]] * 2)}, (2, 3)),
    ],
)
def test_models_of_old_opsets(
    node: NodeProto, opset: int, constants: dict[str, Array], size: tuple[int, ...]
) -> None:
    model = build([node], {"x": ("float32", (2, 3))}, {"y": ("float32", size)}, constants, opset)
    graph = import_model(model, Options())
    assert [n.op for n in graph.nodes] == ["Move"]
    if node.op_type not in ("Upsample", "Scatter"):
        _check(model, graph, random_array((2, 3), "float32", 0))


def test_a_move_of_too_many_elements_is_refused() -> None:
    shape = {"s": np.array([ELEMENTS_LIMIT // 8 + 1, 8])}
    kinds = {"y": ("float32", (ELEMENTS_LIMIT // 8 + 1, 8))}
    model = build([_node("Expand", "x s", "y")], {"x": ("float32", (1, 8))}, kinds, shape)
    with pytest.raises(UnsupportedModel, match="moves 134217736 elements") as caught:
        import_model(model, Options())
    assert [problem.where for problem in caught.value.diagnostics] == ["y (Expand)"]


def test_an_index_that_is_computed_leaves_the_node_as_it_is() -> None:
    nodes = [_node("ArgMax", "x", "k", keepdims=0), _node("Trilu", "x k", "y")]
    model = build(nodes, {"x": ("float32", (2, 1))}, {"y": ("float32", (2, 1))})
    graph = import_model(model, Options())
    assert [node.op for node in graph.nodes] == ["ArgMax", "Trilu"]
    assert "y (Trilu)" in [problem.where for problem in unsupported_nodes(graph)]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(draw=st.data())
def test_random_graphs_of_moves(draw: st.DataObject) -> None:
    shapes: dict[str, tuple[int, int]] = {"x": (3, 4)}
    nodes: list[NodeProto] = []
    for i in range(draw.draw(st.integers(1, 7))):
        name = draw.draw(st.sampled_from(sorted(shapes)))
        kind = draw.draw(st.sampled_from(sorted(_STEPS)))
        if kind == "join":
            like = sorted(n for n in shapes if shapes[n][1] == shapes[name][1])
            name += " " + draw.draw(st.sampled_from(like))
        elif kind == "pick" and 0 in shapes[name]:
            continue
        op, operands, attributes = _STEPS[kind]
        nodes.append(_node(op, f"{name} {operands}", f"v{i}", **attributes))
        shapes[f"v{i}"] = _shape_after(kind, [shapes[n] for n in name.split()])
    made = [name for name in shapes if name != "x"]
    if made:
        chosen = draw.draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
        _import(nodes, (3, 4), {name: shapes[name] for name in chosen}, _OPERANDS)


_STEPS: Mapping[str, tuple[str, str, dict[str, int]]] = {
    "turn": ("Transpose", "", {}),
    "cut": ("Slice", "starts ends axes steps", {}),
    "above": ("Pad", "above one", {}),
    "beside": ("Pad", "beside zero", {}),
    "join": ("Concat", "", {"axis": 0}),
    "pick": ("Gather", "picked", {"axis": 1}),
    "compute": ("Neg", "", {}),
}
_OPERANDS: Mapping[str, Array] = {
    "above": np.array([2, 0, 0, 0]),
    "beside": np.array([0, 0, 0, 1]),
    "zero": np.float32(0),
    "one": np.float32(1),
    "picked": np.array([0, -1]),
    "starts": np.array([1, -1]),
    "ends": np.array([9, -9]),
    "axes": np.array([0, 1]),
    "steps": np.array([1, -2]),
}


def _shape_after(kind: str, shapes: list[tuple[int, int]]) -> tuple[int, int]:
    rows, columns = shapes[0]
    return {
        "turn": (columns, rows),
        "cut": (max(0, rows - 1), -(-columns // 2)),
        "above": (rows + 2, columns),
        "beside": (rows, columns + 1),
        "join": (rows + shapes[-1][0], columns),
        "pick": (rows, 2),
        "compute": (rows, columns),
    }[kind]


def test_the_domain_of_our_own_operators_is_not_a_model_s() -> None:
    node = _node("Move", "x", "y", domain=CLOCKSTEP, index=[0])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", 1, [2])],
        [helper.make_tensor_value_info("y", 1, [2])],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(CLOCKSTEP, 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    with pytest.raises(UnsupportedModel, match=r"operator clockstep.Move \(opset 1\)"):
        import_model(model, Options())


def test_a_compilation_says_with_what_an_operator_is_supported() -> None:
    nodes = [_node("Cast", "s", "k", to=7), _node("Trilu", "x k", "y")]
    inputs = {"x": ("float32", (2, 2)), "s": ("float32", ())}
    graph = import_model(build(nodes, inputs, {"y": ("float32", (2, 2))}), Options())
    (problem,) = unsupported_nodes(graph)
    assert (problem.code, problem.where) == ("unsupported-form", "y (Trilu)")
    with pytest.raises(UnsupportedModel, match="Trilu is supported only with k constant"):
        lower(graph, Options(), LPU)
