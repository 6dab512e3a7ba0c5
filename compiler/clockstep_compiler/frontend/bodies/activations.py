"""The activation functions that LSTM, GRU and RNN name in an attribute.

To add one, add its row to `_FUNCTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from clockstep_compiler.frontend.body import Body, Refused
from clockstep_compiler.frontend.infer import Mismatch

__all__ = ["Activation", "activations"]

Activation = Callable[[str], str]
"""Takes the name of a value and gives that of the result."""

_Write = Callable[[Body, str, float, float], str]


@dataclass(frozen=True, slots=True)
class _Function:
    """How it is written, and the values of the parameters it has; None if it has no such one.

    Those of no ONNX operator have no defaults, and of ThresholdedRelu ONNX and onnxruntime have
    different ones: NaN says that the node must give the value.
    """

    write: _Write
    alpha: float | None = None
    beta: float | None = None


_NEEDED = float("nan")


def _plain(op: str) -> _Write:
    return lambda body, x, alpha, beta: body.op(op, x)


def _with_alpha(op: str) -> _Write:
    return lambda body, x, alpha, beta: body.op(op, x, alpha=alpha)


def _hard_sigmoid(body: Body, x: str, alpha: float, beta: float) -> str:
    return body.op("HardSigmoid", x, alpha=alpha, beta=beta)


def _affine(body: Body, x: str, alpha: float, beta: float) -> str:
    scaled = body.op("Mul", x, body.like(alpha, x))
    return body.op("Add", scaled, body.like(beta, x))


def _scaled_tanh(body: Body, x: str, alpha: float, beta: float) -> str:
    inner = body.op("Tanh", body.op("Mul", x, body.like(beta, x)))
    return body.op("Mul", inner, body.like(alpha, x))


_FUNCTIONS = {
    "affine": _Function(_affine, _NEEDED, _NEEDED),
    "elu": _Function(_with_alpha("Elu"), 1.0),
    "hardsigmoid": _Function(_hard_sigmoid, 0.2, 0.5),
    "leakyrelu": _Function(_with_alpha("LeakyRelu"), 0.01),
    "relu": _Function(_plain("Relu")),
    "scaledtanh": _Function(_scaled_tanh, _NEEDED, _NEEDED),
    "sigmoid": _Function(_plain("Sigmoid")),
    "softplus": _Function(_plain("Softplus")),
    "softsign": _Function(_plain("Softsign")),
    "tanh": _Function(_plain("Tanh")),
    "thresholdedrelu": _Function(_with_alpha("ThresholdedRelu"), _NEEDED),
}


def activations(body: Body, defaults: tuple[str, ...], directions: int) -> list[list[Activation]]:
    """The functions of each direction; values of alpha and beta go to those that have one.

    What a function of a gate, one of the first two, is applied to is clipped if the node says so.
    """
    names = body.attribute("activations") or [*defaults] * directions
    if len(names) != len(defaults) * directions:
        raise Mismatch(f"has {len(names)} activations, not {len(defaults) * directions}")
    alphas = iter(body.attribute("activation_alpha") or ())
    betas = iter(body.attribute("activation_beta") or ())
    clip, each = body.attribute("clip"), len(defaults)
    found = [
        _activation(body, name, alphas, betas, clip if k % each < 2 else None)
        for k, name in enumerate(names)
    ]
    return [found[i : i + each] for i in range(0, len(found), each)]


def _activation(
    body: Body, name: str, alphas: Iterator[float], betas: Iterator[float], clip: float | None
) -> Activation:
    row = _FUNCTIONS.get(name.lower())
    if row is None:
        raise Mismatch(f"there is no activation function {name!r}")
    alpha = _parameter(name, "activation_alpha", row.alpha, alphas)
    beta = _parameter(name, "activation_beta", row.beta, betas)

    def apply(x: str) -> str:
        if clip is not None:
            x = body.op("Clip", x, body.like(-clip, x), body.like(clip, x))
        return row.write(body, x, alpha, beta)

    return apply


def _parameter(name: str, attribute: str, default: float | None, given: Iterator[float]) -> float:
    if default is None:
        return 0.0
    value = next(given, default)
    if value != value:  # _NEEDED
        problem = f"the activation function {name} has no agreed default for {attribute}"
        raise Refused("unsupported-form", problem, f"give {attribute}")
    return value
