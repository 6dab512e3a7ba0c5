"""CumProd: every element multiplied by the one a step before, with steps of 1, 2, 4, ..."""

from __future__ import annotations

import numpy as np

from clockstep_compiler.frontend.body import Body, Refused, composes

__all__: list[str] = []


@composes("CumProd")
def _product(body: Body) -> None:
    """The products so far along an axis, with log n roundings; `exclusive`: without the element."""
    name, where = body.inputs(2)
    known = body.value(where)
    if known is None:
        raise Refused("operand-not-constant", "axis is computed", "make it an initializer")
    axis = int(known.reshape(-1)[0]) % len(body.shape(name))
    back = bool(body.attribute("reverse", 0))
    if body.attribute("exclusive", 0):
        name = _delayed(body, name, axis, 1, back)
    step = 1
    while step < body.shape(name)[axis]:
        name = body.op("Mul", name, _delayed(body, name, axis, step, back))
        step *= 2
    body.give(0, name)


def _delayed(body: Body, name: str, axis: int, step: int, back: bool) -> str:
    """Elements `step` further along an axis, ones in their place."""
    shape = body.shape(name)
    size = shape[axis]
    step = min(step, size)
    ones = body.cast(
        body.constant(np.ones([step if i == axis else n for i, n in enumerate(shape)]), np.float32),
        body.dtype(name),
    )
    if step == size:
        return ones
    kept = body.slice(name, axis, step if back else 0, size if back else size - step)
    return body.op("Concat", *((kept, ones) if back else (ones, kept)), axis=axis)
