"""External data: mapped, never copied, and never read from outside the model's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from clockstep_compiler.frontend import import_model
from clockstep_compiler.options import Options
from clockstep_isa.diagnostics import MalformedFile, UnsupportedModel
from tests.support.models import build

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


def _external(name: str, **entries: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=1, dims=[4, 3], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def _model(tensor: TensorProto) -> ModelProto:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "matmul")
    kinds = {"x": ("float32", (2, 4))}, {"y": ("float32", (2, 3))}
    model = build([node], *kinds, {"w": WEIGHT})
    model.graph.initializer[0].CopyFrom(tensor)
    return model


def _saved(folder: Path, **entries: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(_model(_external("w", **entries)).SerializeToString())
    return path


def test_data_is_mapped_at_its_offset(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"ABC" + WEIGHT.tobytes())
    path = _saved(tmp_path, location="w.bin", offset="3", length="48")
    graph = import_model(path, Options())
    weight = graph.constants["w"]
    np.testing.assert_array_equal(weight, WEIGHT)
    assert isinstance(weight, np.memmap)
    assert not weight.flags.writeable
    inside = build(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "matmul")],
        {"x": ("float32", (2, 4))},
        {"y": ("float32", (2, 3))},
        {"w": WEIGHT},
    )
    assert graph.sha256 == import_model(inside, Options()).sha256


def test_models_saved_by_onnx_open(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    constants = {f"w{i}": rng.normal(size=(40, 40)).astype(np.float32) for i in range(3)}
    nodes = [helper.make_node("MatMul", ["xab"[i], f"w{i}"], ["aby"[i]]) for i in range(3)]
    model = build(nodes, {"x": ("float32", (2, 40))}, {"y": ("float32", (2, 40))}, constants)
    digest = import_model(model, Options()).sha256
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    graph = import_model(str(tmp_path / "m.onnx"), Options())
    assert all(isinstance(array, np.memmap) for array in graph.constants.values())
    assert graph.sha256 == digest


def test_narrow_types_are_read(tmp_path: Path) -> None:
    values = np.array([[-8, 7, 3], [1, -1, 0], [2, 2, 2], [5, -5, 4]])
    (tmp_path / "w.bin").write_bytes(_packed(values))
    external = _external("w", location="w.bin")
    external.data_type = TensorProto.INT4
    model = _model(external)
    del model.graph.node[:]
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["x", "wide"], ["y"]),
        ]
    )
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    graph = import_model(tmp_path / "m.onnx", Options())
    np.testing.assert_array_equal(graph.constants["wide"], values.astype(np.float32))


def _packed(values: np.ndarray) -> bytes:
    nibbles = (values.reshape(-1) & 15).astype(np.uint8)
    return (nibbles[0::2] | nibbles[1::2] << 4).astype(np.uint8).tobytes()


def _outside(folder: Path) -> dict[str, str]:
    (folder.parent / "secret.bin").write_bytes(WEIGHT.tobytes())
    return {"location": "../secret.bin"}


def _absolute(folder: Path) -> dict[str, str]:
    (folder / "w.bin").write_bytes(WEIGHT.tobytes())
    return {"location": str(folder / "w.bin")}


def _link(folder: Path) -> dict[str, str]:
    _outside(folder)
    (folder / "w.bin").symlink_to(folder.parent / "secret.bin")
    return {"location": "w.bin"}


def _linked_folder(folder: Path) -> dict[str, str]:
    _outside(folder)
    (folder / "sub").symlink_to(folder.parent)
    return {"location": "sub/secret.bin"}


def _short(folder: Path) -> dict[str, str]:
    (folder / "w.bin").write_bytes(WEIGHT.tobytes()[:-1])
    return {"location": "w.bin"}


def _entries(**entries: str) -> Callable[[Path], dict[str, str]]:
    def write(folder: Path) -> dict[str, str]:
        (folder / "w.bin").write_bytes(WEIGHT.tobytes())
        return {"location": "w.bin", **entries}

    return write


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda folder: {"location": "none.bin"}, "is missing"),
        (lambda folder: {}, "without a usable location"),
        (lambda folder: {"location": "."}, "is missing"),
        (_outside, "outside the model's folder"),
        (_absolute, "outside the model's folder"),
        (_link, "outside the model's folder"),
        (_linked_folder, "outside the model's folder"),
        (_short, "beyond the end"),
        (_entries(offset="4"), "beyond the end"),
        (_entries(length="44"), "44 bytes, the shape needs 48"),
        (_entries(offset="-4"), "not a byte count"),
        (_entries(offset="1e9"), "not a byte count"),
        (_entries(offset="9" * 40), "not a byte count"),
    ],
)
def test_bad_external_data_is_refused(
    tmp_path: Path, prepare: Callable[[Path], dict[str, str]], words: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = _saved(folder, **prepare(folder))
    with pytest.raises(MalformedFile, match=words) as caught:
        import_model(path, Options())
    assert caught.value.diagnostic.code == "external-data"
    assert caught.value.diagnostic.where == "tensor 'w'"


def test_bytes_have_no_folder() -> None:
    model = _model(_external("w", location="w.bin"))
    for source in (model, model.SerializeToString()):
        with pytest.raises(MalformedFile, match="has no folder"):
            import_model(source, Options())


def test_external_data_inside_a_branch_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    tensor = _external("k", location="w.bin")
    result = [helper.make_tensor_value_info("r", 1, [4, 3])]
    nodes = [helper.make_node("Identity", ["k"], ["r"])]
    branch = helper.make_graph(nodes, "branch", [], result, [tensor])
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    inputs = [helper.make_tensor_value_info("x", TensorProto.BOOL, [])]
    outputs = [helper.make_tensor_value_info("y", 1, [4, 3])]
    model = helper.make_model(helper.make_graph([node], "g", inputs, outputs), ir_version=10)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModel, match="main graph only"):
        import_model(tmp_path / "m.onnx", Options())
