"""Tables: frozen dataclasses whose fields are arrays of one length."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Table"]


class Table:
    """What tables share. A subclass is a dataclass of arrays, and of nothing else."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))  # type: ignore[arg-type]

    def take(self, index: NDArray[Any]) -> Self:
        """The rows at `index` (a mask or positions)."""
        return type(self)(*(column[index] for column in self._columns()))

    @classmethod
    def stacked(cls, tables: list[Self]) -> Self:
        """All rows of several tables; empties the list, so that nothing is held twice."""
        columns = [
            np.concatenate(parts)
            for parts in zip(*(table._columns() for table in tables), strict=True)
        ]
        tables.clear()
        return cls(*columns)

    def _columns(self) -> list[NDArray[Any]]:
        return [getattr(self, item.name) for item in fields(self)]  # type: ignore[arg-type]
