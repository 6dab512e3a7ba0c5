"""Coverage-guided fuzzing with atheris, in a process of its own: libFuzzer ends the process.

`python -m fuzz.coverage TARGET FOLDER [libFuzzer flags]`; `python -m fuzz bytes` calls it. What is
found lies in FOLDER as `crash-*`, `timeout-*` or `oom-*`; `python -m fuzz again FILE` repeats it.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["clockstep_isa", "clockstep_runtime"]):
    from fuzz.targets import TARGETS

__all__ = ["main"]


def main() -> None:
    """Fuzz one target until libFuzzer ends the process."""
    name, folder, *flags = sys.argv[1:]
    target = next(target for target in TARGETS if target.name == name)
    corpus = Path(folder) / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(target.seeds()):
        (corpus / f"seed-{index}").write_bytes(seed)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        def plain(part: bytes) -> bytes:
            return bytes(atheris.Mutate(part, max(len(part) + 64, 64)))

        return target.mutate(data, random.Random(seed), plain)[:most]

    arguments = [sys.argv[0], f"-artifact_prefix={folder}/{name}-", *flags, str(corpus)]
    atheris.Setup(arguments, target.run, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
