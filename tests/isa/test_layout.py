"""Layouts: what is stored is fetched again, whatever the shape, order and type."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clockstep_isa import Binding, Layout, Type, UsageError, numpy_type, tensor_dtype
from clockstep_isa.layout import Window, integer_range
from tests.support.programs import TINY, layouts

Memory = dict[tuple[int, int, int], NDArray[np.uint8]]


def store(binding: Binding, value: NDArray[np.generic]) -> Memory:
    """The words that a binding puts in memory, by (chip, queue, address)."""
    memory: Memory = {}

    def place(chip: int, queue: int, address: int, words: NDArray[np.uint8]) -> None:
        assert words.dtype == np.uint8
        for i, word in enumerate(words):
            assert (chip, queue, address + i) not in memory
            memory[chip, queue, address + i] = np.pad(word, (0, TINY.vector - len(word)))

    binding.encode(value, place)
    return memory


def fetch(binding: Binding, memory: Memory) -> NDArray[np.generic]:
    def words(chip: int, queue: int, address: int, rows: int) -> NDArray[np.uint8]:
        return np.stack([memory[chip, queue, address + i] for i in range(rows)])

    return binding.decode(words)


def one(dtype: str, stored: Type, offset: int = 0, columns: int = 3) -> Binding:
    pieces = [(byte, 0, 2, 0, columns, 0, byte, 7) for byte in range(stored.bytes)]
    layout = Layout(stored, offset, (0, 1), 2, columns, np.array(pieces, np.int64))
    return Binding("x", dtype, (2, columns), (layout,))


@settings(deadline=None)
@given(st.data())
def test_round_trip(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 7), max_size=4)))
    layout = data.draw(layouts(shape))
    dtype = numpy_type(layout.stored)
    binding = Binding("x", dtype.name, shape, (layout,))
    raw = np.random.default_rng(data.draw(st.integers(0, 99))).bytes(
        dtype.itemsize * int(np.prod(shape))
    )
    value = np.frombuffer(raw, dtype).reshape(shape)
    result = fetch(binding, store(binding, value))
    assert result.dtype == value.dtype
    assert result.shape == shape
    np.testing.assert_array_equal(result, value)


def test_bytes_are_little_endian_and_rows_are_words() -> None:
    memory = store(one("int32", Type.I32), np.arange(6, dtype=np.int32).reshape(2, 3) + 0x01020300)
    assert memory[0, 0, 7][:4].tolist() == [0, 1, 2, 0]
    assert memory[0, 0, 8][:4].tolist() == [3, 4, 5, 0]
    assert [memory[0, byte, 7][0] for byte in range(4)] == [0, 3, 2, 1]


def test_axes_are_permuted_first() -> None:
    layout = Layout(Type.I8, 0, (1, 0), 3, 2, np.array([(0, 0, 3, 0, 2, 0, 0, 0)]))
    binding = Binding("x", "int8", (2, 3), (layout,))
    value = np.array([[1, 2, 3], [4, 5, 6]], np.int8)
    memory = store(binding, value)
    assert [memory[0, 0, i][:2].tolist() for i in range(3)] == [[1, 4], [2, 5], [3, 6]]
    np.testing.assert_array_equal(fetch(binding, memory), value)


def test_windows_hold_what_a_kernel_sees() -> None:
    """Windows of two lines and three pixels, two apart along a line; zeros are beyond the image."""
    windows = (Window(0, 2, 1, 1, 3), Window(1, 3, 2, 1, 2))
    pieces = np.array([(0, 0, 6, 0, 6, 0, 0, 0)])
    layout = Layout(Type.I8, 0, (1, 0), 6, 6, pieces, windows)
    binding = Binding("x", "int8", (4, 2), (layout,))
    image = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.int8)
    memory = store(binding, np.ascontiguousarray(image.T))
    rows = [memory[0, 0, i][:6].reshape(2, 3).tolist() for i in range(6)]
    assert rows == [
        [[0, 0, 0], [0, 1, 2]],
        [[0, 0, 0], [2, 3, 4]],
        [[0, 1, 2], [0, 5, 6]],
        [[2, 3, 4], [6, 7, 8]],
        [[0, 5, 6], [0, 0, 0]],
        [[6, 7, 8], [0, 0, 0]],
    ]
    several = layout.matrix(np.stack([image.T, 2 * image.T]), 1)
    np.testing.assert_array_equal(several[1], 2 * several[0])


def test_unsigned_bytes_are_kept_with_an_offset() -> None:
    binding = one("uint8", Type.I8, -128)
    value = np.array([[0, 127, 128], [129, 254, 255]], np.uint8)
    memory = store(binding, value)
    assert memory[0, 0, 7][:3].view(np.int8).tolist() == [-128, -1, 0]
    np.testing.assert_array_equal(fetch(binding, memory), value)


@pytest.mark.parametrize(
    ("dtype", "stored", "value"),
    [
        ("float32", Type.F16, 0.1),
        ("float64", Type.F32, 0.1),
        ("bfloat16", Type.F32, 0.1),
        ("bool", Type.I8, True),
        ("int64", Type.I32, -(2**31)),
        ("uint64", Type.I8, 127),
    ],
)
def test_other_types_are_converted(dtype: str, stored: Type, value: float) -> None:
    binding = one(dtype, stored)
    full = np.full((2, 3), value).astype(tensor_dtype(dtype))
    result = fetch(binding, store(binding, full))
    assert result.dtype == tensor_dtype(dtype)
    np.testing.assert_array_equal(result, full.astype(numpy_type(stored)).astype(result.dtype))


@pytest.mark.parametrize(
    ("dtype", "stored", "offset", "value"),
    [
        ("int64", Type.I32, 0, 2**31),
        ("int64", Type.I8, 0, -129),
        ("uint64", Type.I8, 0, 2**64 - 1),
        ("int64", Type.I8, -128, -(2**63)),
        ("uint8", Type.I8, 0, 128),
    ],
)
def test_integers_that_do_not_fit(dtype: str, stored: Type, offset: int, value: int) -> None:
    full = np.full((2, 3), value, tensor_dtype(dtype))
    with pytest.raises(UsageError, match="holds an integer outside") as caught:
        store(one(dtype, stored, offset), full)
    assert caught.value.diagnostic.where == "input 'x'"


def test_limits_are_narrower_than_the_stored_type() -> None:
    binding = replace(one("int64", Type.I32), limits=(-5, 5))
    value = np.array([[-5, 0, 5], [1, 2, 3]])
    np.testing.assert_array_equal(fetch(binding, store(binding, value)), value)
    for outside in (-6, 6):
        value[1, 1] = outside
        with pytest.raises(UsageError, match="outside -5 to 5"):
            store(binding, value)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        *((name, Type.F16) for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2")),
        *((name, Type.F16) for name in ("float8_e5m2fnuz", "float4_e2m1fn")),
        *((name, Type.I8) for name in ("int4", "uint4", "int2", "uint2")),
        ("float8_e8m0fnu", Type.F32),
    ],
)
def test_small_types_keep_every_value(dtype: str, stored: Type) -> None:
    kind = tensor_dtype(dtype)
    bits = {"float4_e2m1fn": 16, "int4": 16, "uint4": 16, "int2": 4, "uint2": 4}.get(dtype, 256)
    if "int" in dtype:
        low, high = integer_range(dtype)
        every = np.arange(low, high + 1).astype(kind)
    else:
        every = np.arange(bits, dtype=np.uint8).view(kind)
    for start in range(0, bits, TINY.vector):
        part = every[start : start + TINY.vector]
        value = np.stack([part, part[::-1]])
        binding = one(dtype, stored, columns=len(part))
        result = fetch(binding, store(binding, value))
        assert result.dtype == kind
        number = value == value
        assert np.array_equal(result[number].view(np.uint8), value[number].view(np.uint8))
        assert not (result == result)[~number].any()


@pytest.mark.parametrize("value", [np.zeros((3, 2), np.int8), np.zeros((2, 3), np.uint8)])
def test_another_shape_or_type(value: NDArray[np.generic]) -> None:
    with pytest.raises(UsageError, match=r"the program wants int8\[2, 3\]"):
        store(one("int8", Type.I8), value)
