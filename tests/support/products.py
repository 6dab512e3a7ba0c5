"""Operands of block products, each kind straining another part of the arithmetic."""

from __future__ import annotations

import numpy as np

__all__ = ["KINDS", "half", "int8", "same_bits"]

KINDS = ("normal", "wide", "integers", "tiny", "cancelling", "relu", "special")


def int8(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.integers(-128, 128, shape).astype(np.int8)


def half(generator: np.random.Generator, kind: str, *shape: int) -> np.ndarray:
    """fp16 numbers of one kind; each kind strains another part of the arithmetic."""
    values = generator.standard_normal(shape)
    if kind == "wide":
        bits = generator.integers(0, 0x7C00, shape).astype(np.uint16)
        return (bits | (generator.integers(0, 2, shape) << 15).astype(np.uint16)).view(np.float16)
    if kind == "special":
        values = np.where(generator.random(shape) < 0.01, np.inf, values)
        values = np.where(generator.random(shape) < 0.01, -np.inf, values)
        values = np.where(generator.random(shape) < 0.005, np.nan, values)
        return np.where(generator.random(shape) < 0.1, 0.0, values).astype(np.float16)
    if kind == "cancelling":
        first = values[..., : (shape[-1] + 1) // 2]
        return np.concatenate([first, -first], axis=-1)[..., : shape[-1]].astype(np.float16)
    scaled = {
        "normal": values,
        "integers": np.round(values * 2),
        "tiny": values * 2.0**-20,
        "relu": np.maximum(values, 0),
    }
    return scaled[kind].astype(np.float16)


def same_bits(got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))
