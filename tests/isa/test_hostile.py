"""Files that nobody wrote in good faith: refused within a second, or programs like any other.

Here every place gets some of the values of `tests.support.hostile`; `python -m fuzz hostile` tries
all of them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clockstep_compiler import Options, compile_model
from clockstep_isa import (
    MalformedFile,
    Program,
    UsageError,
    load_machine,
    load_program,
    parse_listing,
    program_bytes,
    schema,
)
from clockstep_isa.table import Type
from tests.support.handmade import matmul, two_chips
from tests.support.hostile import (
    RAW,
    header_of,
    judge,
    paths,
    program_file,
    raw_file,
    replaced,
    split,
)
from tests.support.models import mlp

Array = np.ndarray[Any, Any]


def program() -> Program:
    return matmul(Type.I8, 3)[0].program()


def some(text: str, each: int) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Every place of a document with `each` of the values, which take turns."""
    names = list(RAW)
    for number, at in enumerate(paths(json.loads(text))):
        for step in range(each):
            yield at, names[(number * each + step) % len(names)]


def compiled() -> Program:
    """A program with everything that a file can hold but facts, which are free: nodes, probes."""
    model = mlp(np.random.default_rng(0), (3, 2, 2), 1)
    program = compile_model(model, load_machine("tiny"), Options(effort="fast"))
    return dataclasses.replace(program, info={})


def test_members_that_only_models_have(tmp_path: Path) -> None:
    text, arrays = split(compiled(), tmp_path)
    parts = ("nodes", "notes", "probes", "inputs", "outputs")
    places = [(at, name) for at, name in some(text, 1) if at[0] in parts]
    for at, name in places:
        judge(program_file(replaced(text, at, RAW[name]), arrays), tmp_path / "x.lpu")
    assert {at[0] for at, _ in places} == set(parts)


def test_every_member_of_the_metadata(tmp_path: Path) -> None:
    text, arrays = split(two_chips().program(), tmp_path)
    found = {
        (at, name): judge(program_file(replaced(text, at, RAW[name]), arrays), tmp_path / "x.lpu")
        for at, name in some(text, 2)
    }
    assert set(found.values()) == {"refused", "verified", "faulty"}
    # Texts and provenances are free, and so are some numbers; nearly everything else is not.
    assert list(found.values()).count("refused") > 0.8 * len(found)


def test_every_member_of_the_header(tmp_path: Path) -> None:
    header, payload = header_of(program_bytes(two_chips().program()))
    found = [
        judge(raw_file(replaced(header, at, RAW[name]), payload), tmp_path / "x.lpu")
        for at, name in some(header, 9)
    ]
    # Only a member that stands twice, and a size that is as it was, leave the program what it is.
    assert found.count("refused") >= len(found) - 2 * len(list(paths(json.loads(header))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": [0] * 33, "shape": [1] * 33}, "more than 32 axes"),
        ({"axes": [0, 1, 2], "shape": [0, 2**47, 2**47], "rows": 0}, "sizes without sense"),
        ({"stored": "f32"}, "int8 is not stored as f32"),
        ({"offset": 128}, "offset 128 is not in -128 to 127"),
        ({"offset": 2**47}, "is not in -128 to 127"),
        ({"windows": [[0, 1, 1]]}, "a window is wrong"),
        ({"windows": [[0, 1, 1, "0", 1]]}, "a window is wrong"),
        ({"windows": [[9, 1, 1, 0, 1]]}, "windows along axes"),
        ({"windows": [[0, 1, 1, 0, 1], [0, 1, 1, 0, 1]]}, "windows along axes"),
        ({"windows": [[0, 1, 0, 0, 1]]}, "no windows"),
        ({"windows": [[0, 2, 1, 2, 1]]}, "no windows"),
        ({"windows": [[0, 1, 1, 0, 2**40]]}, "no windows"),
        ({"windows": [[0, 2**40, 1, 0, 1]]}, "is not the size of shape"),
    ],
)
def test_bindings_without_sense(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    text, arrays = split(two_chips().program(), tmp_path)
    data = json.loads(text)
    data["inputs"][0]["shape"] = change.pop("shape", data["inputs"][0]["shape"])
    data["inputs"][0]["layouts"][0] |= change
    (tmp_path / "x.lpu").write_bytes(program_file(json.dumps(data), arrays))
    with pytest.raises(MalformedFile, match=message):
        load_program(tmp_path / "x.lpu")


@pytest.mark.parametrize(
    "limits", [7, [0], [0, 1, 2], [0, "1"], [0, 2**48], [1, 9], [-9, -1], [3, -3]]
)
def test_limits_without_sense(limits: Any, tmp_path: Path) -> None:
    text, arrays = split(two_chips().program(), tmp_path)
    data = json.loads(text)
    data["inputs"][0]["limits"] = limits
    (tmp_path / "x.lpu").write_bytes(program_file(json.dumps(data), arrays))
    with pytest.raises(MalformedFile, match="limits"):
        load_program(tmp_path / "x.lpu")


ALTER: dict[str, Callable[[Array], Array]] = {
    "int64": lambda a: a.astype(np.int64),
    "int32": lambda a: a.astype(np.int32),
    "uint8": lambda a: a.astype(np.uint8),
    "uint64": lambda a: a.astype(np.uint64),
    "none": lambda a: a[:0],
    "shorter": lambda a: a[:-1],
    "longer": lambda a: np.concatenate([a, a]),
    "flat": lambda a: a.reshape(-1),
    "backwards": lambda a: a[::-1].copy(),
    "transposed": lambda a: a.T.copy(),
    "one axis more": lambda a: a[None],
    "zeros": np.zeros_like,
    "ones": lambda a: np.full_like(a, np.iinfo(a.dtype).max),
    "least": lambda a: np.full_like(a, np.iinfo(a.dtype).min),
}


def test_every_array(tmp_path: Path) -> None:
    text, arrays = split(program(), tmp_path)
    for name, array in arrays.items():
        for change in ALTER.values():
            judge(program_file(text, arrays | {name: change(array)}), tmp_path / "x.lpu")


def test_numbers_in_arrays(tmp_path: Path) -> None:
    text, arrays = split(program(), tmp_path)
    values = (-(2**63), -1, 0, 1, 2**20, 2**62, 2**63 - 1)
    for name in ("regions", "pieces", "sequences"):
        for index in range(arrays[name].size):
            copy = arrays[name].copy()
            copy.reshape(-1)[index] = values[index % len(values)]
            judge(program_file(text, arrays | {name: copy}), tmp_path / "x.lpu")


def test_bits_of_words(tmp_path: Path) -> None:
    text, arrays = split(program(), tmp_path)
    found = []
    for index in range(0, 64 * arrays["words"].size, 31):
        copy = arrays["words"].copy()
        copy.reshape(-1)[index // 64] ^= np.uint64(1 << index % 64)
        found.append(judge(program_file(text, arrays | {"words": copy}), tmp_path / "x.lpu"))
    assert set(found) == {"refused", "verified", "faulty"}


@pytest.mark.parametrize("length", [0, 1, 2**16, 2**31, 2**60, 2**63, 2**64 - 1])
def test_lengths_that_lie(length: int, tmp_path: Path) -> None:
    header, payload = header_of(program_bytes(program()))
    assert judge(raw_file(header, payload, length), tmp_path / "x.lpu") == "refused"


def test_bytes_after_the_end(tmp_path: Path) -> None:
    raw = program_bytes(program())
    for more in (b"\0", b"{}", raw):
        assert judge(raw + more, tmp_path / "x.lpu") == "refused"


def test_a_header_that_is_no_text(tmp_path: Path) -> None:
    header, payload = header_of(program_bytes(program()))
    for at in range(0, 200, 7):
        data = bytearray(raw_file(header, payload))
        data[8 + at] = 0xFF
        assert judge(bytes(data), tmp_path / "x.lpu") == "refused"


def test_arrays_that_overlap(tmp_path: Path) -> None:
    header, payload = header_of(program_bytes(program()))
    data = json.loads(header)
    names = [name for name in data if name != "__metadata__"]
    for one, two in pairwise(names):
        changed = {**data, one: {**data[one], "data_offsets": data[two]["data_offsets"]}}
        assert judge(raw_file(json.dumps(changed), payload), tmp_path / "x.lpu") == "refused"


@pytest.mark.parametrize("key", schema())
def test_a_machine_at_the_ends_of_its_schema(key: str, tmp_path: Path) -> None:
    """A program for a machine of one absurd figure is refused, faulty, or runs."""
    text, arrays = split(program(), tmp_path)
    section, _, item = key.partition(".")
    for value in (schema()[key].low, schema()[key].high):
        changed = replaced(text, ("machine", section, item, "value"), str(value))
        judge(program_file(changed, arrays), tmp_path / "x.lpu")


def test_many_chips_that_do_nothing(tmp_path: Path) -> None:
    """Chips take memory when they do something, and not before."""
    text, arrays = split(two_chips().program(), tmp_path)
    data = json.loads(text)
    figures = {"system.max_nodes": 4096, "mem.words_per_bank": 2**18, "vxm.hops_from_mem": 2000}
    for key, value in figures.items():
        section, _, item = key.partition(".")
        data["machine"][section][item]["value"] = value
    data["chips"] = 4 * 4096
    # Positions have moved, so it cannot be right, but it is well-formed.
    assert judge(program_file(json.dumps(data), arrays), tmp_path / "x.lpu") == "faulty"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("system.chips_per_node=256", "system.max_nodes=4096"), "more than 2\\*\\*14 chips"),
        (("system.chips_per_node=64", "system.max_nodes=256", "c2c.links=64",
          "system.local_links=32"), "more than 2\\*\\*18 links"),
        (("mem.slices_per_hemisphere=64", "mem.words_per_bank=262144"), "2\\*\\*24 words"),
        (("lanes.superlanes=64", "lanes.per_superlane=64", "icu.repeat_max=4096",
          "mem.words_per_bank=1"), "2\\*\\*24 cells"),
        (("vxm.hops_from_mem=4096", "vxm.hops_per_rank=4096", "streams.per_direction=256",
          "lanes.superlanes=16"), "2\\*\\*26 bytes"),
    ],
)  # fmt: skip
def test_machines_that_no_computer_holds(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(MalformedFile, match=message):
        load_machine("tiny", settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[clock]\nhz = 0x" + "f" * 10_000, "an integer of 40000 bits"),
        ("name = 3", "name = 3 is not a text"),
        ("name = " + "[" * 50 + "]" * 50, "name = a list is not a text"),
        ('name = "' + "x" * 1000 + '"', "is not a short line"),
        ('name = "a\\nb"', "is not a short line"),
        ("doc = 1979-05-27", "doc = datetime.date"),
        ("inherit = []", "inherit = a list"),
        ("a = " + "[" * 100_000, "not valid TOML"),
        ("[clock]\nhz = {value = 1, from = []}", "from = a list"),
        ("[clock]\nhz = {value = 1, source = 2}", "source = 2"),
        ("[clock]\nhz = nan", "hz = nan is not an integer"),
        ('"' + "k" * 100_000 + '" = 1', "unknown key 'kkk"),
    ],
)
def test_hostile_machine_files(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    inherit = "" if "inherit" in text else 'inherit = "tiny"\n'
    path.write_text(inherit + text)
    with pytest.raises(MalformedFile, match=message) as caught:
        load_machine(path)
    assert len(str(caught.value)) < 700
    with pytest.raises(UsageError):
        load_machine("x" * 1000)


def listing(line: str) -> str:
    return f".machine tiny\n{line}\n"


@pytest.mark.parametrize(
    "line",
    [
        "1 c0.mem.W0 read 1" + " " * 30_000 + "x",
        "1 " + " " * 30_000 + "*",
        "1 c0.mem.W0 read 1 -> E0 *" + " " * 30_000 + "1" + " " * 30_000 + "/",
        "1 c0.mem.W0 read 1 -> E0 ; n" + " " * 30_000 + " | x" + " " * 30_000 + "x",
        "1" * 30_000 + "x",
        "1 " + "c" * 30_000 + ".mem.W0 read 1 -> E0",
        "1 c0.mem." + "W" * 30_000 + " read 1 -> E0",
        "1 c0.mem.W0 " + "read" * 30_000,
        "1 c0.mem.W0 read " + "1" * 30_000 + " -> E0",
        "1 c0.mem.W0 read 1 -> E" + "0" * 30_000,
        "1 c0.vxm.0 addi.f32 E0, #" + "9" * 30_000 + " -> E0",
        "1 c0.vxm.0 addi.f32 E0, #1e999 -> E0",
        "1 c0.vxm.0 addi.i32 E0, #0x" + "f" * 30_000 + " -> E0",
        "1 c0.vxm.0 addi.i32 E0, #" + "f" * 30_000 + " -> E0",
        "1 c0.mem.W0 read 1 -> E0 ; " + "n" * 30_000 + " | x",
        '1 c0.mem.W0 read 1 -> E0 ; | "' + "n" * 30_000,
        "." + "x" * 30_000,
        ".chips " + "9" * 30_000,
        ".info {" + '"a":{' * 30_000,
        ".info [" + "[" * 30_000,
        '.info {"a":1,"a":2}',
        ".machine " + "x" * 30_000,
        ".set " + "x" * 30_000,
        ".word c0.mem.W0 1 = " + "0" * 30_000,
        ".image c0.mem.W0 0 999999999999999999",
        ".clockstep " + "1" * 30_000,
        ".no-weights " + "1" * 30_000,
    ],
    ids=range(27),
)
def test_hostile_lines(line: str) -> None:
    """Refused, and at once: no expression goes back and forth over a long line."""
    with pytest.raises(MalformedFile) as caught:
        parse_listing(listing(line))
    assert len(str(caught.value)) < 700


def test_many_lines_of_many_shapes() -> None:
    text = "\n".join(f"{i} c0.mem.W{i % 4} read {i} -> E0  ; | {i}" for i in range(2000))
    assert len(parse_listing(listing(text)).code) == 2000
    assert len(list(islice(paths({"a": [{"b": 1}]}), 9))) == 3
