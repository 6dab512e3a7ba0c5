"""How the rows of an image lie side by side: some of a line, or patches of several lines.

A patch has its channels apart, each with all pixels of the patch, so that tiles of lanes hold whole
channels. Patches may begin before the image: a 3x3 window over two pixels that begin one after a
patch does touches two patches each way, not three.

To add an arrangement, give it a class with the methods of `Patches`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "NOBODY",
    "Fold",
    "Patches",
    "beyond_of",
    "count_of",
    "pixels_of",
    "place",
    "side_by_side",
]

Ints = NDArray[np.int64]

NOBODY = -2
"""In the place of a pixel: there is none, and whatever stands there is not read."""


@dataclass(frozen=True, slots=True)
class Patches:
    """Images of `height` x `width` pixels in patches of `high` x `wide`, row by row.

    The first patch begins `up` lines above the image and `left` pixels before it. What is `beyond`
    the image in a patch is that number, if one is given.
    """

    images: int
    height: int
    width: int
    high: int
    wide: int
    up: int = 0
    left: int = 0
    beyond: int | None = None

    @property
    def count(self) -> int:
        """Pixels of a patch."""
        return self.high * self.wide

    @property
    def lines(self) -> int:
        """Patches one above the other."""
        return -(-(self.height + self.up) // self.high)

    @property
    def across(self) -> int:
        """Patches side by side."""
        return -(-(self.width + self.left) // self.wide)

    @property
    def rows(self) -> int:
        return self.images * self.lines * self.across

    def place(self, index: Ints) -> tuple[Ints, Ints]:
        """The row of every pixel, and which one of its patch it is."""
        image, pixel = np.divmod(index, self.height * self.width)
        y, x = np.divmod(pixel, self.width)
        line, low = np.divmod(y + self.up, self.high)
        column, near = np.divmod(x + self.left, self.wide)
        row = (image * self.lines + line) * self.across + column
        return row, low * self.wide + near

    def pixels(self) -> Ints:
        """The pixels of every row, `NOBODY` beyond the image: [rows, count]."""
        found = np.full((self.rows, self.count), NOBODY, np.int64)
        every = np.arange(self.images * self.height * self.width)
        found[self.place(every)] = every
        return found


Fold = int | Patches
"""So many neighbours of a line in a row, one after the other with all channels, or patches."""


def count_of(fold: Fold) -> int:
    """Pixels of a row."""
    return fold if isinstance(fold, int) else fold.count


def place(fold: Fold, index: Ints) -> tuple[Ints, Ints]:
    """The row of every pixel, and which one of its row it is; what is less than 0 stays so."""
    row, slot = fold.place(index) if isinstance(fold, Patches) else (index // fold, index % fold)
    return np.where(index < 0, index, row), np.where(index < 0, -1, slot)


def pixels_of(fold: Fold, rows: int) -> Ints:
    """The pixels of every row, of `rows` in all: [rows, count]."""
    return fold.pixels() if isinstance(fold, Patches) else np.arange(rows).reshape(-1, fold)


def beyond_of(fold: Fold) -> int | None:
    """What stands beyond the image, if that is known."""
    return fold.beyond if isinstance(fold, Patches) else None


def side_by_side(fold: Fold, channels: NDArray[np.generic]) -> NDArray[np.generic]:
    """What all pixels have alike [any, channels], as often as there are pixels in a row."""
    if isinstance(fold, Patches):
        return np.repeat(channels, fold.count, axis=-1)
    return np.tile(channels, (1, fold))
