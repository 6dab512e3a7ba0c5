"""Text forms of flag values."""

from __future__ import annotations

import pytest

from clockstep import UsageError
from clockstep.flags import parse_cycles, parse_dims, parse_pairs, parse_shapes


def test_dims() -> None:
    assert parse_dims(["N=45", "seq len=1"]) == {"N": 45, "seq len": 1}
    assert parse_dims(None) == {}


def test_a_name_may_hold_an_equals_sign() -> None:
    assert parse_pairs("--dim", ["a=b=3"]) == {"a=b": "3"}


def test_shapes() -> None:
    assert parse_shapes(["x=2,3", "scalar="]) == {"x": (2, 3), "scalar": ()}


@pytest.mark.parametrize("text", ["N", "=3", "N=", "N=x", "N=-1", "N=1.5", "N=²", "N=" + "9" * 30])
def test_bad_dims(text: str) -> None:
    with pytest.raises(UsageError):
        parse_dims([text])


def test_a_name_given_twice() -> None:
    with pytest.raises(UsageError, match="twice"):
        parse_dims(["N=1", "N=2"])


def test_cycles() -> None:
    assert parse_cycles("3:9") == (3, 9)
    assert parse_cycles(":9") == (None, 9)
    assert parse_cycles("7:") == (7, None)
    assert parse_cycles(None) is None
    with pytest.raises(UsageError):
        parse_cycles("7")
