"""One step of an optimizer, element by element: Adagrad, Adam, Momentum.

The learning rate and the count of updates come first; then all tensors, all gradients, and so on.
Results come in the same order: all new tensors, then the new averages.
"""

from __future__ import annotations

from collections.abc import Sequence

from clockstep_compiler.frontend.body import Body, Refused, composes
from clockstep_compiler.frontend.infer import Mismatch

__all__: list[str] = []


def _groups(body: Body, each: int) -> list[list[str]]:
    """What belongs to one tensor: itself, its gradient, its averages."""
    given = list(body.step.node.input)[2:]
    if not given or len(given) % each:
        raise Mismatch(f"{len(given)} operands are not {each} for every tensor")
    count = len(given) // each
    return [given[i::count] for i in range(count)]


def _give(body: Body, results: Sequence[tuple[str, ...]]) -> None:
    ordered = [name for same in zip(*results, strict=True) for name in same]
    for index, name in enumerate(ordered):
        body.give(index, name)


def _times(body: Body, factor: float, name: str) -> str:
    return name if factor == 1.0 else body.op("Mul", name, body.like(factor, name))


def _plus(body: Body, name: str, number: float) -> str:
    return name if number == 0.0 else body.op("Add", name, body.like(number, name))


def _number(body: Body, name: str, default: float = 0.0) -> float:
    return float(body.attribute(name, default))


def _regularized(body: Body, x: str, g: str) -> str:
    """The gradient plus that of the tensor's own length."""
    norm = _number(body, "norm_coefficient")
    return body.op("Add", _times(body, norm, x), g) if norm else g


def _mixed(body: Body, kept: float, old: str, new: str) -> str:
    """kept * old + (1 - kept) * new."""
    return body.op("Add", _times(body, kept, old), _times(body, 1.0 - kept, new))


@composes("ai.onnx.preview.training.Adagrad")
def _adagrad(body: Body) -> None:
    rate, count = body.inputs(2)
    decay, epsilon = _number(body, "decay_factor"), _number(body, "epsilon")
    if decay:
        scaled = _times(body, decay, body.cast(count, body.dtype(rate)))
        rate = body.op("Div", rate, _plus(body, scaled, 1.0))
    results = []
    for x, g, h in _groups(body, 3):
        gradient = _regularized(body, x, g)
        sums = body.op("Add", h, body.op("Mul", gradient, gradient))
        step = body.op("Div", gradient, _plus(body, body.op("Sqrt", sums), epsilon))
        results.append((body.op("Sub", x, body.op("Mul", rate, step)), sums))
    _give(body, results)


@composes("ai.onnx.preview.training.Adam")
def _adam(body: Body) -> None:
    rate, count = body.inputs(2)
    alpha, beta = _number(body, "alpha", 0.9), _number(body, "beta", 0.999)
    rate = _corrected(body, rate, count, (alpha, beta))
    results = []
    for x, g, v, h in _groups(body, 4):
        gradient = _regularized(body, x, g)
        means = _mixed(body, alpha, v, gradient)
        squares = _mixed(body, beta, h, body.op("Mul", gradient, gradient))
        root = _plus(body, body.op("Sqrt", squares), _number(body, "epsilon"))
        new = body.op("Sub", x, body.op("Mul", rate, body.op("Div", means, root)))
        post = _number(body, "norm_coefficient_post")
        results.append((_times(body, 1.0 - post, new), means, squares))
    _give(body, results)


def _corrected(body: Body, rate: str, count: str, factors: tuple[float, float]) -> str:
    """The rate, from the first update on times sqrt(1 - beta**T) / (1 - alpha**T)."""
    times = body.cast(count, body.dtype(rate))
    one = body.like(1.0, rate)
    powers = (body.op("Pow", body.like(factor, rate), times) for factor in factors)
    alpha, beta = (body.op("Sub", one, power) for power in powers)
    correction = body.op("Div", body.op("Sqrt", beta), alpha)
    begun = body.op("Greater", count, body.constant(0, body.dtype(count)))
    return body.op("Where", begun, body.op("Mul", rate, correction), rate)


@composes("ai.onnx.preview.training.Momentum")
def _momentum(body: Body) -> None:
    rate, count = body.inputs(2)
    mode, alpha = body.attribute("mode", "standard"), _number(body, "alpha")
    if mode not in ("standard", "nesterov"):
        raise Refused("unsupported-form", f"mode {mode!r} is neither standard nor nesterov")
    begun = body.op("Greater", count, body.constant(0, body.dtype(count)))
    beta = body.like(_number(body, "beta"), rate)
    weight = body.op("Where", begun, beta, body.like(1.0, rate))
    results = []
    for x, g, v in _groups(body, 3):
        gradient = _regularized(body, x, g)
        moved = body.op("Add", _times(body, alpha, v), body.op("Mul", weight, gradient))
        step = moved
        if mode == "nesterov":
            step = body.op("Add", gradient, _times(body, alpha, moved))
        results.append((body.op("Sub", x, body.op("Mul", rate, step)), moved))
    _give(body, results)
