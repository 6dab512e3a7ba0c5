"""Every way a model can be wrong: the class, the code, the place, and all problems at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from clockstep_compiler.frontend import import_model, unsupported_nodes
from clockstep_compiler.options import Options
from clockstep_isa.diagnostics import ClockstepError, MalformedFile, UnsupportedModel, UsageError
from tests.support.models import build, mlp, reshapes
from tests.support.quantized import qdq_mlp, qlinear_matmul

Shape = list[int | str] | None


def _node(op: str, inputs: list[str], outputs: list[str], **attributes: object) -> NodeProto:
    return helper.make_node(op, inputs, outputs, **attributes)


def _model(
    *nodes: NodeProto,
    shape: Shape = None,
    elem: int = TensorProto.FLOAT,
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 21,
) -> ModelProto:
    """A model that nobody has checked: input "x" of 2x3 unless `shape`, output "y"."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", elem, [2, 3] if shape is None else shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("custom", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def _refused(
    model: ModelProto | bytes | Path | str,
    error: type[ClockstepError],
    code: str,
    options: Options | None = None,
) -> ClockstepError:
    with pytest.raises(error) as caught:
        import_model(model, options or Options())
    assert type(caught.value) is error
    assert caught.value.diagnostic.code == code
    assert "\n" not in str(caught.value)
    return caught.value


def _diagnostics(error: ClockstepError) -> list[tuple[str, str]]:
    assert isinstance(error, UnsupportedModel)
    return [(d.code, d.where) for d in error.diagnostics]


RELU = _node("Relu", ["x"], ["y"])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    error = _refused(tmp_path / "none.onnx", UsageError, "model-missing")
    assert "none.onnx" in error.diagnostic.where
    assert "folder" in str(_refused(tmp_path, UsageError, "model-missing"))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "model-empty"),
        (b"This is a text file.\n" * 20, "model-parse"),
        (bytes(1000), "model-parse"),
        (ModelProto(ir_version=9).SerializeToString(), "model-parse"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, data: bytes, code: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    assert "model.onnx" in str(_refused(path, MalformedFile, code))
    _refused(data, MalformedFile, code)


def test_every_truncation_is_refused() -> None:
    data = mlp(np.random.default_rng(0), [4, 3], 2).SerializeToString()
    for length in range(0, len(data) - 1, 7):
        with pytest.raises(MalformedFile):
            import_model(data[:length], Options())


def test_bit_flips_never_crash() -> None:
    rng = np.random.default_rng(1)
    models = [
        mlp(rng, [4, 4, 3], 2, ("Relu", "Clip", "LeakyRelu")),
        qlinear_matmul(rng, (2, 4), (4, 3)),
        qdq_mlp(rng, [3, 3, 3], 2),
        reshapes(rng),
    ]
    messages = []
    for seed in range(600):
        flips = np.random.default_rng(seed)
        data = bytearray(models[seed % len(models)].SerializeToString())
        for _ in range(int(flips.integers(1, 4))):
            data[int(flips.integers(len(data)))] ^= 1 << int(flips.integers(8))
        try:
            import_model(bytes(data), Options(dims={"N": 2} if seed % 4 == 3 else {}))
        except ClockstepError as error:
            messages.append(str(error))
    assert len(messages) > 300
    assert not any("\n" in message for message in messages)


def test_a_cycle_is_named() -> None:
    nodes = (
        _node("Add", ["x", "b"], ["a"]),
        _node("Relu", ["a"], ["b"]),
        _node("Relu", ["b"], ["y"]),
    )
    assert "a -> b -> a" in str(_refused(_model(*nodes), MalformedFile, "graph-cycle"))


def test_a_function_that_calls_itself() -> None:
    body = [_node("loop", ["a"], ["b"], domain="custom")]
    imports = [helper.make_opsetid("custom", 1)]
    model = _model(_node("loop", ["x"], ["y"], domain="custom"))
    model.functions.append(helper.make_function("custom", "loop", ["a"], ["b"], body, imports))
    _refused(model, MalformedFile, "graph-cycle")


@pytest.mark.parametrize(
    ("model", "code", "place"),
    [
        (_model(_node("Add", ["x", "none"], ["y"], name="sum")), "undefined-tensor", "sum (Add)"),
        (_model(_node("Relu", ["x"], ["z"])), "undefined-tensor", "graph 'test'"),
        (_model(RELU, _node("Neg", ["x"], ["y"])), "duplicate-name", ""),
        (_model(_node("Relu", ["x", "x"], ["y"])), "model-check", ""),
        (_model(_node("Relu", [""], ["y"])), "model-check", ""),
        (_model(_node("Relu", ["x"], ["y"], nonsense=1)), "model-check", ""),
        (_model(_node("Foo", ["x"], ["y"], domain="not.imported")), "model-check", ""),
        (_model(_node("MatMul", ["x", "x"], ["y"], name="m")), "shape-mismatch", "m (MatMul)"),
        (
            _model(_node("Cast", ["x"], ["i"], to=6), _node("Add", ["x", "i"], ["y"])),
            "shape-mismatch",
            "y (Add)",
        ),
        (_model(_node("Constant", [], ["y"])), "shape-mismatch", "y (Constant)"),
        (_model(RELU, elem=TensorProto.UNDEFINED), "element-type", "input 'x'"),
    ],
)
def test_malformed_graphs(model: ModelProto, code: str, place: str) -> None:
    assert _refused(model, MalformedFile, code).diagnostic.where == place


def test_data_of_the_wrong_size() -> None:
    model = build([_node("Add", ["x", "k"], ["y"])], *_kinds(), {"k": np.ones(3, np.float32)})
    for change in (lambda t: t.dims.append(2**60), lambda t: setattr(t, "raw_data", b"123")):
        copy = ModelProto()
        copy.CopyFrom(model)
        change(copy.graph.initializer[0])
        assert "'k'" in str(_refused(copy, MalformedFile, "tensor-data"))
    copy.graph.initializer[0].CopyFrom(TensorProto(name="k", data_type=1, dims=[2**60]))
    _refused(copy, MalformedFile, "tensor-data")
    copy.graph.initializer[0].dims[:] = [-3]
    _refused(copy, MalformedFile, "tensor-shape")


def _kinds() -> tuple[dict[str, tuple[str, list[int | str]]], ...]:
    return {"x": ("float32", [2, 3])}, {"y": ("float32", [2, 3])}


def test_all_unknown_and_unsupported_operators_are_reported_at_once() -> None:
    nodes = (
        _node("Frob", ["x"], ["a"], name="first"),
        _node("Relu", ["a"], ["b"]),
        _node("RandomNormalLike", ["b"], ["c"], name="after"),
        _node("Elu", ["c"], ["d"], name="perhaps"),
        _node("RandomNormalLike", ["x"], ["e"], name="beside"),
        _node("Gelu", ["x"], ["f"], name="new"),
        _node("Tri", ["x"], ["g"], name="custom", domain="custom"),
        _node("Sum", ["d", "e", "f", "g"], ["y"], name="sum"),
    )
    error = _refused(_model(*nodes, opset=13), UnsupportedModel, "unknown-operator")
    assert sorted(_diagnostics(error)) == [
        ("random-values", "after (RandomNormalLike)"),
        ("random-values", "beside (RandomNormalLike)"),
        ("unknown-operator", "first (Frob)"),
        ("unknown-operator", "new (Gelu)"),
        ("unsupported-operator", "custom (Tri)"),
    ]
    assert any("opset 20" in str(diagnostic) for diagnostic in error.diagnostics)


def test_what_depends_on_an_unknown_shape_might_fold_and_is_not_reported() -> None:
    nodes = (
        _node("Frob", ["x"], ["a"]),
        _node("Shape", ["a"], ["s"]),
        _node("ReduceProd", ["s"], ["p"]),
        _node("Expand", ["x", "p"], ["y"]),
    )
    error = _refused(_model(*nodes), UnsupportedModel, "unknown-operator")
    assert _diagnostics(error) == [("unknown-operator", "a (Frob)")]


def test_a_custom_operator_with_a_declared_shape_stays_in_the_graph() -> None:
    model = _model(_node("Tri", ["x"], ["y"], domain="custom"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [2, 3]))
    graph = import_model(model, Options())
    assert graph.tensors["y"].shape == (2, 3)
    assert [problem.where for problem in unsupported_nodes(graph)] == ["y (Tri)"]


@pytest.mark.parametrize(
    ("node", "opset", "words"),
    [
        (_node("Upsample", ["x", "k"], ["y"]), 10, "removed by opset 10"),
        (_node("Swish", ["x"], ["y"]), 21, "exists from opset 24"),
        (_node("Frob", ["x"], ["y"]), 21, "no ONNX operator Frob"),
        (_node("Fr\nob", ["x"], ["y"], name="a\nb"), 21, "no ONNX operator 'Fr\\nob'"),
    ],
)
def test_operators_the_opset_does_not_have(node: NodeProto, opset: int, words: str) -> None:
    model = _model(node, opset=opset, constants={"k": np.ones(2, np.float32)})
    assert words in str(_refused(model, UnsupportedModel, "unknown-operator"))


def test_a_model_without_standard_operators() -> None:
    """There is nothing to convert: what is refused is the operator, not the opset."""
    node = _node("OneHotEncoder", ["x"], ["y"], domain="ai.onnx.ml", name="b", cats_int64s=[1])
    model = _model(node)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    graph = import_model(model, Options())
    assert [d.where for d in unsupported_nodes(graph)] == ["b (OneHotEncoder)"]


def test_all_unbound_dimensions_are_reported_with_the_flag_to_give() -> None:
    model = _model(_node("Add", ["x", "z"], ["y"]), shape=["N", "C", 3])
    model.graph.input.append(helper.make_tensor_value_info("z", 1, ["N", -1, 3]))
    error = _refused(model, UnsupportedModel, "unbound-dimension")
    assert isinstance(error, UnsupportedModel)
    remedies = [(d.where, d.help) for d in error.diagnostics]
    assert remedies == [
        ("input 'x'", "give it with --dim N=SIZE"),
        ("input 'x'", "give it with --dim C=SIZE"),
        ("input 'z'", "give it with --dim N=SIZE"),
        ("input 'z'", "give it with --shape z=d0,d1,..."),
    ]


def test_an_input_without_a_shape_needs_one() -> None:
    model = _model(RELU)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", 1, None))
    assert "--shape x=" in str(_refused(model, UnsupportedModel, "unbound-dimension"))
    assert import_model(model, Options(shapes={"x": (4, 5)})).tensors["y"].shape == (4, 5)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (Options(dims={"bach": 2}), "dimension-unknown", "did you mean 'batch'"),
        (Options(dims={"q": 2}), "dimension-unknown", "dimensions of the model: batch"),
        (Options(shapes={"z": (2, 3)}), "input-unknown", "inputs of the model: x"),
        (Options(dims={"batch": -2}), "dim-value", "negative"),
        (Options(shapes={"x": (-2, 3)}), "shape-value", "negative"),
        (Options(shapes={"x": (2, 3, 4)}), "shape-conflict", "3 dimensions, the model has 2"),
        (Options(shapes={"x": (2, 4)}), "shape-conflict", "dimension 1 is 3"),
        (Options(dims={"batch": 5}, shapes={"x": (2, 3)}), "shape-conflict", "(batch) is 5"),
    ],
)
def test_requests_that_do_not_suit_the_model(options: Options, code: str, words: str) -> None:
    model = _model(RELU, shape=["batch", 3])
    assert words in str(_refused(model, UsageError, code, options))


def test_a_mismatch_after_binding_is_the_request_s_fault() -> None:
    model = _model(_node("MatMul", ["x", "x"], ["y"]), shape=["N", 3])
    assert "--dim" in str(_refused(model, UsageError, "shape-mismatch", Options(dims={"N": 2})))
    assert import_model(model, Options(dims={"N": 3})).tensors["y"].shape == (3, 3)


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (_model(RELU, elem=TensorProto.STRING), "element-type"),
        (_model(_node("Constant", [], ["y"], value_string="hello")), "element-type"),
        (_model(_node("SequenceConstruct", ["x"], ["y"])), "not-a-tensor"),
        (_model(_node("NonZero", ["x"], ["y"])), "dynamic-shape"),
        (_model(RELU, shape=[2**60, 4]), "model-form"),
        (_model(_node("MatMul", ["x", "z"], ["y"]), shape=[2**36, 1]), "model-form"),
        (_model(_node("Tri", ["x"], ["y"], domain="custom")), "unsupported-operator"),
        (_model(RELU, opset=99), "model-form"),
    ],
)
def test_models_that_are_not_static(model: ModelProto, code: str) -> None:
    if "z" in model.graph.node[0].input:
        model.graph.input.append(helper.make_tensor_value_info("z", 1, [1, 2**36]))
    _refused(model, UnsupportedModel, code)


def test_inputs_that_are_no_tensors() -> None:
    model = _model(RELU)
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [2]))
    model.graph.node[0].op_type = "SequenceLength"
    model.graph.input[0].CopyFrom(helper.make_value_info("x", kind))
    assert "is a sequence" in str(_refused(model, UnsupportedModel, "not-a-tensor"))


def test_control_flow_on_data() -> None:
    branches = [
        helper.make_graph(
            [_node(op, ["x"], ["r"])], op, [], [helper.make_tensor_value_info("r", 1, None)]
        )
        for op in ("Relu", "Transpose")
    ]
    nodes = (
        _node("ReduceSum", ["x"], ["s"], keepdims=0),
        _node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
        _node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1], name="branch"),
    )
    error = _refused(_model(*nodes), UnsupportedModel, "control-flow")
    assert _diagnostics(error) == [("control-flow", "branch (If)")]


def test_dropout_in_training() -> None:
    constants = {"ratio": np.array(0.5, np.float32), "training": np.array(True)}
    model = _model(_node("Dropout", ["x", "ratio", "training"], ["y"]), constants=constants)
    _refused(model, UnsupportedModel, "random-values")


def test_models_newer_than_the_installed_onnx() -> None:
    model = _model(RELU)
    model.ir_version = onnx.IR_VERSION + 1
    assert "newer onnx" in str(_refused(model, UnsupportedModel, "model-form"))


def test_sparse_initializers() -> None:
    values = helper.make_tensor("k", 1, [1], [2.0])
    indices = helper.make_tensor("i", 7, [1], [4])
    model = _model(_node("Add", ["x", "k"], ["y"]))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 3]))
    _refused(model, UnsupportedModel, "not-a-tensor")


def test_names_that_are_not_text() -> None:
    data = _model(_node("Relu", ["x"], ["middle"]), _node("Neg", ["middle"], ["y"]))
    raw = data.SerializeToString().replace(b"middle", b"mid\xff\xfee")
    _refused(raw, MalformedFile, "model-text")
