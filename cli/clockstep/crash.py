"""What we leave behind when the bug is ours: a file from which it can be reproduced."""

from __future__ import annotations

import platform
import shlex
import tempfile
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

__all__ = ["write_reproducer"]

_PACKAGES = ("clockstep", "numpy", "onnx", "onnx-ir", "networkx", "lark", "safetensors", "typer")


def write_reproducer(arguments: Sequence[str], error: BaseException) -> Path | None:
    """Write command line, versions and traceback beside the output, or in the folder for
    temporary files if that cannot be written; None if neither can."""
    output = _output_of(arguments)
    path = output.with_name(f"{output.name}.crash.txt") if output else Path("clockstep.crash.txt")
    versions = [f"python {platform.python_version()} on {platform.platform()}"]
    versions += [f"{name} {_version(name)}" for name in _PACKAGES]
    trace = "".join(traceback.format_exception(error))
    text = "\n".join([f"$ clockstep {shlex.join(arguments)}", "", *versions, "", trace])
    for candidate in (path, Path(tempfile.gettempdir()) / path.name):
        try:
            candidate.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        return candidate
    return None


def _output_of(arguments: Sequence[str]) -> Path | None:
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if flag in ("-o", "--output"):
            return Path(value)
        if flag.startswith("--output="):
            return Path(flag.partition("=")[2])
    return None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
