"""Clockstep as an ONNX backend: the interface that onnx's own test suite drives.

A model with symbolic dimensions is compiled when the first inputs say what they are. If the
compiler refuses a model whose shapes, axes, indices or scales are inputs (`parameters_of`), these
take the values of the run as constants; other values later mean another compilation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, numpy_helper
from onnx.backend.base import Backend, BackendRep, namedtupledict

from clockstep import api
from clockstep_compiler import parameters_of
from clockstep_isa import UnsupportedModel, UsageError
from clockstep_runtime import Session

__all__ = ["ClockstepBackend", "ClockstepRep"]

Feed = Mapping[str, Any]
Shapes = tuple[tuple[str, tuple[int, ...]], ...]
Values = tuple[tuple[str, bytes], ...]


class ClockstepRep(BackendRep):
    """A model ready to run; one session for each combination of shapes and parameters met."""

    def __init__(self, model: ModelProto, options: Mapping[str, Any]) -> None:
        constants = {tensor.name for tensor in model.graph.initializer}
        inputs = [i for i in model.graph.input if i.name not in constants]
        self._model, self._options = model, dict(options)
        self._names = [i.name for i in inputs]
        self._tensors = {i.name for i in inputs if i.type.HasField("tensor_type")}
        self._outputs = [o.name for o in model.graph.output]
        self._bound: dict[Shapes, tuple[str, ...]] = {}
        self._sessions: dict[tuple[Shapes, Values], Session] = {}

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Outputs for `inputs`: a mapping by name, a sequence in graph order, or one array."""
        feed = self._feed(inputs)
        session = self._session(feed)
        outputs = session.run(
            {b.name: feed[b.name] for b in session.program.inputs if b.name in feed}
        )
        result: tuple[Any, ...] = namedtupledict("Outputs", self._outputs)(
            *(outputs[name] for name in self._outputs)
        )
        return result

    def _feed(self, inputs: Any) -> dict[str, Any]:
        if isinstance(inputs, np.ndarray):
            inputs = [inputs]
        if not isinstance(inputs, Mapping):
            values: Sequence[Any] = inputs
            if len(values) != len(self._names):
                raise UsageError(
                    "input-count", f"{len(values)} inputs given, the model has {len(self._names)}"
                )
            inputs = dict(zip(self._names, values, strict=True))
        given = [name for name in self._names if name in inputs]
        return {n: np.asarray(inputs[n]) if n in self._tensors else inputs[n] for n in given}

    def _session(self, feed: Feed) -> Session:
        shapes = tuple((name, feed[name].shape) for name in feed if name in self._tensors)
        if shapes not in self._bound:
            self._bound[shapes] = self._first(shapes, feed)
        key = (shapes, _values(feed, self._bound[shapes]))
        if key not in self._sessions:
            self._sessions[key] = self._compiled(shapes, feed, self._bound[shapes])
        return self._sessions[key]

    def _first(self, shapes: Shapes, feed: Feed) -> tuple[str, ...]:
        """Compile with inputs of these shapes; returns the names of those that became constants."""
        try:
            self._sessions[shapes, ()] = self._compiled(shapes, feed, ())
            return ()
        except UnsupportedModel:
            names = tuple(name for name in parameters_of(self._model) if name in feed)
            if not names:
                raise
        self._sessions[shapes, _values(feed, names)] = self._compiled(shapes, feed, names)
        return names

    def _compiled(self, shapes: Shapes, feed: Feed, bound: tuple[str, ...]) -> Session:
        model = _bind(self._model, {name: feed[name] for name in bound}) if bound else self._model
        free = {name: shape for name, shape in shapes if name not in bound}
        return Session(api.compile(model, shape=free, **self._options))


def _values(feed: Feed, names: tuple[str, ...]) -> Values:
    return tuple((name, feed[name].tobytes()) for name in names)


def _bind(model: ModelProto, values: Feed) -> ModelProto:
    """The model with some inputs as constants."""
    result = ModelProto()
    result.CopyFrom(model)
    for value in [value for value in result.graph.input if value.name in values]:
        result.graph.input.remove(value)
    for name in sorted(values):
        result.graph.initializer.append(numpy_helper.from_array(values[name], name))
    return result


class ClockstepBackend(Backend):
    """`prepare` and `run_model` of ONNX's backend interface, on the host's engine."""

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether every operator of the model is supported."""
        return cls.supports_device(device) and api.check(model, **kwargs).supported

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> ClockstepRep:
        """Keep a model for running; keywords are those of `clockstep.compile`."""
        super().prepare(model, device, **kwargs)
        if not cls.supports_device(device):
            raise UsageError("device", f"no device {device!r}", help="use CPU")
        return ClockstepRep(model, kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Only the host: programs are executed, cycle by cycle, on the CPU."""
        return device == "CPU"
