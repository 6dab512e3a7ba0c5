"""What importing a model gives: a static graph that computes the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from clockstep_compiler.frontend import import_model, unsupported_nodes
from clockstep_compiler.graph import Graph
from clockstep_compiler.options import Options
from clockstep_isa.diagnostics import MalformedFile
from tests.support.models import (
    ACTIVATIONS,
    batched_matmul,
    build,
    elementwise_graph,
    mlp,
    permuted,
    random_inputs,
    reshapes,
)
from tests.support.quantized import matmul_integer, qdq_mlp, qlinear_matmul

Array = NDArray[np.generic]
X = {"x": ("float32", (2, 3))}
Y = {"y": ("float32", (2, 3))}


def _model_of(graph: Graph) -> ModelProto:
    """The graph as an ONNX model again; all its nodes are of one opset."""

    def value(name: str) -> onnx.ValueInfoProto:
        kind = graph.tensors[name]
        elem = helper.np_dtype_to_tensor_dtype(np.dtype(kind.dtype))
        return helper.make_tensor_value_info(name, elem, kind.shape)

    proto = helper.make_graph(
        [
            helper.make_node(n.op, n.inputs, n.outputs, n.name, domain=n.domain, **n.attributes)
            for n in graph.nodes
        ],
        graph.name,
        [value(name) for name in graph.inputs],
        [value(name) for name in graph.outputs],
        [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
    )
    opsets = {node.opset for node in graph.nodes} or {21}
    assert len(opsets) == 1
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", opsets.pop())])


def _same(model: ModelProto, options: Options | None = None) -> Graph:
    """Import, check that the graph is consistent and computes what the model does."""
    graph = import_model(model, options or Options())
    seen = set(graph.inputs) | set(graph.constants)
    for node in graph.nodes:
        assert seen.issuperset(filter(None, node.inputs)), f"{node.name} is out of order"
        seen.update(node.outputs)
    assert seen.issuperset(graph.outputs)
    rng = np.random.default_rng(0)
    sizes = dict(options.dims) if options else {}
    inputs = random_inputs(model, rng, sizes)
    want = ReferenceEvaluator(model).run(None, inputs)
    found = ReferenceEvaluator(_model_of(graph)).run(None, inputs)
    for name, a, b in zip(graph.outputs, want, found, strict=True):
        assert graph.tensors[name].shape == a.shape == b.shape
        assert graph.tensors[name].dtype == a.dtype.name == b.dtype.name
        np.testing.assert_allclose(b, a, 1e-6, 1e-6)
    return graph


def _node(op: str, inputs: list[str], outputs: list[str], **attributes: object) -> NodeProto:
    return helper.make_node(op, inputs, outputs, **attributes)


def _ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


SAMPLES = {
    "mlp": lambda rng: mlp(rng, [5, 5, 4], 3, ACTIVATIONS),
    "elementwise": lambda rng: elementwise_graph(rng, 3),
    "batched": lambda rng: batched_matmul(rng, (2, 1, 3, 4), (5, 4, 2)),
    "integer": lambda rng: matmul_integer(rng, (3, 4), (4, 5), zero_points="column"),
    "qlinear": lambda rng: qlinear_matmul(rng, (3, 4), (4, 5), per_column=True),
    "qdq": lambda rng: qdq_mlp(rng, [4, 4, 3], 2),
}


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_the_graph_computes_what_the_model_does(name: str) -> None:
    model = SAMPLES[name](np.random.default_rng(1))
    graph = _same(model)
    assert unsupported_nodes(graph) == ()
    assert {node.opset for node in graph.nodes} == {21}


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_the_order_of_the_file_changes_nothing(name: str) -> None:
    model = SAMPLES[name](np.random.default_rng(2))
    first = import_model(model, Options())
    for seed in range(4):
        again = import_model(permuted(model, seed).SerializeToString(), Options())
        assert again.sha256 == first.sha256
        assert [node.name for node in again.nodes] == [node.name for node in first.nodes]


def test_the_hash_depends_on_names_attributes_and_weights() -> None:
    model = mlp(np.random.default_rng(3), [3, 2], 1, ("LeakyRelu",), ("matmul",))
    hashes = [import_model(model, Options()).sha256]
    for change in range(3):
        copy = ModelProto()
        copy.CopyFrom(model)
        if change == 0:
            copy.graph.node[0].name = "other"
        elif change == 1:
            copy.graph.node[-1].attribute[0].f += 0.5
        else:
            weight = numpy_helper.to_array(copy.graph.initializer[0]).copy()
            weight[0, 0] += 1
            copy.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w0"))
        hashes.append(import_model(copy, Options()).sha256)
    assert len(set(hashes)) == 4


def test_the_hash_seed_changes_nothing(tmp_path: Path) -> None:
    onnx.save(qdq_mlp(np.random.default_rng(4), [4, 4, 3], 2), tmp_path / "model.onnx")
    script = (
        "from clockstep_compiler.frontend import import_model\n"
        "from clockstep_compiler.options import Options\n"
        "print(import_model('model.onnx', Options()).sha256)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_dimensions_are_bound_by_name_and_by_shape() -> None:
    model = reshapes(np.random.default_rng(5))
    by_name = _same(model, Options(dims={"N": 3}))
    by_shape = import_model(model, Options(shapes={"x": (3, 2, 3, 4)}))
    assert by_name.sha256 == by_shape.sha256
    assert by_name.tensors["y"].shape == (3, 2, 5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "int32", "int64"])
@pytest.mark.parametrize("bounds", [(1, 9, 3), (1, 10, 3), (7, -2, -3), (0, 0, 1), (3, 0, 1)])
def test_a_range_of_constants_is_one(dtype: str, bounds: tuple[int, int, int]) -> None:
    half = 0.5 if dtype.startswith("float") else 1
    constants = {k: np.array(v * half, dtype) for k, v in zip("sld", bounds, strict=True)}
    node = helper.make_node("Range", ["s", "l", "d"], ["y"])
    model = build([node], {}, {"y": (dtype, ["n"])}, constants)
    (wanted,) = ReferenceEvaluator(model).run(None, {})
    for shape in ((), (1,)):
        given = {k: v.reshape(shape) for k, v in constants.items()}
        graph = import_model(_unchecked(node, dtype, given), Options())
        assert graph.constants["y"].dtype == wanted.dtype
        assert np.array_equal(graph.constants["y"], wanted)


def test_a_range_without_end() -> None:
    node = helper.make_node("Range", ["s", "l", "d"], ["y"], "r")
    for bounds in ((0.0, 1.0, 0.0), (0.0, np.inf, 1.0), (np.nan, 1.0, 1.0)):
        constants = {k: np.array(v, np.float32) for k, v in zip("sld", bounds, strict=True)}
        with pytest.raises(MalformedFile, match="is no range"):
            import_model(_unchecked(node, "float32", constants), Options())


def _unchecked(node: NodeProto, dtype: str, constants: dict[str, NDArray]) -> ModelProto:
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    out = helper.make_tensor_value_info("y", elem, ["n"])
    kept = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph([node], "test", [], [out], kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_shape_arithmetic_folds_away() -> None:
    constants = {"first": np.array(0), "minus": np.array([-1]), "axes": np.array([0])}
    nodes = [
        _node("Relu", ["x"], ["t"]),
        _node("Shape", ["t"], ["s"]),
        _node("Gather", ["s", "first"], ["g"]),
        _node("Unsqueeze", ["g", "axes"], ["u"]),
        _node("Concat", ["u", "minus"], ["shape"], axis=0),
        _node("Reshape", ["t", "shape"], ["y"]),
        _node("Size", ["x"], ["count"]),
        _node("Shape", ["x"], ["tail"], start=-2),
    ]
    outputs = {
        "y": ("float32", ("N", 12)),
        "count": ("int64", ()),
        "tail": ("int64", (2,)),
    }
    model = build(nodes, {"x": ("float32", ("N", 3, 4))}, outputs, constants)
    graph = _same(model, Options(dims={"N": 2}))
    assert _ops(graph) == ["Relu", "Reshape"]
    assert graph.constants["shape"].tolist() == [2, -1]
    assert graph.constants["count"].item() == 24
    assert graph.constants["tail"].tolist() == [3, 4]


def test_constants_fold_but_narrow_weights_stay() -> None:
    rng = np.random.default_rng(6)
    constants = {
        "w": rng.integers(-9, 9, (4, 3)).astype(np.int8),
        "scale": np.float32(0.5),
        "a": rng.normal(size=3).astype(np.float32),
        "v": rng.normal(size=(3, 3)).astype(np.float32),
        "zero": np.int8(0),
    }
    nodes = [
        _node("DequantizeLinear", ["w", "scale"], ["wide"]),
        _node("MatMul", ["x", "wide"], ["m"]),
        _node("Transpose", ["wide"], ["turned"]),
        _node("MatMul", ["m", "turned"], ["n"]),
        _node("QuantizeLinear", ["v", "scale", "zero"], ["q"]),
        _node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        _node("MatMul", ["m", "d"], ["p"]),
        _node("Exp", ["a"], ["e"]),
        _node("Add", ["p", "e"], ["y"]),
    ]
    outputs = {"y": ("float32", (2, 3)), "n": ("float32", (2, 4))}
    graph = _same(build(nodes, {"x": ("float32", (2, 4))}, outputs, constants))
    assert sorted(_ops(graph)) == ["Add", *["DequantizeLinear"] * 3, *["MatMul"] * 3]
    assert graph.constants["w"].dtype == graph.constants["q"].dtype == np.int8
    assert graph.constants["turned.integers"].dtype == np.int8
    assert graph.constants["turned.integers"].shape == (3, 4)


def test_forwarding_nodes_vanish_and_outputs_keep_their_names() -> None:
    nodes = [
        _node("Identity", ["x"], ["a"]),
        _node("Relu", ["a"], ["b"]),
        _node("Dropout", ["b"], ["c", "mask"]),
        _node("Identity", ["c"], ["y"]),
        _node("Identity", ["b"], ["again"]),
        _node("Identity", ["x"], ["same"]),
        _node("Identity", ["k"], ["constant"]),
    ]
    names = ("y", "again", "same", "constant")
    outputs = {**{name: Y["y"] for name in names}, "mask": ("bool", (2, 3)), "x": X["x"]}
    graph = _same(build(nodes, X, outputs, {"k": np.ones((2, 3), np.float32)}))
    assert [(n.op, n.inputs, n.outputs) for n in graph.nodes] == [
        ("Identity", ("x",), ("same",)),
        ("Relu", ("x",), ("y",)),
        ("Identity", ("y",), ("again",)),
    ]
    assert graph.constants["mask"].all()


@pytest.mark.parametrize("chosen", [True, False])
def test_a_decided_branch_takes_the_place_of_its_if(chosen: bool) -> None:
    inner = [onnx.helper.make_tensor_value_info("r", 1, [2, 3])]
    weight = numpy_helper.from_array(np.full((2, 3), 2, np.float32), "k")
    then = helper.make_graph([_node("Mul", ["t", "k"], ["r"])], "then", [], inner, [weight])
    other = helper.make_graph([_node("Neg", ["t"], ["r"])], "else", [], inner)
    nodes = [
        _node("Relu", ["x"], ["t"]),
        _node("If", ["flag"], ["u"], then_branch=then, else_branch=other, name="choice"),
        _node("Add", ["u", "t"], ["y"]),
    ]
    graph = _same(build(nodes, X, Y, {"flag": np.array(chosen)}))
    assert _ops(graph) == ["Relu", "Mul" if chosen else "Neg", "Add"]


def test_operators_with_a_function_body_are_inlined() -> None:
    outputs = {"y": ("uint8", (2, 3)), "scale": ("float32", ()), "zero": ("uint8", ())}
    node = _node("DynamicQuantizeLinear", ["x"], list(outputs), name="act")
    graph = import_model(build([node], X, outputs), Options())
    assert unsupported_nodes(graph) == ()
    assert len(graph.nodes) > 1
    assert all(node.name.startswith("act/") for node in graph.nodes)


def test_a_body_with_unsupported_operators_is_not_inlined() -> None:
    graph = import_model(build([_node("Bernoulli", ["x"], ["y"], name="act")], X, Y), Options())
    (node,) = graph.nodes
    assert node.op == "Bernoulli"
    (problem,) = unsupported_nodes(graph)
    assert problem.where == "act (Bernoulli)"


def test_local_functions_are_inlined() -> None:
    body = [_node("Add", ["a", "b"], ["t"]), _node("LeakyRelu", ["t"], ["c"])]
    body[1].attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
    function = helper.make_function(
        "local", "act", ["a", "b"], ["c"], body, [helper.make_opsetid("", 17)], ["slope"]
    )
    call = _node("act", ["x", "x"], ["y"], domain="local", slope=0.25)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    plain = build([_node("Relu", ["x"], ["y"])], X, Y, opset=17)
    del plain.graph.node[:], plain.opset_import[:]
    plain.graph.node.append(call)
    plain.opset_import.extend(imports)
    plain.functions.append(function)
    graph = import_model(plain, Options())
    assert [(n.op, n.attributes) for n in graph.nodes] == [
        ("Add", {}),
        ("LeakyRelu", {"alpha": 0.25}),
    ]
    x = np.array([[1, -1, 2], [-4, 0, 3]], np.float32)
    found = ReferenceEvaluator(_model_of(graph)).run(None, {"x": x})[0]
    np.testing.assert_array_equal(found, np.where(x < 0, 0.5 * x, 2 * x))


@pytest.mark.parametrize(
    ("opset", "node", "op"),
    [
        (6, _node("Clip", ["x"], ["y"], min=0.0, max=0.5), "Clip"),
        (6, _node("Add", ["x", "rows"], ["y"], broadcast=1, axis=0), "Add"),
        (11, _node("Squeeze", ["x1"], ["y"], axes=[0]), "Squeeze"),
        (4, _node("Reshape", ["x"], ["y"], shape=[2, 3]), "Reshape"),
    ],
)
def test_old_opsets_are_lifted(opset: int, node: NodeProto, op: str) -> None:
    shape = (1, 2, 3) if "x1" in node.input else (2, 3)
    inputs = {"x1" if "x1" in node.input else "x": ("float32", shape)}
    constants = {"rows": np.array([1, 2], np.float32)} if "rows" in node.input else {}
    graph = import_model(build([node], inputs, Y, constants, opset), Options())
    assert [(n.op, n.opset) for n in graph.nodes] == [(op, 21)]
    assert ReferenceEvaluator(_model_of(graph)).run(
        None, {name: np.ones(shape, np.float32) for name in inputs}
    )[0].shape == (2, 3)


def test_newer_opsets_are_kept() -> None:
    graph = _same(build([_node("Relu", ["x"], ["y"])], X, Y, opset=22))
    assert graph.nodes[0].opset == 22


def test_names_are_unique_and_defaults_are_filled_in() -> None:
    nodes = [
        _node("Relu", ["x"], ["t"], name="twice"),
        _node("LeakyRelu", ["t"], ["u"], name="twice"),
        _node("Neg", ["u"], ["y"]),
    ]
    graph = _same(build(nodes, X, Y))
    assert [node.name for node in graph.nodes] == ["t", "u", "y"]
    assert graph.nodes[1].attributes == {"alpha": float(np.float32(0.01))}


def test_dead_nodes_and_unused_constants_are_dropped() -> None:
    nodes = [_node("Relu", ["x"], ["y"]), _node("NoSuchThing", ["x"], ["z"])]
    model = build(nodes[:1], X, Y, {"k": np.zeros(3, np.float32)})
    model.graph.node.append(nodes[1])
    graph = import_model(model, Options())
    assert _ops(graph) == ["Relu"]
    assert dict(graph.constants) == {}


def test_an_initializer_that_is_an_input_is_a_constant_unless_its_shape_is_asked_for() -> None:
    inputs = {**X, "b": ("float32", (3,))}
    model = build([_node("Add", ["x", "b"], ["y"])], inputs, Y, {"b": np.ones(3, np.float32)})
    assert import_model(model, Options()).inputs == ("x",)
    assert import_model(model, Options(shapes={"b": (3,)})).inputs == ("x", "b")


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 0)])
def test_scalars_and_empty_tensors_are_tensors(shape: tuple[int, ...]) -> None:
    kind = {"x": ("float32", shape)}, {"y": ("float32", shape)}
    assert _same(build([_node("Relu", ["x"], ["y"])], *kind)).tensors["y"].shape == shape


def test_a_small_file_does_not_unfold_into_gigabytes() -> None:
    size = {"size": np.array([1 << 28, 2, 3], np.int64)}
    nodes = [_node("ConstantOfShape", ["size"], ["c"]), _node("Add", ["x", "c"], ["y"])]
    model = build(nodes, X, {"y": ("float32", (1 << 28, 2, 3))}, size)
    graph = import_model(model, Options())
    assert _ops(graph) == ["ConstantOfShape", "Add"]


def test_random_operators_are_not_folded() -> None:
    nodes = [_node("RandomNormal", [], ["r"], shape=[2, 3]), _node("Add", ["x", "r"], ["y"])]
    graph = import_model(build(nodes, X, Y), Options())
    assert [problem.where for problem in unsupported_nodes(graph)] == ["r (RandomNormal)"]


def test_element_types_of_the_ml_kind() -> None:
    values = np.array([1.0, -2.5, 0.0], np.float32)
    for elem, dtype in ((onnx.TensorProto.BFLOAT16, "bfloat16"), (10, "float16")):
        nodes = [_node("Cast", ["x"], ["c"], to=elem), _node("Add", ["c", "k"], ["y"])]
        model = build(nodes, X, Y, {"k": values})
        model.graph.output[0].type.tensor_type.elem_type = elem
        model.graph.initializer[0].CopyFrom(helper.make_tensor("k", elem, [3], values))
        graph = import_model(model, Options())
        assert graph.tensors["y"].dtype == graph.constants["k"].dtype.name == dtype
        assert graph.constants["k"].astype(np.float32).tolist() == values.tolist()


def test_blocked_quantization_stays_in_the_graph() -> None:
    """onnx's evaluator may or may not know a form of DequantizeLinear; both must import."""
    scale = np.array([[0.5, 1, 2], [1, 2, 4]], np.float32)
    constants = {"w": np.arange(12, dtype=np.int8).reshape(4, 3), "s": scale}
    nodes = [
        _node("DequantizeLinear", ["w", "s"], ["d"], axis=0, block_size=2),
        _node("MatMul", ["x", "d"], ["y"]),
    ]
    graph = _same(build(nodes, {"x": ("float32", (2, 4))}, Y, constants))
    assert _ops(graph) == ["DequantizeLinear", "MatMul"]


def test_dequantized_values_onnx_cannot_compute_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    constants = {"w": np.ones((2, 3), np.int8), "s": np.float32(0.5)}
    nodes = [
        _node("DequantizeLinear", ["w", "s"], ["d"]),
        _node("Exp", ["d"], ["t"]),
        _node("Add", ["x", "t"], ["y"]),
    ]
    monkeypatch.setattr("clockstep_compiler.frontend.walk.evaluate", lambda *_: None)
    graph = import_model(build(nodes, X, Y, constants), Options())
    assert _ops(graph) == ["DequantizeLinear", "Exp", "Add"]
