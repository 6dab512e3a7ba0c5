"""Compare a run with onnxruntime on the same inputs.

A float element matches if `|ours - reference| <= atol + rtol * |reference|`; two NaN match, and so
do equal infinities. By default `rtol` is 5e-3 and `atol` 5e-3 of the largest finite magnitude of
the reference output: fp16 operands carry 11 bits, and a sum may cancel to less than its terms.
Integers and booleans match only exactly unless a tolerance is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa import MalformedFile, Program, UsageError

__all__ = ["Comparison", "compare", "run_cut", "run_reference"]

TOLERANCE = 5e-3

_FOLDER = "session.model_external_initializers_file_folder_path"
"""The setting that says where the external data of a model given as bytes lies."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far one output is from its reference.

    The maxima are over the elements finite in both; `max_rel` leaves out references of zero.
    `max_ulp` counts representable values of the output's own type between the two.
    """

    max_abs: float
    max_rel: float
    max_ulp: int
    mismatched: int
    total: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def worst(parts: Sequence[Comparison]) -> Comparison:
        """The maxima and the sums over several outputs."""
        return Comparison(
            max((p.max_abs for p in parts), default=0.0),
            max((p.max_rel for p in parts), default=0.0),
            max((p.max_ulp for p in parts), default=0),
            sum(p.mismatched for p in parts),
            sum(p.total for p in parts),
        )


def compare(
    ours: NDArray[Any], reference: NDArray[Any], rtol: float | None, atol: float | None, name: str
) -> Comparison:
    """Compare two arrays of one shape and dtype; raises `UsageError` if they are not that."""
    if ours.shape != reference.shape or ours.dtype != reference.dtype:
        raise UsageError(
            "compare-type",
            f"is {ours.dtype}{list(ours.shape)} here and {reference.dtype}{list(reference.shape)} "
            "in the reference",
            where=f"output {name!r}",
            help="is this the model that the program was compiled from?",
        )
    floating = "float" in ours.dtype.name
    a, r = ours.astype(np.float64), reference.astype(np.float64)
    both = np.isfinite(a) & np.isfinite(r)
    distance = np.abs(np.where(both, a, 0.0) - np.where(both, r, 0.0))
    size = np.abs(np.where(both, r, 0.0))
    rtol, atol = _tolerances(rtol, atol, size, floating)
    same = (ours == reference) | ((a != a) & (r != r))
    near = both & (distance <= atol + rtol * size) & (distance > 0)
    relative = distance[size > 0] / size[size > 0]
    return Comparison(
        float(distance.max(initial=0.0)),
        float(relative.max(initial=0.0)),
        int(_ulps(ours, reference)[both].max(initial=0)),
        int(np.count_nonzero(~(same | near))),
        ours.size,
    )


def _tolerances(
    rtol: float | None, atol: float | None, size: NDArray[np.float64], floating: bool
) -> tuple[float, float]:
    if not floating:
        return rtol or 0.0, atol or 0.0
    largest = float(size.max(initial=0.0))
    return (
        TOLERANCE if rtol is None else rtol,
        TOLERANCE * largest if atol is None else atol,
    )


def _ulps(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.uint64]:
    """Steps between two arrays in the order of their type's values."""
    x, y = _ranks(a), _ranks(b)
    return np.where(x > y, x - y, y - x)


def _ranks(values: NDArray[Any]) -> NDArray[np.uint64]:
    """A number for each value, one apart for neighbours; -0 and +0 share theirs."""
    half = np.uint64(2**63)
    if "float" not in values.dtype.name:
        if not values.dtype.name.startswith("int"):
            return values.astype(np.uint64)
        return values.astype(np.int64).astype(np.uint64) + half
    bits = 8 * values.dtype.itemsize
    raw = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").astype(np.uint64)
    sign = np.uint64(1 << (bits - 1))
    magnitude = raw & (sign - np.uint64(1))
    return np.where(raw & sign, half - magnitude, half + magnitude)


def run_reference(
    model: Path, program: Program, inputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """onnxruntime's outputs, by name; a leading batch of runs is run one by one and stacked.

    Raises `UsageError` if onnxruntime is not installed or refuses the model or the inputs.
    """
    session = _session(model)
    known = {item.name for item in session.get_inputs()}
    bound = _bound(session, program)
    wanted = [b for b in program.inputs if b.name in known]
    names = [item.name for item in session.get_outputs()]
    batched = [inputs[b.name].ndim > len(b.shape) for b in wanted]
    try:
        if not any(batched):
            return dict(
                zip(names, session.run(names, {**bound, **_feed(wanted, inputs)}), strict=True)
            )
        runs = [
            session.run(names, {**bound, **{b.name: inputs[b.name][i] for b in wanted}})
            for i in range(len(inputs[wanted[0].name]))
        ]
    except Exception as error:  # onnxruntime's exceptions have no common public base
        raise UsageError("compare-run", _first_line(error), where=model.name) from None
    return {name: np.stack([run[i] for run in runs]) for i, name in enumerate(names)}


def _bound(session: Any, program: Program) -> dict[str, NDArray[Any]]:
    """The inputs that were constant when the program was compiled."""
    values = program.info.get("options", {}).get("bind", {})
    found = {}
    for item in session.get_inputs():
        if item.name in values:
            shape, texts = values[item.name]
            kind = item.type.removeprefix("tensor(").removesuffix(")")
            numbers = [float(t) if set(t) & set(".en") else int(t) for t in texts]
            array = np.asarray(numbers, {"float": "float32", "double": "float64"}.get(kind, kind))
            found[item.name] = array.reshape(shape if len(texts) > 1 else [1] * len(item.shape))
    return found


def _feed(wanted: Sequence[Any], inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {b.name: inputs[b.name] for b in wanted}


def run_cut(
    model: Path, cut: bytes, inputs: Mapping[str, NDArray[Any]], names: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """The tensors `names` of a cut of `model`, each operator computed as ONNX defines it.

    `inputs` may have more than the cut reads. Raises as `run_reference`.
    """
    session = _session(model, cut)
    wanted = {item.name: inputs[item.name] for item in session.get_inputs()}
    try:
        return dict(zip(names, session.run(list(names), wanted), strict=True))
    except Exception as error:  # as above
        raise UsageError("compare-run", _first_line(error), where=model.name) from None


def _session(model: Path, cut: bytes | None = None) -> Any:
    """A session of the model as it is, or of a cut of it with nothing fused."""
    try:
        import onnxruntime
    except ImportError:
        raise UsageError(
            "compare-missing",
            "--compare needs onnxruntime, which is not installed",
            help="pip install 'clockstep[compare]'",
        ) from None
    if not model.is_file():
        raise UsageError("model-missing", "no such file", where=str(model))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if cut is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry(_FOLDER, str(model.parent))
    source = str(model) if cut is None else cut
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise MalformedFile("compare-model", _first_line(error), where=model.name) from None


def _first_line(error: Exception) -> str:
    return f"onnxruntime: {(str(error).splitlines() or [type(error).__name__])[0]}"
