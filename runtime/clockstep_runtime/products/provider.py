"""Who multiplies int8: float32 everywhere, or onnxruntime where it is present, exact and faster.

The choice never changes a bit: a provider is used only after a self-test in this process. It goes
by the size of the work, never by time. `CLOCKSTEP_INT8_PROVIDER` (`auto`, `none`, `onnxruntime`)
or `int8_provider(...)` override it. A new provider is one more name in `PROVIDERS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.diagnostics import UsageError

__all__ = ["Product", "chosen_product", "int8_provider", "int8_provider_available", "is_exact"]

Product = Callable[[NDArray[np.uint8], NDArray[np.int8]], NDArray[np.int32]]
"""(activation [n, k], each 128 more than it is; weights [k, columns]) -> int32 [n, columns]."""

PROVIDERS = ("auto", "none", "onnxruntime")

ENVIRONMENT = "CLOCKSTEP_INT8_PROVIDER"

LEAST_WORK = 1 << 22
"""Multiplications of a product below which a call to onnxruntime costs more than it saves."""

LOADING_WORK = 1 << 32
"""Multiplications after which importing onnxruntime (a tenth of a second) has paid off."""

_override: ContextVar[str | None] = ContextVar("int8_provider", default=None)


class _Seen:
    """Multiplications that `auto` has seen in this process, up to `LOADING_WORK`."""

    work = 0


@contextmanager
def int8_provider(name: str) -> Iterator[None]:
    """Within this context the int8 provider is `name`, whatever the environment says.

    `auto` takes onnxruntime for large products if it can, `none` never, `onnxruntime` always.
    Raises `UsageError` for another name; asking for onnxruntime where it is missing or inexact
    is a `UsageError` when a product is computed.
    """
    token = _override.set(_known(name))
    try:
        yield
    finally:
        _override.reset(token)


def int8_provider_available() -> bool:
    """Whether onnxruntime is here and exact on this processor. Imports it."""
    return _onnxruntime() is not None


def chosen_product(work: int) -> Product | None:
    """The provider for a sum of products with `work` multiplications; None for float32."""
    name = _override.get() or _known(os.environ.get(ENVIRONMENT) or "auto")
    if name == "none" or (name == "auto" and not _worth_while(work)):
        return None
    product = _onnxruntime()
    if product is None and name == "onnxruntime":
        raise UsageError(
            "provider-missing",
            "onnxruntime cannot provide int8 products: it is not installed, or its products are "
            "not exact on this processor",
            help=f"install onnxruntime, or set {ENVIRONMENT}=auto",
        )
    return product


def is_exact(product: Product) -> bool:
    """The self-test: extremes that saturate int16 pairs, and random values, in several shapes."""
    generator = np.random.default_rng(0)
    for n, k, columns in ((1, 320, 320), (3, 7, 5), (65, 1027, 47), (128, 1024, 64)):
        random = generator.integers(0, 256, (n, k)).astype(np.uint8)
        noise = generator.integers(-128, 128, (k, columns)).astype(np.int8)
        signs = np.where(noise < 0, -128, 127).astype(np.int8)
        high, low = np.full_like(random, 255), np.zeros_like(random)
        extremes = (high, np.full_like(noise, 127)), (high, np.full_like(noise, -128))
        for activation, weights in ((random, noise), (random, signs), (low, signs), *extremes):
            exact = (activation.astype(np.float64) - 128) @ weights.astype(np.float64)
            if not np.array_equal(product(activation, weights), exact):
                return False
    return True


def _known(name: str) -> str:
    if name not in PROVIDERS:
        names = ", ".join(PROVIDERS)
        raise UsageError(
            "provider-unknown", f"no int8 provider is named {name!r}", help=f"one of {names}"
        )
    return name


def _worth_while(work: int) -> bool:
    _Seen.work = min(_Seen.work + work, LOADING_WORK)
    return work >= LEAST_WORK and _Seen.work == LOADING_WORK


@cache
def _onnxruntime() -> Product | None:
    try:
        product = _matmul_integer()
        return product if is_exact(product) else None
    except Exception:  # never required: whatever keeps onnxruntime from working, float32 does
        return None


def _matmul_integer() -> Product:
    """onnxruntime's MatMulInteger with a zero point of 128.

    Weights are an input: as a constant they would be packed once, at the price of a session for
    each matrix, and measured no faster. Threads that spin after a product would slow down numpy's.
    """
    import onnxruntime
    from onnx import TensorProto, helper

    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMulInteger", ["activation", "weights", "zero"], ["product"])],
            "int8_product",
            [
                helper.make_tensor_value_info("activation", TensorProto.UINT8, ["n", "k"]),
                helper.make_tensor_value_info("weights", TensorProto.INT8, ["k", "columns"]),
            ],
            [helper.make_tensor_value_info("product", TensorProto.INT32, ["n", "columns"])],
            [helper.make_tensor("zero", TensorProto.UINT8, [], [128])],
        ),
        opset_imports=[helper.make_opsetid("", 10)],
        ir_version=8,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def product(activation: NDArray[np.uint8], weights: NDArray[np.int8]) -> NDArray[np.int32]:
        result: NDArray[np.int32]
        (result,) = session.run(None, {"activation": activation, "weights": weights})
        return result

    return product
