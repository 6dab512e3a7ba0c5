"""`python -m clockstep_isa [FILE]`: write the instruction set manual (to `isa/ISA.md`)."""

from __future__ import annotations

import sys
from pathlib import Path

from clockstep_isa.manual import manual


def main() -> None:
    """Write the manual and say where."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "ISA.md"
    path.write_text(manual(), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
