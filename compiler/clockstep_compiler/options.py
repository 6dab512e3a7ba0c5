"""What a caller may ask of a compilation; every field is a flag of `clockstep compile`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["EFFORTS", "OBJECTIVES", "PRECISIONS", "Options"]

PRECISIONS = ("auto", "int8", "fp16", "exact")
EFFORTS = ("fast", "standard", "high")
OBJECTIVES = ("latency", "throughput")


@dataclass(frozen=True, slots=True)
class Options:
    """`chips` None means the fewest that hold the model; `dims` binds symbolic dimensions by name,
    `shapes` those of whole inputs, and `bind` makes inputs constant; `weights` False leaves the
    SRAM image out of the program. `states` pairs inputs with the outputs that the next run finds
    in their place; None: pairs found by their names.

    `precision` "auto" multiplies what is quantized in int8 and the rest in fp16, "fp16" treats
    dequantized operands as floats too, "int8" refuses products of floats. Products that ONNX
    defines on integers (MatMulInteger, QLinearMatMul) are exact under all of them.

    `objective` is what a given number of chips is for: under "latency" they share operators where
    that makes one run shorter, and are left empty where it does not; under "throughput" each takes
    its part of the model, in order, or whole copies of the model take runs in turn: `copies` of
    them, each on as many of the chips; None: as many as there is room for.
    """

    chips: int | None = None
    dims: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    bind: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    states: Mapping[str, str] | None = None
    precision: str = "auto"
    weights: bool = True
    effort: str = "standard"
    objective: str = "latency"
    copies: int | None = None
