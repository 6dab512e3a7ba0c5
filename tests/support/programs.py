"""Hypothesis strategies for whatever a program may hold, legal to run or not."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from clockstep_isa.geometry import Unit, geometry
from clockstep_isa.layout import Binding, Layout
from clockstep_isa.machine import Machine
from clockstep_isa.machine_file import load_machine
from clockstep_isa.program import (
    ARGS,
    Code,
    Image,
    Node,
    Note,
    Probe,
    Program,
    canonical_notes,
)
from clockstep_isa.table import TABLE, Field, Instruction, Kind, Type
from clockstep_isa.values import value_range

ROWS = tuple(row for row in TABLE if row.unit is not None)
TINY = load_machine("tiny")


def field_values(field: Field, machine: Machine) -> st.SearchStrategy[int]:
    """Every value of a field; streams are those that the machine has."""
    low, high = value_range(field)
    if field.kind is Kind.STREAM:
        stream = st.integers(0, machine.streams.per_direction - 1)
        return st.builds(lambda side, s: side << 8 | s, st.integers(0, 1), stream)
    return st.integers(low, high) | st.sampled_from((low, high))


def arguments(row: Instruction, machine: Machine) -> st.SearchStrategy[list[int]]:
    """The columns of one instruction."""
    fields = [field_values(field, machine) for field in row.fields]
    padding = [st.just(0)] * (ARGS - len(fields))
    return st.tuples(*fields, *padding).map(list)


@st.composite
def codes(
    draw: st.DrawFn, machine: Machine = TINY, chips: int = 2, rows: tuple[Instruction, ...] = ROWS
) -> Code:
    """Instructions on a few queues; the spans of each follow one another with gaps."""
    count = chips * len(geometry(machine).queues)
    queues = draw(st.lists(st.integers(0, count - 1), max_size=5, unique=True))
    table: list[tuple[int, ...]] = []
    args: list[list[int]] = []
    for queue in sorted(queues):
        cycle = 0
        for _ in range(draw(st.integers(1, 4))):
            row = draw(st.sampled_from(rows))
            repeat = draw(st.integers(1, 3) | st.sampled_from((1, 65535)))
            interval = draw(st.integers(1, 30) | st.sampled_from((1, 4095)))
            cycle += draw(st.integers(0, 5) | st.integers(0, 5000))
            table.append((queue, cycle, row.opcode, repeat, interval, draw(st.integers(-1, 3))))
            args.append(draw(arguments(row, machine)))
            cycle += (repeat - 1) * interval + 1
    columns = np.array(table, np.int64).reshape(-1, 6).T
    return Code(
        columns[0].astype(np.int32),
        columns[1].copy(),
        columns[2].astype(np.uint8),
        columns[3].astype(np.int32),
        columns[4].astype(np.int32),
        np.array(args, np.int64).reshape(-1, ARGS),
        columns[5].astype(np.int32),
    )


@st.composite
def layouts(
    draw: st.DrawFn,
    shape: tuple[int, ...],
    machine: Machine = TINY,
    types: tuple[Type, ...] = (Type.I8, Type.I16, Type.I32),
) -> Layout:
    """A layout of one piece for each byte and each block of at most `lanes` columns."""
    axes = tuple(draw(st.permutations(range(len(shape)))))
    size = int(np.prod(shape, dtype=np.int64))
    columns = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0] or [1]))
    rows = size // columns
    stored = draw(st.sampled_from(types))
    slices = [q.id for q in geometry(machine).queues if q.unit is Unit.MEM]
    pieces = []
    for byte in range(stored.bytes):
        for column in range(0, columns if rows else 0, machine.vector):
            width = min(machine.vector, columns - column)
            queue = slices[len(pieces) % len(slices)]
            address = rows * (len(pieces) // len(slices))
            pieces.append((byte, 0, rows, column, width, 0, queue, address))
    return Layout(stored, 0, axes, rows, columns, np.array(pieces, np.int64).reshape(-1, 8))


@st.composite
def images(draw: st.DrawFn, machine: Machine = TINY, chips: int = 2) -> Image:
    """A few regions with words of any bytes, or without any."""
    slices = [q.id for q in geometry(machine).queues if q.unit is Unit.MEM]
    keys = st.tuples(st.integers(0, chips - 1), st.sampled_from(slices))
    places = draw(st.lists(keys, max_size=3, unique=True))
    regions = [
        (*place, draw(st.integers(0, machine.words_per_slice - 100)), draw(st.integers(1, 100)))
        for place in places
    ]
    words = sum(region[3] for region in regions)
    generator = np.random.default_rng(draw(st.integers(0, 9)))
    data = generator.integers(0, 256, (words, machine.vector)).astype(np.uint8)
    table = np.array(regions, np.int64).reshape(-1, 4)
    return Image(table, data if draw(st.booleans()) else None)


TEXTS = st.text(max_size=8) | st.sampled_from(
    ["", "#0", "a | b", '"', "fc1", "x[0:7, 3]", " x ", "a;b*3", "\n", "\udc80", "é"]
)

LIMITS = (None, (-5, 2**40), (0, 0))


@st.composite
def probes(draw: st.DrawFn, nodes: int) -> Probe:
    """A tensor that some of the nodes make."""
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=3)))
    layout = draw(layouts(shape, types=(Type.F16, Type.F32)))
    count = len(layout.pieces)
    ready = draw(st.lists(st.integers(0, 2**40), min_size=count, max_size=count))
    served = draw(st.lists(st.integers(0, nodes - 1), min_size=1, max_size=3))
    binding = Binding(draw(TEXTS), "float32", shape, (layout,))
    return Probe(binding, np.array(ready, np.int64), tuple(served))


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """A program for two `tiny` chips, well-formed as a file."""
    nodes = draw(
        st.lists(st.builds(Node, TEXTS, TEXTS, st.integers(0, 99), st.integers(0, 99)), max_size=3)
    )
    tiles = st.builds(Note, st.integers(-1, len(nodes) - 1), TEXTS)
    code = draw(codes())
    notes = draw(st.lists(tiles, min_size=4, max_size=4))
    note, used = canonical_notes(code.note, notes)
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=3)))
    bindings = [
        Binding(name, "int8", shape, (draw(layouts(shape)),), draw(st.sampled_from(LIMITS)))
        for name in draw(st.lists(TEXTS, max_size=2, unique=True))
    ]
    return Program(
        machine=load_machine("tiny", draw(st.sampled_from([(), ("c2c.margin=9",)]))),
        chips=2,
        code=Code(*(getattr(code, n) for n in Code.__slots__[:-1]), note),
        image=draw(images()),
        inputs=tuple(bindings),
        outputs=tuple(bindings[:1]),
        nodes=tuple(nodes),
        notes=used,
        cycles=draw(st.integers(0, 2**40)),
        info=draw(
            st.dictionaries(
                TEXTS,
                st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
                max_size=2,
            )
        ),
        probes=tuple(draw(st.lists(probes(len(nodes)), max_size=2 * bool(nodes)))),
    )


def assert_same_code(one: Code, two: Code) -> None:
    """Every column equal, in values and dtype."""
    for name in Code.__slots__:
        a: NDArray[Any] = getattr(one, name)
        b: NDArray[Any] = getattr(two, name)
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)
