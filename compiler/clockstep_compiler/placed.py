"""What stays in SRAM from one entry of a program to the next: weights, tables, constants, states.

Entries are scheduled one after the other. The first places what it wants; each further one finds
words by their content and states by their names, and places only what is not there. Words that an
entry has written are free for the next, but nothing that has to be there at the start goes there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.memory import ChipMemory
from clockstep_compiler.steps import Product, Put, Step, Value
from clockstep_compiler.uniform import different, in_order, is_uniform
from clockstep_isa.diagnostics import UsageError

if TYPE_CHECKING:
    from clockstep_compiler.partition import Group

__all__ = ["Dealt", "Form", "Held", "Key", "Placed", "Taken", "contents", "form_of"]

Key = tuple[object, ...]
"""Equal for what is alike and so in the same words."""

Plane = tuple[int, int]
"""A slice and the first of some words of it."""

Form = tuple[object, ...]
"""A matrix of a state: of which input it is, and how that lies in rows and columns."""

Pieces = tuple[tuple[int, ...], ...]
"""One copy of a block: a piece of a layout for every byte of its elements, in order."""

Part = tuple[int, int, int, NDArray[np.uint8]]
"""Words of the image: chip, slice, address, and what is in them."""


class Taken(NamedTuple):
    """A group of K tiles where it lies, and the numbers of the terms that these are of."""

    terms: tuple[int, ...]
    group: Group


Dealt = Mapping[int, Sequence[Taken]]
"""The groups of a product by tile of its columns."""


@dataclass(frozen=True, slots=True)
class Held:
    """Constant words on a chip: a slice and an address for every byte of their elements."""

    chip: int
    side: str
    planes: tuple[Plane, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Placed:
    """What the entries before have placed; nothing before the first.

    `chunk` are the rows of blocks, `instructions` the bytes of every chip that are theirs, `held`
    the words of every chip that were kept for these. Of weights alike there may be several
    `products`, in order; of constants alike several `blocks`. `states` are all copies of all blocks
    of every matrix.
    """

    chunk: int = 0
    memories: tuple[ChipMemory, ...] = ()
    image: tuple[Part, ...] = ()
    instructions: tuple[int, ...] = ()
    held: int = 0
    products: Mapping[Key, Sequence[Dealt]] = field(default_factory=dict)
    blocks: Mapping[Key, Sequence[Held]] = field(default_factory=dict)
    states: Mapping[Form, Sequence[Pieces]] = field(default_factory=dict)
    _known: dict[int, tuple[NDArray[np.generic], bytes]] = field(default_factory=dict)
    """Digests of arrays, which are kept so that none is taken for another."""

    def key(self, product: Product, chips: tuple[int, ...]) -> Key | None:
        """The key of the weights of a product, wanted on some chips; None if any is computed."""
        found: list[object] = [product.type, product.spread, product.columns, chips]
        for term in product.terms:
            data = term.weights.data
            if data is None:
                return None
            if id(data) not in self._known:
                self._known[id(data)] = data, _digest(data)
            found += [self._known[id(data)][1], bool(term.weights.which)]
        return tuple(found)

    def dealt(self, key: Key | None, number: int) -> Dealt | None:
        """The groups of a product whose weights have this key, `number` of which came before."""
        found = () if key is None else self.products.get(key, ())
        return found[min(number, len(found) - 1)] if found else None

    def found(self, key: Key, chip: int | None, avoid: frozenset[int], sides: str) -> Held | None:
        """Constant words alike on a chip, or on any: on one side, in no slice that is to avoid."""
        for block in self.blocks.get(key, ()):
            slices = {queue for queue, _ in block.planes}
            if chip in (None, block.chip) and block.side in sides and not slices & avoid:
                return block
        return None

    def check_states(self, values: Sequence[Value], steps: Sequence[Step]) -> None:
        """Raise `UsageError` unless an entry finds its states in the form that others leave."""
        if not self.memories:
            return
        own = {
            form_of(value): value for value in values if value.source and value.origin == "input"
        }
        known = {form[0] for form in self.states}
        for form, value in own.items():
            if value.source in known and form not in self.states:
                raise _apart(value.source, "reads it in another order or type")
        for form in self.states:
            if form not in own:
                raise _apart(str(form[0]), "does not read it as another does")
        for step in steps:
            if isinstance(step, Put) and form_of(step.past) in self.states:
                blocks = [pieces[0][1:5] for pieces in self.states[form_of(step.past)]]
                if len(set(blocks)) < len(blocks):
                    raise _apart(step.past.source, "writes one row, and there are several copies")


def _apart(state: str, why: str) -> UsageError:
    message = f"an entry {why}, so entries cannot share it"
    return UsageError("entry-state", message, where=f"state {state!r}", help="one file for each")


def form_of(value: Value) -> Form:
    """Equal for matrices of an input that lie alike."""
    windows = tuple(tuple(window) for window in value.windows)
    return (value.source, value.axes, value.rows, value.columns, value.type, windows)


def contents(planes: Sequence[NDArray[np.generic]], name: str, chunk: int, tile: int) -> Key:
    """The key of a block of constants, uint8 [rows, lanes] for every byte of their elements.

    What is absent is alike wherever it is, so it goes by its name.
    """
    own = (name, chunk, tile) if any(is_uniform(plane) for plane in planes) else ()
    return (*own, *(_digest(plane) for plane in planes))


def _digest(array: NDArray[np.generic]) -> bytes:
    """Equal for equal arrays alone; of one number in the place of many only that is read."""
    found = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    found.update(in_order(different(array)).reshape(-1).view(np.uint8).data)
    return found.digest()
