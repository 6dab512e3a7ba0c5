"""Static quantization after training, by onnxruntime's quantizer: the verb quantize.

The model comes out in QDQ form: int8 weights, activations scaled to the ranges they have on the
calibration data. To offer one more choice of onnxruntime's, add a keyword here and a flag below.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from clockstep import flags
from clockstep.arrays import read_npz
from clockstep.output import facts_text, finish, number, working
from clockstep_compiler.frontend import parse
from clockstep_isa import MalformedFile, UsageError
from clockstep_isa.tensor_file import write_atomically

__all__ = ["quantize", "quantize_"]

Sample = dict[str, NDArray[Any]]
Input = tuple[str, tuple[Any, ...]]
"""An element type by numpy's name, and a shape with names for open dimensions."""

_METHODS = ("minmax", "entropy", "percentile")
_TYPES = ("int8", "uint8")


def quantize(
    model: str | os.PathLike[str],
    calibration: str | os.PathLike[str] | Mapping[str, NDArray[Any]],
    *,
    per_channel: bool = False,
    activations: str = "int8",
    method: str = "minmax",
) -> bytes:
    """An ONNX model quantized to int8, as the bytes of a file.

    `calibration` has an array for each input of the model, or is the .npz file of them: samples
    along a new first axis, or along the model's own first axis, as many as it has in each. What
    else it has, such as labels, is not read. Weights have a scale for each channel if
    `per_channel`, `activations` are "int8" or "uint8", and `method` says how their ranges follow
    from the data: "minmax", "entropy" or "percentile".

    Raises `UsageError` for data that does not suit the model, a model that onnxruntime refuses, or
    if onnxruntime is not installed; `MalformedFile` for files that are not what they should be.
    """
    _one_of("activations", activations, _TYPES)
    _one_of("method", method, _METHODS)
    path = Path(model)
    parse(path)
    ort = _onnxruntime()
    given = calibration if isinstance(calibration, Mapping) else read_npz(Path(calibration))
    samples = _samples(_inputs(ort, path), given)
    return _quantized(path, samples, per_channel, activations, method)


def quantize_(
    model: flags.Model,
    calibration: Annotated[
        Path, typer.Option("--calibration", metavar="DATA.npz", help="Samples of every input.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.onnx")],
    per_channel: Annotated[
        bool, typer.Option("--per-channel", help="A scale for each channel of the weights.")
    ] = False,
    activations: Annotated[
        str, typer.Option("--activations", metavar="int8|uint8", help="Their element type.")
    ] = _TYPES[0],
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="minmax|entropy|percentile",
            help="How the ranges of activations follow from the data.",
        ),
    ] = _METHODS[0],
    json: flags.Json = False,
) -> None:
    """Quantize a model to int8 with calibration data."""
    with working(f"quantizing {model.name}"):
        made = quantize(
            model,
            calibration,
            per_channel=per_channel,
            activations=activations,
            method=method,
        )
    write_atomically(output, [made])
    nodes = parse(made)[0].graph.node
    rounded = sum(node.op_type == "QuantizeLinear" for node in nodes)
    digest = hashlib.sha256(made).hexdigest()
    before = model.stat().st_size
    data = {"model": str(output), "sha256": digest, "bytes": len(made), "bytes_before": before}
    text = facts_text(
        {
            "model": str(output),
            "bytes": f"{number(len(made))}, {number(before)} before",
            "quantized": f"{number(rounded)} tensors while it runs, and the weights",
        }
    )
    finish({**data, "quantize_nodes": rounded}, text, as_json=json)


# -- what onnxruntime is given ---------------------------------------------------------------------


def _samples(inputs: Mapping[str, Input], given: Mapping[str, Any]) -> list[Sample]:
    """One dictionary of inputs for each sample."""
    for name in inputs:
        if name not in given:
            remedy = f"the data has {', '.join(given) or 'nothing'}"
            raise UsageError(
                "calibration-input", "has no data", where=f"input {name!r}", help=remedy
            )
    cut = {
        name: _pieces(name, _typed(name, np.asarray(given[name]), kind), shape)
        for name, (kind, shape) in inputs.items()
    }
    counts = {name: len(pieces) for name, pieces in cut.items()}
    if len(frozenset(counts.values())) != 1 or not all(counts.values()):
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UsageError("calibration-count", f"samples of each input: {told}")
    count = next(iter(counts.values()))
    return [{name: pieces[i] for name, pieces in cut.items()} for i in range(count)]


def _typed(name: str, array: NDArray[Any], kind: str) -> NDArray[Any]:
    if not np.can_cast(array.dtype, kind, "same_kind"):
        problem = f"the data is {array.dtype}, the model takes {kind}"
        raise UsageError("calibration-type", problem, where=f"input {name!r}")
    return array.astype(kind)


def _pieces(name: str, array: NDArray[Any], shape: tuple[Any, ...]) -> list[NDArray[Any]]:
    """The samples in an array; `shape` is the model's."""
    if array.ndim == len(shape) + 1:
        pieces = list(array)
    elif array.ndim == len(shape) and array.ndim:
        size = shape[0] if isinstance(shape[0], int) else 1
        whole = size > 0 and len(array) % size == 0
        pieces = [array[i : i + size] for i in range(0, len(array), size)] if whole else []
    else:
        pieces = [array] if array.ndim == len(shape) else []
    fits = pieces and all(
        want == have
        for want, have in zip(shape, pieces[0].shape, strict=True)
        if isinstance(want, int)
    )
    if not fits:
        wanted = ", ".join(map(str, shape))
        problem = f"the data is {list(array.shape)}, the model takes [{wanted}]"
        raise UsageError("calibration-shape", problem, where=f"input {name!r}")
    return pieces


def _inputs(ort: Any, path: Path) -> dict[str, Input]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common public base
        raise MalformedFile("quantize-model", _first_line(error), where=path.name) from None
    named = {"float": "float32", "double": "float64"}
    kinds = [i.type.removeprefix("tensor(").removesuffix(")") for i in session.get_inputs()]
    return {
        item.name: (named.get(kind, kind), tuple(item.shape))
        for item, kind in zip(session.get_inputs(), kinds, strict=True)
    }


class _Reader:
    """Samples one after another, then None: what onnxruntime calls a CalibrationDataReader."""

    def __init__(self, samples: list[Sample]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> Sample | None:
        return next(self._samples, None)


def _quantized(
    path: Path, samples: list[Sample], per_channel: bool, activations: str, method: str
) -> bytes:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    kinds = {"int8": quantization.QuantType.QInt8, "uint8": quantization.QuantType.QUInt8}
    methods = quantization.CalibrationMethod
    chosen = dict(zip(_METHODS, (methods.MinMax, methods.Entropy, methods.Percentile), strict=True))
    with tempfile.TemporaryDirectory() as folder, _quiet():
        ready, made = Path(folder) / "ready.onnx", Path(folder) / "made.onnx"
        try:
            quant_pre_process(path, ready, skip_symbolic_shape=True)
            quantization.quantize_static(
                ready,
                made,
                _Reader(samples),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=per_channel,
                activation_type=kinds[activations],
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=chosen[method],
            )
        except Exception as error:  # as above
            raise UsageError("quantize", _first_line(error), where=path.name) from None
        return made.read_bytes()


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise UsageError(
            "quantize-missing",
            "quantizing needs onnxruntime, which is not installed",
            help="pip install 'clockstep[compare]'",
        ) from None
    return onnxruntime


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer's advice, which it logs and prints, is not for our users."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        logging.disable(before)


def _first_line(error: Exception) -> str:
    return f"onnxruntime: {(str(error).splitlines() or [type(error).__name__])[0]}"


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"option-{name}", f"{name} {value!r} is not one of {', '.join(known)}")
