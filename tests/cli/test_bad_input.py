"""Files that are not what they should be: one line, its place, the exit status, nothing left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.command import Done, clockstep

DIGITS = Path(__file__).parents[2] / "samples" / "digits" / "digits.onnx"


def relu(x_shape: list[int | str], op: str = "Relu") -> onnx.ModelProto:
    """One node, `n`, from x to y."""
    ends = [helper.make_tensor_value_info(v, TensorProto.FLOAT, x_shape) for v in "xy"]
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], name="n")], "g", ends[:1], ends[1:]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def weighted(location: str, length: int = 16) -> bytes:
    """y = x + w, with w in another file."""
    model = relu([4])
    model.graph.node[0].CopyFrom(helper.make_node("Add", ["x", "w"], ["y"], name="n"))
    w = model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[4])
    w.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("length", str(length))):
        w.external_data.add(key=key, value=value)
    return model.SerializeToString()


def cyclic() -> bytes:
    model = relu([4])
    model.graph.node[0].input[0] = "b"
    model.graph.node[0].output[0] = "a"
    model.graph.node.append(helper.make_node("Relu", ["a"], ["b"], name="m"))
    model.graph.node.append(helper.make_node("Relu", ["b"], ["y"], name="k"))
    return model.SerializeToString()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


MODELS: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "truncated": (lambda: DIGITS.read_bytes()[:20_000], 5, "bad.onnx"),
    "bit-flipped": (lambda: flipped(DIGITS.read_bytes(), 3), 5, "bad.onnx"),
    "empty": (lambda: b"", 5, "bad.onnx"),
    "text": (lambda: b"# not a model\n" * 40, 5, "bad.onnx"),
    "cyclic": (cyclic, 5, ""),
    "unknown-operator": (lambda: relu([4], "NonZeroish").SerializeToString(), 3, "NonZeroish"),
    "unbound-dimension": (lambda: relu(["batch", 4]).SerializeToString(), 3, "--dim batch="),
    "external-missing": (lambda: weighted("w.bin"), 5, "w.bin"),
    "external-outside": (lambda: weighted("../w.bin"), 5, "../w.bin"),
    "external-absolute": (lambda: weighted("/etc/hostname", 4), 5, "/etc/hostname"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("verb", ["compile", "check"])
def test_models(name: str, verb: str, tmp_path: Path) -> None:
    make, status, place = MODELS[name]
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "bad.onnx"
    path.write_bytes(make())
    (tmp_path / "w.bin").write_bytes(bytes(16))
    output = tmp_path / "out.lpu"
    words = ["compile", path, "-o", output] if verb == "compile" else ["check", path]
    done = clockstep(*words, "--machine", "tiny")
    assert done.status == status, done
    if verb == "check" and status == 3:
        assert place in done.out
    else:
        assert place in done.error()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["bad.onnx", "model", "w.bin"]


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    done = clockstep("compile", tmp_path / "none.onnx", "-o", tmp_path / "out.lpu")
    assert done.status == 2
    assert "none.onnx" in done.error()


def test_check_tells_all_problems_at_once(tmp_path: Path) -> None:
    model = relu([4], "Foo")
    model.graph.node[0].output[0] = "m"
    model.graph.node.append(helper.make_node("Bar", ["m"], ["y"], name="second"))
    path = tmp_path / "two.onnx"
    path.write_bytes(model.SerializeToString())
    done = clockstep("check", path, "--json")
    said = done.json()
    assert done.status == 3
    assert said["supported"] is False
    assert [(p["node"], p["op"]) for p in said["unsupported"]] == [("n", "Foo"), ("second", "Bar")]
    assert all(p["reason"] for p in said["unsupported"])


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A program that copies one word of SRAM to the slice beside it."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "copy.lst").write_text(
        ".machine tiny\n.word c0.mem.W3 16 = 01 02 0a\n"
        "  0  c0.mem.W3  read 16+0 -> E4\n  2  c0.mem.W1  write E4 -> 7+0\n"
    )
    path = folder / "copy.lpu"
    assert clockstep("asm", folder / "copy.lst", "-o", path).status == 0
    return path.read_bytes()


def refused(data: bytes, folder: Path, verb: str = "verify") -> Done:
    path = folder / "bad.lpu"
    path.write_bytes(data)
    return clockstep(verb, path)


@pytest.mark.parametrize("verb", ["verify", "run", "disasm", "inspect"])
def test_programs_of_other_kinds(program: bytes, verb: str, tmp_path: Path) -> None:
    for data in (b"", b"text\n" * 99, program[: len(program) // 2], program[:-1], b"\xff" * 64):
        done = refused(data, tmp_path, verb)
        assert done.status == 5, (data[:20], done)
        assert "bad.lpu" in done.error()


def test_a_bit_flip_anywhere_in_a_program_is_noticed(program: bytes, tmp_path: Path) -> None:
    for at in range(0, len(program), max(1, len(program) // 150)):
        done = refused(flipped(program, at), tmp_path)
        assert done.status == 5, (at, done)
        done.error()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (".machine tiny\n  0  c0.mem.W3  read 64 -> E40\n", "line 2"),
        (".machine tiny\n\n  0  c0.mem.W99  read 64 -> E4\n", "line 3"),
        (".machine tiny\n  0  c0.mem.W3  raed 64 -> E4\n", "line 2"),
        (".machine nosuch\n", "line 1"),
        ("once upon a time\n", "bad.lst"),
    ],
)
def test_listings(text: str, place: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.lst"
    path.write_text(text)
    done = clockstep("asm", path, "-o", tmp_path / "out.lpu")
    assert done.status == 5
    assert place in done.error()
    assert [p.name for p in tmp_path.iterdir()] == ["bad.lst"]


def test_a_listing_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "bad.lst"
    path.write_bytes(b"\xff\xfe\x00")
    done = clockstep("asm", path, "-o", tmp_path / "out.lpu")
    assert done.status == 5
    assert "not a text file" in done.error()


@pytest.mark.parametrize(
    ("flag", "data", "status"),
    [
        ("--inputs", b"PK\x03\x04 broken", 5),
        ("--inputs", b"text", 5),
        ("--inputs", b"", 5),
        ("--inputs", None, 2),
    ],
)
def test_input_files(
    flag: str, data: bytes | None, status: int, program: bytes, tmp_path: Path
) -> None:
    (tmp_path / "p.lpu").write_bytes(program)
    file = tmp_path / "in.npz"
    if data is not None:
        file.write_bytes(data)
    done = clockstep("run", tmp_path / "p.lpu", flag, file)
    assert done.status == status
    assert "in.npz" in done.error()
