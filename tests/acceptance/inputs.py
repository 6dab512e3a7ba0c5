"""Inputs that mean something to a network: photographs, token ids, sounds. Numbers alone decide.

Every generator is a function of (shape, seed) and keywords; two seeds give two inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GENERATORS", "photo", "resized"]

Array = NDArray[Any]
_PHOTOS = ("china.jpg", "flower.jpg")


def resized(image: Array, height: int, width: int) -> Array:
    """[h, w, c] at another size, each pixel the mean of those whose centres it covers, or near."""
    for axis, size in enumerate((height, width)):
        have = image.shape[axis]
        centres = (np.arange(size) + 0.5) * have / size - 0.5
        low = np.clip(np.floor(centres).astype(int), 0, have - 1)
        high = np.minimum(low + 1, have - 1)
        part = np.clip(centres - low, 0, 1).reshape([-1 if a == axis else 1 for a in range(3)])
        image = image.take(low, axis) * (1 - part) + image.take(high, axis) * part
    return image


def photo(
    shape: tuple[int, ...],
    seed: int,
    mean: float = 0.0,
    scale: float = 1.0,
    channels_last: bool = False,
    image: Array | None = None,
) -> Array:
    """A photograph of scikit-learn's as (pixel - mean) / scale, [N, C, H, W] or channels last."""
    if image is None:
        image = _photograph(_PHOTOS[seed % len(_PHOTOS)])
    channels, (height, width) = (shape[3], shape[1:3]) if channels_last else (shape[1], shape[2:4])
    pixels = resized(image.astype(np.float64), height, width)
    if channels == 1:
        pixels = pixels.mean(axis=2, keepdims=True)
    pixels = (pixels - mean) / scale
    ordered = pixels if channels_last else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(np.broadcast_to(ordered, shape), np.float32)


def _photograph(name: str) -> Array:
    package = find_spec("sklearn")
    assert package is not None, "photographs need: pip install 'clockstep[models]'"
    assert package.origin is not None, "scikit-learn is no folder"
    from PIL import Image

    with Image.open(Path(package.origin).parent / "datasets" / "images" / name) as image:
        return np.asarray(image.convert("RGB"))


def _tokens(shape: tuple[int, ...], seed: int) -> Array:
    """Words of a vocabulary of 30,000, between the marks of start and end."""
    ids = np.random.default_rng(seed).integers(1000, 29_000, shape)
    ids[..., 0], ids[..., -1] = 101, 102
    return ids.astype(np.int64)


def _mask(shape: tuple[int, ...], seed: int) -> Array:
    """What is left is a text shorter than the model takes."""
    found = np.ones(shape, np.int64)
    found[..., shape[-1] - shape[-1] // (4 + seed) :] = 0
    return found


def _sound(shape: tuple[int, ...], seed: int, rate: int = 16_000) -> Array:
    """A voice, roughly: harmonics of a wandering pitch, louder and softer, and some breath."""
    rng = np.random.default_rng(seed)
    count = int(np.prod(shape))
    time = np.arange(count) / rate
    pitch = 120 * (1 + seed) * (1 + 0.05 * np.sin(2 * np.pi * 3 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(np.sin(k * phase + k * k) / k for k in range(1, 20))
    loud = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * time + seed)
    wave = 0.1 * loud * voice + 0.005 * rng.standard_normal(count)
    return wave.reshape(shape).astype(np.float32)


def _noise(shape: tuple[int, ...], seed: int) -> Array:
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def _zeros(shape: tuple[int, ...], seed: int, dtype: str = "float32") -> Array:
    return np.zeros(shape, dtype)


GENERATORS: dict[str, Callable[..., Array]] = {
    "mask": _mask,
    "noise": _noise,
    "photo": photo,
    "sound": _sound,
    "tokens": _tokens,
    "zeros": _zeros,
}
