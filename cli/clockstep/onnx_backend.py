"""Clockstep as an ONNX backend: the interface that onnx's own test suite drives.

A model with symbolic dimensions is compiled when the first inputs say what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto
from onnx.backend.base import Backend, BackendRep, namedtupledict

from clockstep import api
from clockstep_isa import UnsupportedModel, UsageError
from clockstep_runtime import Session

__all__ = ["ClockstepBackend", "ClockstepRep"]

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class ClockstepRep(BackendRep):
    """A model ready to run; one session for each combination of input shapes met."""

    def __init__(self, model: ModelProto, options: Mapping[str, Any]) -> None:
        constants = {tensor.name for tensor in model.graph.initializer}
        self._model, self._options = model, dict(options)
        self._names = [i.name for i in model.graph.input if i.name not in constants]
        self._outputs = [o.name for o in model.graph.output]
        self._sessions: dict[Shapes, Session] = {}

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Outputs for `inputs`: a mapping by name, a sequence in graph order, or one array."""
        feed = self._feed(inputs)
        outputs = self._session(feed).run(feed)
        result: tuple[Any, ...] = namedtupledict("Outputs", self._outputs)(
            *(outputs[name] for name in self._outputs)
        )
        return result

    def _feed(self, inputs: Any) -> dict[str, np.ndarray[Any, Any]]:
        if isinstance(inputs, np.ndarray):
            inputs = [inputs]
        if not isinstance(inputs, Mapping):
            values: Sequence[Any] = inputs
            if len(values) != len(self._names):
                raise UsageError(
                    "input-count", f"{len(values)} inputs given, the model has {len(self._names)}"
                )
            inputs = dict(zip(self._names, values, strict=True))
        return {name: np.asarray(value) for name, value in inputs.items()}

    def _session(self, feed: Mapping[str, np.ndarray[Any, Any]]) -> Session:
        shapes = tuple((name, value.shape) for name, value in feed.items())
        if shapes not in self._sessions:
            program = api.compile(self._model, shape=dict(shapes), **self._options)
            self._sessions[shapes] = Session(program)
        return self._sessions[shapes]


class ClockstepBackend(Backend):
    """`prepare` and `run_model` of ONNX's backend interface, on the host's reference engine."""

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether every operator of the model is supported."""
        return cls.supports_device(device) and api.check(model, **kwargs).supported

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> ClockstepRep:
        """Keep a model for running; keywords are those of `clockstep.compile`."""
        super().prepare(model, device, **kwargs)
        if not cls.supports_device(device):
            raise UnsupportedModel("device", f"no device {device!r}", help="use CPU")
        return ClockstepRep(model, kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Only the host: programs are executed, cycle by cycle, on the CPU."""
        return device == "CPU"
