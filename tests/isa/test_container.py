"""The program file: the same program back, the same bytes always, and nothing damaged accepted."""

from __future__ import annotations

import hashlib
import json
import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings

from clockstep_isa import (
    ClockstepError,
    MalformedFile,
    Program,
    UsageError,
    geometry,
    load_program,
    parse_listing,
    program_bytes,
    program_sha256,
    save_program,
    tensor_file,
)
from tests.isa.test_listing import EXAMPLE, same_program
from tests.support.programs import programs

BINDING = (
    '.input {"name":"x","dtype":"int8","shape":[2,3],"layouts":[{"stored":"i8","offset":0,'
    '"axes":[0,1],"rows":2,"columns":3,"pieces":[[0,0,2,0,3,0,"mem.W0",5]]}]}\n'
)
PROBE = BINDING.replace(".input {", '.probe {"ready":[130],"nodes":[0],').replace('"x"', '"h"')


def example() -> Program:
    return parse_listing(EXAMPLE + BINDING + PROBE)


def load_bytes(raw: bytes, folder: Path) -> Program:
    path = folder / "program.lpu"
    path.write_bytes(raw)
    return load_program(path)


def altered(
    change: Callable[[dict[str, Any], dict[str, Any]], None],
    folder: Path,
    program: Program | None = None,
) -> Path:
    """A file whose checksum is right, after `change(metadata, arrays)`."""
    path = folder / "altered.lpu"
    save_program(program or example(), path)
    text, arrays = tensor_file.read(path)
    metadata, copies = json.loads(text), {k: v.copy() for k, v in arrays.items()}
    change(metadata, copies)
    path.write_bytes(tensor_file.pack(copies, json.dumps(metadata)))
    return path


@settings(max_examples=60, deadline=None)
@given(program=programs())
def test_save_and_load_are_inverse(
    program: Program, tmp_path_factory: pytest.TempPathFactory
) -> None:
    same_program(program, load_bytes(program_bytes(program), tmp_path_factory.getbasetemp()))


def test_save_writes_the_bytes(tmp_path: Path) -> None:
    program = example()
    save_program(program, tmp_path / "x.lpu")
    raw = (tmp_path / "x.lpu").read_bytes()
    assert raw == program_bytes(program) == program_bytes(example())
    assert hashlib.sha256(raw).hexdigest() == program_sha256(program)
    assert [p.name for p in tmp_path.iterdir()] == ["x.lpu"]


def test_the_image_is_memory_mapped(tmp_path: Path) -> None:
    save_program(example(), tmp_path / "x.lpu")
    data = load_program(tmp_path / "x.lpu").image.data
    assert data is not None
    assert not data.flags.owndata
    assert not data.flags.writeable


def test_any_safetensors_reader_opens_it(tmp_path: Path) -> None:
    save_program(example(), tmp_path / "x.lpu")
    arrays = safetensors.numpy.load_file(tmp_path / "x.lpu")
    _, ours = tensor_file.read(tmp_path / "x.lpu")
    assert sorted(arrays) == sorted([*ours, "sha256"])
    for name, array in ours.items():
        np.testing.assert_array_equal(array, arrays[name])


def test_equal_queues_are_stored_once(tmp_path: Path) -> None:
    lines = [f"{c} c{i}.mem.W{s} read {c} -> E0" for i in (0, 1) for s in (0, 5) for c in (0, 9)]
    program = parse_listing("\n".join((".machine tiny", ".chips 2", *lines)))
    save_program(program, tmp_path / "x.lpu")
    _, arrays = tensor_file.read(tmp_path / "x.lpu")
    assert len(arrays["words"]) == 3
    same_program(program, load_program(tmp_path / "x.lpu"))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    raw = program_bytes(example())
    for length in [*range(16), *range(16, len(raw), 61), len(raw) - 1]:
        with pytest.raises(MalformedFile) as caught:
            load_bytes(raw[:length], tmp_path)
        assert "\n" not in str(caught.value)


def test_any_flipped_bit_is_refused(tmp_path: Path) -> None:
    raw = program_bytes(example())
    header = 8 * (8 + int.from_bytes(raw[:8], "little"))
    description = raw.index(b'"regions"') * 8
    assert description < header
    every = [*range(64), *range(description, header)]
    for bit in every + random.Random(0).sample(range(8 * len(raw)), 600):
        wrong = bytearray(raw)
        wrong[bit // 8] ^= 1 << bit % 8
        with pytest.raises(MalformedFile) as caught:
            load_bytes(bytes(wrong), tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "shorter than a header"),
        (b"12 c0.mem.W0 read 1 -> E0\n", "not a program file"),
        (b"\xff" * 64, "not a program file"),
        ((2**62).to_bytes(8, "little") + b"{}", "not a program file"),
        ((2**26).to_bytes(8, "little") + b"{}", "truncated: 10 bytes"),
        ((2).to_bytes(8, "little") + b"{}", "a safetensors file, but not a program"),
        ((9).to_bytes(8, "little") + b'{"a": [1}', "damaged or truncated: .*JSON"),
    ],
)
def test_other_files_are_refused(raw: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedFile, match=message):
        load_bytes(raw, tmp_path)


def test_another_safetensors_file_is_refused(tmp_path: Path) -> None:
    raw = safetensors.numpy.save({"x": np.zeros(3, np.float32)}, {"format": "np"})
    with pytest.raises(MalformedFile, match="not a program"):
        load_bytes(raw, tmp_path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.lpu", tmp_path / "none" / "x.lpu"):
        with pytest.raises(UsageError, match="No such file"):
            load_program(path)
    with pytest.raises(UsageError, match="No such file"):
        save_program(example(), tmp_path / "none" / "x.lpu")
    with pytest.raises(UsageError):
        load_program(tmp_path)


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    program = example()
    program.code.args[0, 0] = -1
    with pytest.raises(ClockstepError):
        save_program(program, tmp_path / "x.lpu")
    assert list(tmp_path.iterdir()) == []


def _set(key: str, value: object) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(metadata: dict[str, Any], arrays: dict[str, Any]) -> None:
        metadata[key] = value

    return change


def _array(name: str, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(metadata: dict[str, Any], arrays: dict[str, Any]) -> None:
        arrays[name] = value(arrays[name])

    return change


def _remove(name: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda metadata, arrays: arrays.pop(name)


def _figure(metadata: dict[str, Any], arrays: dict[str, Any]) -> None:
    metadata["machine"]["mem"]["banks"]["value"] = 99


def _pieces(metadata: dict[str, Any], arrays: dict[str, Any]) -> None:
    metadata["inputs"][0]["layouts"][0]["pieces"] = [0, 99]


def _probe(**changes: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda metadata, arrays: metadata["probes"][0].update(changes)


def _twice(metadata: dict[str, Any], arrays: dict[str, Any]) -> None:
    metadata["inputs"] *= 2


HOSTILE = [
    (_set("format", 1), "format version 1; this tool reads version 2"),
    (_set("machine", 3), "'machine' is wrong: want dict"),
    (_figure, "mem.banks = 99 is outside 1 to 16"),
    (_set("chips", 0), "chips 0 is not in 1 to 52"),
    (_set("chips", True), "'chips' is wrong: want int"),
    (_set("chips", 10**30), "'chips' is wrong: want int"),
    (_set("cycles", -1), "cycles -1 is not in 0"),
    (_set("nodes", [1]), "'nodes' is wrong: want dicts"),
    (_set("nodes", [{"name": "a"}]), "'op' is missing: want str"),
    (_set("notes", [[7, "x"]]), "a note is not a node and a tile"),
    (_set("notes", []), "a note that does not exist"),
    (_set("weights", 1), "'weights' is wrong: want bool"),
    (_set("weights", False), "do not add up"),
    (_set("info", []), "'info' is wrong: want dict"),
    (_pieces, "'pieces' is wrong: want a range"),
    (_twice, "two inputs of one name"),
    (_set("probes", {}), "'probes' is wrong: want list"),
    (_probe(ready=[1, 2]), "2 cycles for the pieces of 1 layouts"),
    (_probe(ready=[-1]), "'ready' is wrong: want integers from 0"),
    (_probe(layouts=[]), "has no layout"),
    (_probe(nodes=[]), r"nodes \[\] are none of the program's 1"),
    (_probe(nodes=[1]), r"nodes \[1\] are none of the program's 1"),
    (_remove("note"), "missing or unknown arrays: note"),
    (_array("words", lambda a: a.astype(np.int64)), "array 'words' is int64"),
    (_array("words", lambda a: a[:-1]), "sequences do not add up"),
    (_array("words", lambda a: a | np.uint64(255)), "unknown opcode"),
    (_array("sequences", lambda a: a[::-1]), "sequences do not"),
    (_array("sequences", lambda a: a[:0]), "sequences do not add up"),
    (_array("queue", lambda a: a[::-1]), "queues do not ascend"),
    (_array("queue", lambda a: a + np.int32(10000)), "a queue that does not exist"),
    (_array("queue", lambda a: a[1:]), "queues without a sequence"),
    (_array("queue_sequence", lambda a: a - np.int32(9)), "a sequence that does not exist"),
    (_array("queue_sequence", lambda a: a * 0), "a sequence that no queue runs"),
    (_array("note", lambda a: a[1:]), "notes for"),
    (_array("regions", lambda a: a * 0 - 1), "on a chip that does not exist"),
    (_array("regions", lambda a: a + 2**62), "on a chip that does not exist"),
    (_array("image", lambda a: a[1:]), "image regions do not add up"),
    (_array("image", lambda a: a[:, 1:].copy()), "array 'image' is uint8"),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE, ids=[m for _, m in HOSTILE])
def test_hostile_content_is_refused(
    change: Callable[[dict[str, Any], dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(MalformedFile, match=message) as caught:
        load_program(altered(change, tmp_path))
    assert "\n" not in str(caught.value)


def test_shared_sequences_of_nops_take_no_memory(tmp_path: Path) -> None:
    """All queues of 52 chips share two million words: a file of 32 MB, 2**32 words in all."""
    program = parse_listing(".machine tiny\n20 c0.mem.W0 read 1 -> E0\n")
    queues = 52 * len(geometry(program.machine).queues)

    def change(metadata: dict[str, Any], arrays: dict[str, Any]) -> None:
        nop, read = arrays["words"]
        arrays["words"] = np.concatenate([np.repeat([nop], 2**21, axis=0), [read]])
        arrays["sequences"] = np.array([0, 2**21 + 1])
        arrays["queue"] = np.arange(queues, dtype=np.int32)
        arrays["queue_sequence"] = np.zeros(queues, np.int32)
        arrays["note"] = np.full(queues, -1, np.int32)
        metadata["chips"] = 52

    path = altered(change, tmp_path, program)
    tracemalloc.start()
    code = load_program(path).code
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert code.cycle.tolist() == [2**21 * 20] * queues
    assert peak < 20 * path.stat().st_size


def test_hostile_headers_are_refused(tmp_path: Path) -> None:
    entry = {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}
    changes: list[dict[str, Any]] = [
        {"dtype": "F999"},
        {"dtype": ["I64"]},
        {"shape": [2**61]},
        {"shape": [-1]},
        {"shape": "x"},
        {"data_offsets": [8, 0]},
        {"data_offsets": [0, 2**60]},
        {"data_offsets": [8, 16]},
        {"data_offsets": [0]},
    ]
    for change in changes:
        header = {"__metadata__": {"clockstep": "{}"}, "words": entry | change}
        text = json.dumps(header).encode()
        with pytest.raises(MalformedFile, match=r"program-(header|truncated)"):
            load_bytes(len(text).to_bytes(8, "little") + text + bytes(8), tmp_path)


def test_probes_are_kept() -> None:
    (probe,) = example().probes
    assert (probe.binding.name, probe.nodes, probe.ready.tolist()) == ("h", (0,), [130])


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """So is a device: `-o /dev/null` must not make it a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        tensor_file.write_atomically(pipe, [b"some ", b"bytes"])
        assert os.read(reader, 99) == b"some bytes"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
