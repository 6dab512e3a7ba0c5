"""Rows of constant tables: read where they lie, in the same time whatever they are."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper

from clockstep_isa import load_machine
from clockstep_isa.table import BY_NAME
from tests.support.endtoend import run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

TINY = MACHINES["tiny"]


def _model(table: np.ndarray, count: int) -> ModelProto:
    node = helper.make_node("Gather", ["table", "i"], ["y"])
    kinds = {"y": (table.dtype.name, (1, count, table.shape[1]))}
    return build([node], {"i": ("int64", (1, count))}, kinds, {"table": table})


def _table(rows: int, columns: int, dtype: str) -> np.ndarray:
    values = np.random.default_rng(rows).integers(-128, 128, (rows, columns))
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32", "int32"])
@pytest.mark.parametrize("rows", [3, 40, 1030, 3500])
def test_every_part_of_a_table(rows: int, dtype: str) -> None:
    """Tables of several slices, tiles and blocks of rows; the first and last row of every part."""
    table = _table(rows, 20, dtype)
    index = np.unique(
        np.clip(np.add.outer(range(0, rows + 1, max(1, rows // 6)), [-1, 0]), 0, None)
    )
    index = np.minimum(index, rows - 1)[None]
    run = run_checked(_model(table, index.size), TINY, {"i": index}, precision="exact")
    assert run.outputs["y"].tobytes() == table[index].tobytes()
    assert BY_NAME["gather"].opcode in run.program.code.opcode
    assert BY_NAME["abc"].opcode not in run.program.code.opcode or index.size > 1


def test_reads_only_what_is_asked_for() -> None:
    """More rows of a table take no longer, up to the parts that are joined."""
    index = np.arange(40, dtype=np.int64)[None]
    cycles = [
        run_checked(_model(_table(rows, 64, "float16"), 40), load_machine("lpu-v1"), {"i": index})
        for rows in (4200, 7000)
    ]
    assert cycles[0].program.cycles == cycles[1].program.cycles


@pytest.mark.parametrize("chips", [2, 3])
def test_tiles_fill_chips(chips: int) -> None:
    """The tiles of a table that several chips hold."""
    table, index = _table(900, 60, "float32"), np.array([[899, 0, 5]])
    run = run_checked(_model(table, 3), TINY, {"i": index}, precision="exact", chips=chips)
    assert run.outputs["y"].tobytes() == table[index].tobytes()
