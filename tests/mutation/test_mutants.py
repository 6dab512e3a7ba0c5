"""A part of `make mutate`: every program, and every way to be wrong that the judge must notice."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clockstep_isa import BY_OPCODE, TABLE, Program, Type, load_program, schema
from clockstep_runtime import Execution, Report, Session, interpret, verify
from tests.mutation import judge as judging
from tests.mutation.__main__ import main
from tests.mutation.campaign import Key, judged, keys, mutant, subject
from tests.mutation.change import Draw, Mutant, explain
from tests.mutation.corpus import PROGRAMS, program
from tests.mutation.judge import PRECONDITIONS, Inputs, Judge, Verdict, observed
from tests.mutation.report import machines
from tests.mutation.structure import CHANGES
from tests.mutation.weaken import CODES, FIGURES, UNSEEN, catches, weakenings
from tests.support.handmade import matmul

PART = {"field": 26, "structural": 6, "chain": 1}
"""Mutants of each program, by family."""

ENOUGH = 4000
"""Mutants that give every wrong judge away, most of them within a hundred."""


@pytest.mark.parametrize("name", PROGRAMS)
def test_mutants(name: str) -> None:
    assert verdict_on_itself(name, Judge()).outcome == "harmless"
    wanted = [key for family, count in PART.items() for key in keys([name], family, 0, count)]
    results = [judged(key) for key in wanted]
    wrong = [r for r in results if r.verdict.outcome == "disagreement"]
    assert not wrong, "\n".join(f"{r.key} {r.what}: {r.verdict.detail}" for r in wrong)
    assert {code for r in results for code in r.verdict.codes} <= {*CODES, *PRECONDITIONS}
    assert any(r.verdict.outcome == "refused" for r in results)


def test_every_outcome_occurs() -> None:
    results = [judged(key) for key in keys(["hand-alu-i8"], "field", 0, 80)]
    assert {r.verdict.outcome for r in results} == {"refused", "equal", "harmless"}


def verdict_on_itself(name: str, judge: Judge) -> Verdict:
    return judge.judge(subject(name), Mutant(program(name), "nothing", same=True))


def test_the_corpus() -> None:
    made = {name: program(name) for name in PROGRAMS}
    assert len(made) * sum(PART.values()) >= 1500
    assert len(made) >= 20
    assert machines(made) >= 3
    assert any(p.chips > 2 for p in made.values())
    rows = {BY_OPCODE[opcode].name for p in made.values() for opcode in p.code.opcode.tolist()}
    assert rows == {row.name for row in TABLE if row.unit}, "every instruction is in some program"


@pytest.mark.parametrize("where", sorted({weakening.program for weakening in weakenings()}))
def test_whoever_is_wrong_is_caught(where: str) -> None:
    wrong = [weakening for weakening in weakenings() if weakening.program == where]
    assert not [name for name, catch in catches(wrong, 0, ENOUGH).items() if catch is None]


def test_every_figure_is_judged_or_named() -> None:
    assert set(schema()) == set(FIGURES) | UNSEEN
    assert not set(FIGURES) & UNSEEN


def late(program: Program, inputs: Inputs) -> Execution:
    ran = interpret(program, inputs)
    return dataclasses.replace(ran, cycles=ran.cycles + 1)


def wrong_lane(program: Program, inputs: Inputs) -> Execution:
    """Wrong in the last byte of what is observed in SRAM, and nowhere in the outputs."""
    ran = interpret(program, inputs)
    for name, value in ran.outputs.items():
        if name.startswith("\0"):
            value[-1, -1] ^= 1
    return ran


def silent(program: Program, inputs: Inputs) -> Execution:
    return dataclasses.replace(interpret(program, inputs), outputs={})


def broken(program: Program, inputs: Inputs) -> Execution:
    raise IndexError(f"{len(program.code)} {len(inputs)}")


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (late, "takes 24 cycles, the interpreter 23"),
        (wrong_lane, "computes other values of SRAM"),
        (silent, "computes other values of 'z'"),
        (broken, "raises IndexError('13 2')"),
    ],
)
def test_a_wrong_engine_is_a_disagreement(engine: judging.Engine, says: str) -> None:
    verdict = verdict_on_itself("hand-adder", Judge(engines={"wrong": engine}))
    assert (verdict.outcome, verdict.detail) == ("disagreement", f"wrong {says}")


def test_a_wrong_verifier_is_a_disagreement() -> None:
    def strict(program: Program) -> Report:
        return verify(dataclasses.replace(program, cycles=program.cycles - 1))

    def torn(program: Program) -> Report:
        return dataclasses.replace(verify(program), ok=False)

    for verifier, says in (
        (strict, "runs, but is refused: cycles-promise at c0.program in 23"),
        (torn, "the report contradicts itself"),
        (None, "the verifier raises"),
    ):
        verdict = verdict_on_itself("hand-adder", Judge(verify=verifier))  # type: ignore[arg-type]
        assert verdict.outcome == "disagreement"
        assert says in verdict.detail


def test_what_must_not_change_anything_is_held_to_it() -> None:
    of = subject("hand-int8")
    overlaid = CHANGES["overlay"](of.program, Draw(0))
    assert overlaid is not None
    assert Judge().judge(of, Mutant(overlaid, "overlay")).outcome == "equal"
    assert Judge().judge(of, Mutant(overlaid, "overlay", same=True)).outcome == "disagreement"


def test_all_of_sram_is_observed() -> None:
    builder, weights = matmul(Type.I8, 6)
    ran = Session(observed(builder.program())).run({"x": np.zeros((6, 16), np.int8)})
    sram = ran["\0sram"]
    # Sixteen words of weights, six of x, and six of four bytes each of y.
    assert sram.shape == (16 + 6 + 24, 16)
    assert np.abs(sram.astype(int)).sum() == np.abs(weights.astype(int)).sum()


def test_one_field_of_one_instruction_changes() -> None:
    original = program("qdq")
    for key in keys(["qdq"], "field", 5, 200):
        code, sorts = mutant(key).program.code, []
        for each in (original.code, code):
            table = (each.queue, each.cycle, each.opcode, each.repeat, each.interval, *each.args.T)
            sorts.append(Counter(zip(*(column.tolist() for column in table), strict=True)))
        gone, come = (list((a - b).elements()) for a, b in (sorts, sorts[::-1]))
        assert len(gone) == len(come) == 1
        differing = [i for i, (a, b) in enumerate(zip(gone[0], come[0], strict=True)) if a != b]
        # Another opcode may have fewer fields, whose columns are 0 then.
        assert len(differing) == 1 or differing[0] == 2


def test_the_same_mutants_in_any_process() -> None:
    key = Key("mlp", "structural", 3, 4)
    asked = "from tests.mutation.test_mutants import *; k = Key('mlp', 'structural', 3, 4);"
    shown = "print(mutant(k).what); print(explain(program('mlp'), mutant(k).program))"
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", asked + shown],
        cwd=root,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    made = mutant(key)
    assert ran.stdout == f"{made.what}\n{explain(program('mlp'), made.program)}\n"


def test_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = ["-n", "40", "--program", "hand-copies", "--processes", "1"]
    arguments += ["--keep", str(tmp_path)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "52 mutants, 0 disagreements" in printed
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(judging, "ENGINES", {"late": late})
    assert main(arguments) == 1
    printed = capsys.readouterr().out
    shown = [line for line in printed.splitlines() if line.startswith("again: ")]
    assert shown
    only = shown[0].split()[-1]
    saved = load_program(tmp_path / f"{only.replace(':', '-')}.lpu")
    name, family, seed, number = only.split(":")
    wanted = mutant(Key(name, family, int(seed), int(number))).program
    assert saved.cycles == wanted.cycles
    assert main(["--only", only]) == 1
    assert "takes" in capsys.readouterr().out
