"""Features of classic models: TfIdfVectorizer of integers, Binarizer."""

from __future__ import annotations

import math
from functools import reduce
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.frontend.body import Body, Refused, composes
from clockstep_compiler.frontend.infer import Mismatch

__all__: list[str] = []


@composes("ai.onnx.ml.Binarizer")
def _binarizer(body: Body) -> None:
    """1 above the threshold, else 0."""
    (x,) = body.inputs(1)
    limit = body.attribute("threshold", 0.0)
    limit = body.constant(limit if "float" in body.dtype(x) else math.floor(limit), body.dtype(x))
    body.give(0, body.cast(body.op("Greater", x, limit), body.dtype(x)))


@composes("TfIdfVectorizer")
def _vectorizer(body: Body) -> None:
    """How often each sequence of the pool occurs in a row, its elements `skip` apart."""
    (x,) = body.inputs(1)
    if body.dtype(x) not in ("int32", "int64"):
        raise Refused("element-type", f"TfIdfVectorizer of {body.dtype(x)}", "number the words")
    shape = body.shape(x)
    rows, columns = (1, *shape)[-2:]
    x = body.reshape(x, (rows, 1, columns))
    outputs = np.asarray(body.attribute("ngram_indexes"), np.int64)
    width = int(outputs.max()) + 1
    parts, places = [], []
    for size, pool in _pools(body).items():
        grams = np.array(list(pool), np.int64).reshape(-1, size)
        skips = int(body.attribute("max_skip_count")) if size > 1 else 0
        for apart in range(1, skips + 2):
            if apart * (size - 1) < columns:
                parts.append(_counts(body, x, grams, apart))
                places.append(outputs[list(pool.values())])
    if parts:
        found = parts[0] if len(parts) == 1 else body.op("Concat", *parts, axis=1)
        # Several sequences may be counted in one place.
        matrix = (np.concatenate(places)[:, None] == np.arange(width)).astype(np.float32)
        counts = body.op("MatMul", found, body.constant(matrix, np.float32))
    else:
        counts = body.constant(np.zeros((rows, width)), np.float32)
    weighted = _weighted(body, counts, width)
    body.give(0, body.reshape(weighted, (rows, width) if len(shape) > 1 else (width,)))


def _pools(body: Body) -> dict[int, dict[tuple[int, ...], int]]:
    """For each length that counts the sequences, and which of all each is."""
    words = body.attribute("pool_int64s", [])
    starts = [*body.attribute("ngram_counts"), len(words)]
    least, most = (int(body.attribute(f"{end}_gram_length")) for end in ("min", "max"))
    found: dict[int, dict[tuple[int, ...], int]] = {}
    number = 0
    for size, (start, end) in enumerate(pairwise(starts), 1):
        if end < start or (end - start) % size:
            raise Mismatch(f"{end - start} elements are no sequences of {size}")
        for at in range(start, end, size):
            if least <= size <= most:
                found.setdefault(size, {})[tuple(words[at : at + size])] = number
            number += 1
    return found


def _counts(body: Body, x: str, grams: NDArray[np.int64], apart: int) -> str:
    """[rows, sequences] of x [rows, 1, columns]: where all elements are equal, counted."""
    size, columns = grams.shape[1], body.shape(x)[2]
    places = columns - apart * (size - 1)
    equal = []
    for at in range(size):
        window = body.slice(x, 2, at * apart, at * apart + places)
        wanted = body.cast(body.constant(grams[:, at : at + 1]), body.dtype(x))
        equal.append(body.op("Equal", window, wanted))
    both = reduce(lambda a, b: body.op("And", a, b), equal)
    axes = body.constant([2])
    return body.op("ReduceSum", body.cast(both, "float32"), axes, keepdims=0)


def _weighted(body: Body, counts: str, width: int) -> str:
    mode, weights = body.attribute("mode"), body.attribute("weights", [])
    if mode == "IDF":
        counts = body.cast(body.op("Greater", counts, body.like(0.0, counts)), "float32")
    elif mode not in ("TF", "TFIDF"):
        raise Mismatch(f"no mode {mode!r}")
    if mode == "TF" or not weights:
        return counts
    if len(weights) != width:
        raise Refused("unsupported-form", f"{len(weights)} weights of {width} features")
    return body.op("Mul", counts, body.constant(weights, np.float32))
