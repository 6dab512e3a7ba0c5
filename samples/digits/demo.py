"""Compile the digits classifier, run the held-out test set, and show what came out.

`make demo` runs this. It ends with an error if a promise is broken: a cycle that was not
predicted, an accuracy away from onnxruntime's, or an answer that depends on the number of chips.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import clockstep
from clockstep.output import table_text
from clockstep.report import SECTIONS
from clockstep_isa import BY_NAME, listing_lines

HERE = Path(__file__).parent
MODELS = ("digits.onnx", "digits.int8.onnx")
BATCH = 45  # images of one run; 8 runs make the test set
CLOSE = 0.3  # points of accuracy that fp16 and int8 may cost


@dataclass(frozen=True, slots=True)
class Result:
    """One program run over the whole test set."""

    program: clockstep.Program
    scores: NDArray[np.float32]  # [360, 10]


def main() -> int:
    data = np.load(HERE / "digits_test.npz")
    images, labels = data["x"], data["y"]
    broken = []
    for model in MODELS:
        title(f"{model} on lpu-v1")
        big = run(model, "lpu-v1", images)
        show_listing(big.program)
        show_section(big.program, "layers")
        broken += judge(model, big, images, labels)

        title(f"{model} on chips too small to hold it")
        small = run(model, str(HERE / "small.toml"), images)
        show_section(small.program, "chips")
        broken += judge_small(big, small)
    title("verdict")
    print("\n".join(broken) or "every promise held")
    return 1 if broken else 0


def run(model: str, machine: str, images: NDArray[np.float32]) -> Result:
    """Compile and execute; the program runs once for every `BATCH` images."""
    program = clockstep.compile(HERE / model, machine=machine, dim={"N": BATCH})
    runs = images.reshape(-1, BATCH, images.shape[1])
    execution = clockstep.Session(program).execute({"x": runs})
    print(
        f"{program.chips} chip(s); a batch of {BATCH}: predicted {program.cycles:,} cycles, "
        f"executed {execution.cycles:,}, {program.seconds * 1e6:.2f} us"
    )
    if execution.cycles != program.cycles:
        raise SystemExit("executed and predicted cycles differ")
    return Result(program, execution.outputs["scores"].reshape(len(images), -1))


def show_listing(program: clockstep.Program, lines: int = 16) -> None:
    """The first instructions from where the first weights are installed."""
    install = program.code.opcode == BY_NAME["iw"].opcode
    start = int(program.code.cycle[install].min())
    excerpt = listing_lines(program, cycles=(start, program.cycles), data=False)
    print("\n" + "\n".join(itertools.islice(excerpt, lines)) + "\n...")


def show_section(program: clockstep.Program, name: str) -> None:
    """A section of `clockstep inspect`, without the nodes that cost nothing."""
    section = SECTIONS[name]
    rows = [row for row in section.rows(program) if row.get("cycles", 1)]
    print("\n" + table_text(rows, section.columns) + "\n")


def judge(
    model: str, result: Result, images: NDArray[np.float32], labels: NDArray[np.int64]
) -> list[str]:
    """Accuracy beside onnxruntime's, and what is wrong with it."""
    session = onnxruntime.InferenceSession(HERE / model, providers=["CPUExecutionProvider"])
    reference = session.run(None, {"x": images})[0]
    ours, theirs = (
        100 * float(np.mean(scores.argmax(1) == labels)) for scores in (result.scores, reference)
    )
    print(f"accuracy {ours:.2f}%, onnxruntime's {theirs:.2f}%, {len(labels)} images")
    return [f"{model}: accuracy away from onnxruntime's"] if abs(ours - theirs) > CLOSE else []


def judge_small(big: Result, small: Result) -> list[str]:
    """The answers of the small chips beside those of the big one."""
    same = int(np.sum(big.scores.argmax(1) == small.scores.argmax(1)))
    bits = int(np.sum(big.scores.view(np.uint32) == small.scores.view(np.uint32)))
    print(
        f"same answer for {same} of {len(big.scores)} images; "
        f"{bits} of {big.scores.size} scores equal to the bit"
    )
    broken = [] if same == len(big.scores) else ["the answers depend on the number of chips"]
    return broken + (["the small machine holds the model in one chip"] * (small.program.chips == 1))


def title(text: str) -> None:
    print(f"\n== {text} ==")


if __name__ == "__main__":
    sys.exit(main())
