# SPDX-License-Identifier: Apache-2.0
"""bpftrace scripts that print what ours records: a line a call, with its duration and its values.

A line: function, timestamp, duration, process, thread, comm, result, values.
"""

from __future__ import annotations

from tests.bench.probed import FUNCTIONS, TIMED, Function


def _spelt(function: Function, path: str, arguments: list[str]) -> str:
    """A path in bpftrace's words; ``arguments`` are its parameters' values."""
    name, _, rest = path.partition("->")
    number = [parameter for parameter, _ in function.parameters].index(name)
    struct, value = function.parameters[number][1], arguments[number]
    return f"((struct {struct} *){value})->{rest}" if rest else value


def _print(symbol: str, function: Function, arguments: list[str], began: str, result: str) -> str:
    values = [_spelt(function, path, arguments) for path in function.values]
    strings = [f"str({_spelt(function, path, arguments)})" for path in function.strings]
    if function.user:
        values.append(f"*(uint64 *)uptr({_spelt(function, function.user, arguments)})")
    if function.result:
        values.append(f"((struct dma_buf *){result})->{function.result}")
    form = " ".join(["%llx"] * len(values) + ["%s"] * len(strings))
    duration = f"nsecs - {began}" if began else "0"
    head = f'"{symbol} %llu %llu %d %d %s %lld {form}\\n", nsecs, {duration}, pid, tid, comm'
    return f"printf({', '.join([head, result, *values, *strings])});"


def _of_kprobe(symbol: str, function: Function) -> str:
    raw = [f"arg{number}" for number in range(len(function.parameters))]
    ours = _condition(function, raw)
    if symbol not in TIMED:
        return f"kprobe:{symbol} {ours} {{ {_print(symbol, function, raw, '', '0')} }}"
    kept = ", ".join(["nsecs", *raw])
    back = [f"$call.{number + 1}" for number in range(len(raw))]
    line = _print(symbol, function, back, "$call.0", "retval")
    return "\n".join(
        [
            f"kprobe:{symbol} {ours} {{ @{symbol}[tid] = ({kept}); }}",
            f"kretprobe:{symbol} /@{symbol}[tid].0/",
            f"{{ $call = @{symbol}[tid]; {line} delete(@{symbol}, tid); }}",
        ]
    )


def _of_fentry(symbol: str, function: Function) -> str:
    typed = [f"args.{name}" for name, _ in function.parameters]
    ours = _condition(function, typed)
    if symbol not in TIMED:
        return f"fentry:{symbol} {ours} {{ {_print(symbol, function, typed, '', '0')} }}"
    line = _print(symbol, function, typed, f"@{symbol}[tid]", "retval")
    return "\n".join(
        [
            f"fentry:{symbol} {ours} {{ @{symbol}[tid] = nsecs; }}",
            f"fexit:{symbol} /@{symbol}[tid]/ {{ {line} delete(@{symbol}, tid); }}",
        ]
    )


def _condition(function: Function, arguments: list[str]) -> str:
    if not function.file:
        return ""
    found = _spelt(function, f"{function.file}->f_op", arguments)
    return f'/(uint64){found} == kaddr("dma_buf_fops")/'


def bpftrace_script(kind: str) -> str:
    """The script for probes of ``kind``: kprobe or fentry."""
    made = {"kprobe": _of_kprobe, "fentry": _of_fentry}[kind]
    return "\n".join(made(symbol, function) for symbol, function in FUNCTIONS.items())
