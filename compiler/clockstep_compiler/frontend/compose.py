"""A move of a move becomes one move, and a move that changes nothing disappears."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from clockstep_compiler.frontend.inline import rename
from clockstep_compiler.frontend.order import live
from clockstep_compiler.frontend.settle import Moved, through
from clockstep_compiler.frontend.structure import edges
from clockstep_compiler.frontend.walk import Walk
from clockstep_compiler.graph import Tensor

__all__ = ["compose"]


def compose(walk: Walk, outputs: Sequence[str]) -> None:
    """Compose the moves among the steps of `walk` that `outputs` need; the others are dropped.

    A move that others use as well is composed with each of them if doing it again costs nothing.
    """
    steps, links = walk.steps, [edges(step.node) for step in walk.steps]
    wanted = [walk.resolve(name) for name in outputs]
    needed = sorted(live(links, range(len(links)), wanted))
    uses = Counter(wanted)
    for i in needed:
        uses.update(tuple(dict.fromkeys(links[i].inputs)))
    made: dict[str, Moved] = {}
    walk.steps = []
    for step in (steps[i] for i in needed):
        names = {name: walk.resolve(name) for name in step.node.input}
        step = replace(step, node=rename(step.node, names, {}))
        if step.move is None:
            walk.steps.append(step)
            continue
        name = step.node.output[0]
        outer = Moved(walk.types[name], tuple(step.node.input), step.move)
        inner = _worthwhile(outer, made, uses, walk.types)
        moved = outer
        if inner or len(outer.inputs) > 1 or outer.inputs[0] in walk.constants:
            moved = through(outer, inner, walk.types, walk.constants) or outer
        if walk.add_move(step, moved):
            made[name] = replace(moved, move=walk.steps[-1].move or moved.move)


def _worthwhile(
    outer: Moved, made: Mapping[str, Moved], uses: Counter[str], types: Mapping[str, Tensor]
) -> dict[str, Moved]:
    inner = {name: made[name] for name in outer.inputs if name in made}
    return {n: moved for n, moved in inner.items() if uses[n] == 1 or _is_cheap(moved, types)}


def _is_cheap(moved: Moved, types: Mapping[str, Tensor]) -> bool:
    """Whether the move costs nothing: all in order (a reshape), or whole rows of its input."""
    index = moved.move.index
    if len(moved.inputs) != 1 or index.ndim == 0 or (index < 0).any():
        return False
    source = types[moved.inputs[0]].shape
    if (np.diff(index.reshape(-1)) == 1).all():
        return True
    rows = source[-1:] == index.shape[-1:] and (index[..., 0] % source[-1] == 0).all()
    return bool(rows and (np.diff(index, axis=-1) == 1).all())
