"""The numerics page tells the truth: examples are run, figures measured, the index compared.

An example is a row of a table whose head begins with `example`, `product` or `move`. Values stand
as bits, `0x3c00`, followed by what they mean: a sum of numbers and powers of two.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.transcendental_error import FUNCTIONS, error, measure, sample
from clockstep_isa.geometry import Unit
from clockstep_isa.layout import numpy_type
from clockstep_isa.table import BY_NAME, TABLE, TYPES, Type
from clockstep_runtime import transcendental
from clockstep_runtime.dot import HalfMatrix, Int8Matrix
from clockstep_runtime.semantics import EXECUTES
from tests.support.rounding import nearest

PAGE = (Path(__file__).parents[2] / "isa" / "NUMERICS.md").read_text(encoding="utf-8")
INTEGERS = {1: Type.I8, 2: Type.I16, 4: Type.I32}
UNSIGNED: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32}
SPECIAL = {"inf": float("inf"), "-inf": float("-inf"), "NaN": float("nan"), "-0": -0.0}
TERM = re.compile(r"([+-]?)(?:(\d+)\^(-?\d+)|(\d+(?:\.\d+)?))")

Row = dict[str, str]


def tables(head: str) -> Iterator[list[Row]]:
    """All tables whose first column is headed `head`, as rows by column."""
    for block in re.findall(r"(?:^\|.*\n)+", PAGE, flags=re.M):
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        names, _, *rows = [[cell.strip() for cell in line] for line in lines]
        if names[0] == head:
            assert all(len(row) == len(names) for row in rows)
            yield [dict(zip(names, row, strict=True)) for row in rows]


def rows(head: str) -> list[Row]:
    return [row for table in tables(head) for row in table]


def number(text: str) -> Fraction:
    """The exact value of a sum such as 1+2^-10."""
    terms = list(TERM.finditer(text))
    assert terms, text
    assert "".join(term[0] for term in terms) == text, text
    values = (Fraction(t[2]) ** int(t[3]) if t[2] else Fraction(t[4]) for t in terms)
    signs = (-1 if term[1] == "-" else 1 for term in terms)
    return sum((s * v for s, v in zip(signs, values, strict=True)), Fraction(0))


def typed(text: str, kind: Type) -> np.generic:
    """A number of a type, from text that names it exactly."""
    if text in SPECIAL and kind in (Type.F16, Type.F32):
        return numpy_type(kind).type(SPECIAL[text])
    exact = number(text)
    value = numpy_type(kind).type(float(exact) if kind in (Type.F16, Type.F32) else int(exact))
    assert Fraction(value.item()) == exact, text
    return value


def operand(cell: str, kind: Type) -> np.ndarray:
    """One value [1] from its bits; what is said of them must be so."""
    found = re.fullmatch(r"`0x([0-9a-f]+)`(?: (\S+))?", cell)
    assert found, cell
    assert len(found[1]) == 2 * kind.bytes, cell
    value = np.array([int(found[1], 16)], UNSIGNED[kind.bytes]).view(numpy_type(kind))
    if found[2] == "NaN":
        assert np.isnan(value[0]), cell
    elif found[2]:
        assert bits(value) == bits(np.array([typed(found[2], kind)])), cell
    return value


def bits(values: np.ndarray) -> list[int]:
    return values.view(UNSIGNED[values.dtype.itemsize]).tolist()


def example(row: Row) -> tuple[np.ndarray, np.ndarray]:
    """What an example of the VXM says, and what comes out."""
    name, *words = row["example"].strip("`").split(".")
    kind = TYPES[words[0]]
    a, result = {"a": operand(row["a"], kind)}, kind
    if name == "cast":
        result = TYPES[words[1]]
        arguments = dict(to=result, round=words[2], overflow=words[3])
        return operand(row["result"], result), EXECUTES[name](**a, **arguments)
    if name.removesuffix("i") in ("eq", "lt", "le"):
        result = INTEGERS[kind.bytes]
    b = {"b": operand(row["b"], kind)} if "b" in row else {}
    return operand(row["result"], result), EXECUTES[name](**a, **b)


@pytest.mark.parametrize("row", rows("example"), ids=lambda row: row["example"].strip("`"))
def test_examples(row: Row) -> None:
    wanted, got = example(row)
    assert got.dtype == wanted.dtype
    assert bits(got) == bits(wanted)


def test_examples_are_many_and_of_every_row_and_type() -> None:
    said = [row["example"].strip("`").split(".") for row in rows("example")]
    assert len(said) >= 250
    seen = {
        (name.removesuffix("i") if name not in BY_NAME else name, kind) for name, kind, *_ in said
    }
    names = {row.name for row in TABLE if row.unit is Unit.VXM}
    assert {name for name, _ in seen} | {f"{name}i" for name, _ in seen} >= names
    assert {kind for _, kind in seen} == set(TYPES)
    casts = {(kind, rest[0]) for name, kind, *rest in said if name == "cast"}
    apart = {(a, b) for a in TYPES for b in TYPES if (a[0] == "f" or b[0] == "f") and a != b}
    assert casts >= apart


@pytest.mark.parametrize("row", rows("product"), ids=lambda row: row["product"].strip("`"))
def test_products(row: Row) -> None:
    found = re.fullmatch(r"`abc\.(i8|f16) rows (\d+)`", row["product"])
    assert found
    kind = TYPES[found[1]]
    a, column = (
        np.array([typed(text, kind) for text in row[name].split()], numpy_type(kind))
        for name in ("activations", "column")
    )
    weights = Int8Matrix(column[:, None]) if kind is Type.I8 else HalfMatrix(column[:, None])
    got = EXECUTES["abc"](a=a, weights=weights, rows=int(found[2]))
    assert bits(got) == bits(operand(row["result"], Type.I32 if kind is Type.I8 else Type.F32))


def lanes(cell: str) -> np.ndarray:
    """Bytes [lanes, streams]."""
    return np.array([list(bytes.fromhex(stream)) for stream in cell.split("/")], np.uint8).T


@pytest.mark.parametrize("row", rows("move"), ids=lambda row: row["move"].strip("`"))
def test_moves(row: Row) -> None:
    name, *words = re.findall(r"-?\w+", row["move"])
    numbers = [int(word) for word in words if word.lstrip("-").isdigit()]
    keys = {"shift": ("amount", "low", "high"), "broadcast": ("lane",)}.get(name, ())
    arguments: dict[str, Any] = dict(zip(keys, numbers, strict=True))
    if row["map"]:
        arguments["map"] = lanes(row["map"])
    if name in ("transpose", "distribute"):
        arguments["per_superlane"] = 4
    got = EXECUTES[name](a=lanes(row["operand"]), **arguments)
    assert got.tolist() == lanes(row["result"]).tolist()


def test_every_move_has_an_example() -> None:
    moved = {row["move"].strip("`").split()[0] for row in rows("move")}
    assert moved == {row.name for row in TABLE if row.unit in MOVERS}


MOVERS = (Unit.PERMUTE, Unit.TRANSPOSE, Unit.DISTRIBUTE)


def test_the_index_has_every_row_once() -> None:
    index = next(tables("instruction"))
    names = [name for row in index for name in re.findall(r"`(\w+)`", row["instruction"])]
    assert sorted(names) == sorted(BY_NAME)


def test_types() -> None:
    types, layout = list(tables("type"))
    assert [row["type"] for row in types] == [row["type"] for row in layout] == list(TYPES)
    for row in types:
        kind = TYPES[row["type"]]
        assert int(row["streams"]) == kind.bytes
        if row["canonical NaN"]:
            nan = np.array([np.nan], numpy_type(kind))
            got = EXECUTES["add"](a=nan, b=nan)
            assert bits(got) == bits(operand(row["canonical NaN"], kind))
    for row in layout:
        raw = operand(row["bits"], TYPES[row["type"]]).view(np.uint8).tolist()
        streams = [row[name].strip("`") for name in ("stream s", "s + 1", "s + 2", "s + 3")]
        assert [f"{byte:02x}" for byte in raw] == [stream for stream in streams if stream]


@cache
def coefficients(name: str) -> list[float]:
    cells = [row[name].strip("`") for row in next(tables("k")) if row[name]]
    return np.array([int(cell, 16) for cell in cells], np.uint64).view(np.float64).tolist()


def test_coefficients() -> None:
    assert coefficients("c_k") == list(transcendental.EXP2_COEFFICIENTS)
    assert coefficients("t_k") == list(transcendental.TANH_COEFFICIENTS)
    assert (transcendental.TANH_SMALL, transcendental.TANH_LARGE) == (2.0**-6, 20.0)


def horner(series: list[float], s: float) -> float:
    p = series[-1]
    for coefficient in series[-2::-1]:
        p = p * s
        p = p + coefficient
    return p


def exp2_steps(x: float) -> float:
    n = round(x)
    return horner(coefficients("c_k"), x - n) * 2.0**n


def exp2(a: float) -> float:
    return exp2_steps(min(max(a, -200.0), 200.0))


def tanh(a: float) -> float:
    x = min(max(a, -20.0), 20.0)
    if abs(x) < 2.0**-6:
        return x * horner(coefficients("t_k"), x * x)
    found = re.search(r"L = `0x(\w{16})`", PAGE)
    assert found
    (twice,) = struct.unpack(">d", bytes.fromhex(found[1]))
    return math.copysign(1.0 - 2.0 / (exp2_steps(abs(x) * twice) + 1.0), x)


def rsqrt(a: float) -> float:
    return 1.0 / math.sqrt(a)


@pytest.mark.parametrize("steps", [exp2, tanh, rsqrt])
def test_the_steps_of_the_page_give_every_bit(steps: Callable[[float], float]) -> None:
    """The page's own steps and coefficients, in Python's floats, at random bits and about 1."""
    generator = np.random.default_rng(3)
    anywhere = generator.integers(0, 1 << 32, 1500, dtype=np.uint32).view(np.float32)
    x = np.concatenate([anywhere, generator.standard_normal(1500).astype(np.float32) * 3])
    x = x[np.isfinite(x) & ((x > 0) | (steps is not rsqrt))]
    with np.errstate(over="ignore", under="ignore"):
        wanted = np.array([steps(value) for value in x.tolist()]).astype(np.float32)
    assert bits(EXECUTES[steps.__name__](a=x)) == bits(wanted)


def errors() -> dict[str, Row]:
    return {row["function"].strip("`"): row for row in next(tables("function"))}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_the_largest_error_is_the_one_said(name: str) -> None:
    """At the input that is named; and a million others are no worse."""
    row = errors()[name]
    worst, digits = Decimal(row["largest error, ulp"]), Decimal("1e-12")
    assert error(name, int(row["at"].strip("`"), 16)).quantize(digits) == worst
    found = measure(name, sample(1_000_000, seed=1))
    assert found.inputs > 400_000
    assert found.worst <= worst + digits
    assert len(found.misrounded) <= int(row["not the nearest f32"])
    assert found.descents == int(row["steps against the slope"]) == 0


def test_the_misrounded_inputs_are_those_said() -> None:
    """Each is more than half an ulp off, and the nearest f32 is another."""
    for name, row in errors().items():
        said = [
            int(e["a"].split()[0].strip("`"), 16)
            for e in rows("example")
            if e["example"].startswith(f"`{name}.") and "not the nearest" in e["because"]
        ]
        assert len(said) == int(row["not the nearest f32"])
        for pattern in said:
            assert error(name, pattern) > Decimal("0.5")
            x = np.array([pattern], np.uint32).view(np.float32)
            true = FUNCTIONS[name].true(Decimal(float(x[0])))
            assert nearest(Fraction(true), np.float32) != EXECUTES[name](a=x)[0]


def test_links_within_the_page() -> None:
    heads = re.findall(r"^## (.*)$", PAGE, flags=re.M)
    slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= slugs
