"""The parts of a program that are written as JSON: bindings, probes, nodes, both ways, checked.

The container and the listing share them; only the pieces of a layout differ (an array in the
one, rows with queue names in the other), so the caller says how to read and write those.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.diagnostics import MalformedFile, shown
from clockstep_isa.geometry import Unit, geometry
from clockstep_isa.layout import DTYPES, PIECE, Binding, Layout, Window, numpy_type
from clockstep_isa.machine import Machine
from clockstep_isa.program import Node, Probe
from clockstep_isa.table import TYPES

__all__ = [
    "binding_from_json",
    "binding_to_json",
    "dump_json",
    "integers",
    "load_json",
    "member",
    "node_from_json",
    "node_to_json",
    "probe_from_json",
    "probe_to_json",
    "region_problem",
    "state_problem",
    "states_from_json",
]

Pieces = NDArray[np.int64]
_T = TypeVar("_T")
_LIMIT = 2**48
_RANK = 32
"""Most axes of a tensor; numpy has 64, of which a batch of runs takes one."""


def dump_json(value: Any) -> str:
    """Compact JSON with sorted keys: one value, one text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def load_json(text: str | bytes, where: str) -> dict[str, Any]:
    """Read one JSON object; raises `MalformedFile` if it is anything else or says a thing twice."""
    try:
        value = json.loads(
            text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_once
        )
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0][:100]
        raise MalformedFile("json", f"not valid JSON: {reason}", where=where) from None
    if not isinstance(value, dict):
        raise MalformedFile("json", "not a JSON object", where=where)
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"{shown(twice)} stands twice")
    return value


def member(data: Mapping[str, Any], key: str, kind: type[_T], where: str) -> _T:
    """`data[key]`, which must be of exactly this type; integers must be below 2**48."""
    value = data.get(key)
    if type(value) is not kind or (isinstance(value, int) and abs(value) >= _LIMIT):
        found = "is missing" if key not in data else "is wrong"
        raise MalformedFile("json", f"{key!r} {found}: want {kind.__name__}", where=where)
    return value


def integers(data: Mapping[str, Any], key: str, where: str) -> tuple[int, ...]:
    """`data[key]` as a tuple of integers from 0 to 2**48."""
    values = member(data, key, list, where)
    if not all(type(v) is int and 0 <= v < _LIMIT for v in values):
        raise MalformedFile("json", f"{key!r} is wrong: want integers from 0", where=where)
    return tuple(values)


def node_to_json(node: Node) -> dict[str, Any]:
    return {"name": node.name, "op": node.op, "start": node.start, "end": node.end}


def node_from_json(data: Mapping[str, Any], where: str) -> Node:
    """The inverse of `node_to_json`; raises `MalformedFile`."""
    name, op = (member(data, key, str, where) for key in ("name", "op"))
    start, end = (member(data, key, int, where) for key in ("start", "end"))
    return Node(name, op, start, end)


def binding_to_json(binding: Binding, write_pieces: Callable[[Pieces], Any]) -> dict[str, Any]:
    """A binding; `write_pieces` gives the JSON form of a layout's pieces."""
    layouts = [
        {
            "stored": layout.stored.text,
            "offset": layout.offset,
            "axes": list(layout.axes),
            "rows": layout.rows,
            "columns": layout.columns,
            "pieces": write_pieces(layout.pieces),
            **({"windows": [list(w) for w in layout.windows]} if layout.windows else {}),
        }
        for layout in binding.layouts
    ]
    shape = list(binding.shape)
    data = {"name": binding.name, "dtype": binding.dtype, "shape": shape, "layouts": layouts}
    return data if binding.limits is None else {**data, "limits": list(binding.limits)}


def binding_from_json(
    data: Mapping[str, Any],
    read_pieces: Callable[[Any, str], Pieces],
    machine: Machine,
    chips: int,
    where: str,
    *,
    loaded: bool = False,
) -> Binding:
    """The inverse of `binding_to_json`; raises `MalformedFile` if the machine has no such place.

    Only what the host has `loaded` may lie in windows: nothing could be read back from these.
    """
    name, dtype = (member(data, key, str, where) for key in ("name", "dtype"))
    where = f"{where} tensor {shown(name)}"
    shape = integers(data, "shape", where)
    if dtype not in DTYPES:
        raise MalformedFile("binding", f"no tensor type {shown(dtype)}", where=where)
    if len(shape) > _RANK or (0 in shape and math.prod(max(1, n) for n in shape) >= _LIMIT):
        message = f"shape {shown(shape)} has more than {_RANK} axes, or sizes without sense"
        raise MalformedFile("binding", message, where=where)
    rows = member(data, "layouts", list, where)
    if not rows:
        raise MalformedFile("binding", "has no layout", where=where)
    layouts = []
    for row in rows:
        if not isinstance(row, dict):
            raise MalformedFile("json", "a layout is not an object", where=where)
        layout = _layout(row, read_pieces, where)
        problem = _type_problem(layout, dtype) or _layout_problem(layout, shape, machine, chips)
        if layout.windows and not loaded:
            problem = "windows are of inputs alone"
        if problem:
            raise MalformedFile("binding", problem, where=where)
        layouts.append(layout)
    return Binding(name, dtype, shape, tuple(layouts), _limits(data, where))


def _limits(data: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    if "limits" not in data:
        return None
    values = member(data, "limits", list, where)
    if len(values) != 2 or not all(type(v) is int and abs(v) < _LIMIT for v in values):
        raise MalformedFile("json", "'limits' is wrong: want two integers", where=where)
    low, high = values
    if not low <= 0 <= high:
        raise MalformedFile("binding", f"limits {low} to {high} leave out 0", where=where)
    return low, high


def probe_to_json(probe: Probe, write_pieces: Callable[[Pieces], Any]) -> dict[str, Any]:
    """A probe: its binding, and beside it the cycles of the pieces and the nodes."""
    data = binding_to_json(probe.binding, write_pieces)
    return {**data, "ready": probe.ready.tolist(), "nodes": list(probe.nodes)}


def probe_from_json(
    data: Mapping[str, Any],
    read_pieces: Callable[[Any, str], Pieces],
    machine: Machine,
    chips: int,
    nodes: int,
    where: str,
) -> Probe:
    """The inverse of `probe_to_json` for a program of `nodes` nodes; raises `MalformedFile`."""
    binding = binding_from_json(data, read_pieces, machine, chips, where)
    where = f"{where} tensor {shown(binding.name)}"
    ready, served = (integers(data, key, where) for key in ("ready", "nodes"))
    if len(binding.layouts) != 1 or len(ready) != len(binding.layouts[0].pieces):
        message = f"{len(ready)} cycles for the pieces of {len(binding.layouts)} layouts"
        raise MalformedFile("probe", message, where=where)
    if not served or max(served) >= nodes:
        message = f"nodes {list(served)[:9]} are none of the program's {nodes}"
        raise MalformedFile("probe", message, where=where)
    return Probe(binding, np.array(ready, np.int64), served)


def _layout(
    data: Mapping[str, Any], read_pieces: Callable[[Any, str], Pieces], where: str
) -> Layout:
    stored = member(data, "stored", str, where)
    if stored not in TYPES:
        raise MalformedFile("binding", f"no stored type {shown(stored)}", where=where)
    return Layout(
        TYPES[stored],
        member(data, "offset", int, where),
        integers(data, "axes", where),
        member(data, "rows", int, where),
        member(data, "columns", int, where),
        read_pieces(data.get("pieces"), where),
        _windows(data, where),
    )


def _windows(data: Mapping[str, Any], where: str) -> tuple[Window, ...]:
    rows = member(data, "windows", list, where) if "windows" in data else []
    width = len(Window._fields)
    for row in rows:
        whole = isinstance(row, list) and len(row) == width
        if not whole or not all(type(v) is int and 0 <= v < _LIMIT for v in row):
            message = f"a window is wrong: want {width} numbers"
            raise MalformedFile("json", message, where=where)
    return tuple(Window(*row) for row in rows)


def _type_problem(layout: Layout, dtype: str) -> str | None:
    """Why a layout cannot hold a tensor of this type, or None. Zero is stored as the offset."""
    stored, low, high = numpy_type(layout.stored), 0, 0
    if (stored.kind == "f") != ("float" in dtype):
        return f"{dtype} is not stored as {layout.stored.text}"
    if stored.kind == "i":
        low, high = np.iinfo(stored).min, np.iinfo(stored).max
    if not low <= layout.offset <= high:
        return f"offset {layout.offset} is not in {low} to {high}"
    return None


def _layout_problem(
    layout: Layout, shape: tuple[int, ...], machine: Machine, chips: int
) -> str | None:
    """The first thing that is impossible about a layout, or None."""
    size = math.prod(shape)
    if sorted(layout.axes) != list(range(len(shape))):
        return f"axes {shown(layout.axes)} do not permute {len(shape)} axes"
    problem = _window_problem(layout, shape)
    if problem:
        return problem
    for window in layout.windows:
        size = size // shape[layout.axes[window.axis]] * window.number * window.size
    if layout.rows < 0 or layout.columns < 0 or layout.rows * layout.columns != size:
        return f"{layout.rows} x {layout.columns} is not the size of shape {shown(shape)}"
    if size * layout.stored.bytes > chips * machine.sram_bytes:
        return f"shape {shown(shape)} is more than the SRAM of {chips} chips holds"
    return _piece_problem(layout, machine, chips)


def _window_problem(layout: Layout, shape: tuple[int, ...]) -> str | None:
    """Why there are no such windows, or None: each begins and ends at most a window beyond."""
    axes = [window.axis for window in layout.windows]
    if len(set(axes)) < len(axes) or max(axes, default=-1) >= len(shape):
        return f"windows along axes {shown(axes)} of shape {shown(shape)}"
    for window in layout.windows:
        length = shape[layout.axes[window.axis]]
        last = window.stride * (window.number - 1) - window.before
        fits = window.before < window.size and last < length
        if min(window.size, window.stride, window.number, length) < 1 or not fits:
            return f"no windows {list(window)} along {length} elements"
    return None


def _piece_problem(layout: Layout, machine: Machine, chips: int) -> str | None:
    pieces = layout.pieces
    queues = geometry(machine).queues
    memory = np.array([q.unit is Unit.MEM for q in queues])
    high = (
        layout.stored.bytes - 1,
        layout.rows - 1,
        layout.rows,
        layout.columns - 1,
        min(layout.columns, machine.vector),
        chips - 1,
        len(queues) - 1,
        machine.words_per_slice - 1,
    )
    low = (0, 0, 1, 0, 1, 0, 0, 0)
    bad = (pieces < np.array(low)) | (pieces > np.array(high))
    if bad.any():
        piece, column = (int(i) for i in np.argwhere(bad)[0])
        value, limits = int(pieces[piece, column]), f"{low[column]} to {high[column]}"
        return f"piece {piece}: {PIECE[column]} {value} is not in {limits}"
    _, row, rows, column_, columns, _, queue, address = pieces.T
    ends = (
        (row + rows > layout.rows, "ends beyond the last row"),
        (column_ + columns > layout.columns, "ends beyond the last column"),
        (~memory[queue], "does not lie in a MEM slice"),
        (address + rows > machine.words_per_slice, "ends beyond its slice"),
    )
    for wrong, message in ends:
        if wrong.any():
            return f"piece {int(wrong.argmax())} {message}"
    return None


def states_from_json(
    rows: Any, inputs: Sequence[Binding], outputs: Sequence[Binding], where: str
) -> tuple[tuple[str, str], ...]:
    """Pairs of names, each of an input and an output that lies where it does.

    Raises `MalformedFile` if there are no such bindings, if they differ, or if one stands twice.
    """
    given, made = ({b.name: b for b in some} for some in (inputs, outputs))
    found: list[tuple[str, str]] = []
    for row in rows if isinstance(rows, list) else [None]:
        if not isinstance(row, list) or len(row) != 2 or not all(type(n) is str for n in row):
            raise MalformedFile("json", "a state is not an input and an output", where=where)
        source, result = given.get(row[0]), made.get(row[1])
        if source is None or result is None:
            message = f"no input {shown(row[0])}, or no output {shown(row[1])}"
            raise MalformedFile("state", message, where=where)
        problem = state_problem(source, result)
        if problem:
            raise MalformedFile("state", problem, where=where)
        found.append((row[0], row[1]))
    for names in zip(*found, strict=True):
        if len(set(names)) != len(names):
            raise MalformedFile("state", "an input or an output is of two states", where=where)
    return tuple(found)


def state_problem(source: Binding, result: Binding) -> str | None:
    """Why an output cannot be what an input finds in the next run, or None."""
    names = f"input {shown(source.name)} and output {shown(result.name)}"
    if (source.dtype, source.shape) != (result.dtype, result.shape):
        return f"{names} are not of one type and shape"
    if any(layout.windows for layout in source.layouts):
        return f"{names} lie in windows"
    mine, its = ([_place(layout) for layout in b.layouts] for b in (source, result))
    return None if mine == its else f"{names} do not lie in the same words"


def _place(layout: Layout) -> tuple[Any, ...]:
    form = (layout.stored, layout.offset, layout.axes, layout.rows, layout.columns)
    return (*form, layout.pieces.tolist())


def region_problem(
    regions: NDArray[np.int64], machine: Machine, chips: int
) -> tuple[int, str] | None:
    """The first thing that is impossible about the regions of an image, after its region."""
    memory = np.array([q.unit is Unit.MEM for q in geometry(machine).queues])
    words = machine.words_per_slice
    chip, queue, address, count = regions.T
    checks = (
        ((chip < 0) | (chip >= chips), "is on a chip that does not exist"),
        ((queue < 0) | (queue >= len(memory)), "is in a queue that does not exist"),
        (~memory[np.clip(queue, 0, len(memory) - 1)], "does not lie in a MEM slice"),
        ((address < 0) | (address >= words), f"begins outside the {words} words of its slice"),
        ((count < 1) | (count > words), f"has no words or more than the {words} of its slice"),
        (address > words - np.clip(count, 0, words), f"ends beyond the {words} words of its slice"),
    )
    for wrong, message in checks:
        if wrong.any():
            at = int(wrong.argmax())
            return at, f"image region {at} {message}"
    order = np.lexsort((address, queue, chip))
    one, two = order[:-1], order[1:]
    same = (chip[one] == chip[two]) & (queue[one] == queue[two])
    overlap = same & (address[one] + count[one] > address[two])
    if overlap.any():
        pair = int(overlap.argmax())
        return int(two[pair]), f"image regions {int(one[pair])} and {int(two[pair])} overlap"
    return None
