# SPDX-License-Identifier: Apache-2.0
"""Writes what is generated from the schema: ``python -m bpf.generate``, in the source tree."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dmabuf_trace import kinds, schema


def _struct(name: str, fields: tuple[schema.Field, ...], size: int) -> str:
    lines = [f"struct {name} {{"]
    for field in fields:
        base, _, length = field.type.partition("[")
        lines.append(f"\t{base} {field.name}{'[' + length if length else ''};\t/* {field.doc} */")
    lines += ["};", f'_Static_assert(sizeof(struct {name}) == {size}, "no padding in {name}");', ""]
    return "\n".join(lines)


SNAPSHOT_RECORDS: Final = {
    "Live buffers of a snapshot (`iter/dmabuf`)": schema.FOUND_FIELDS,
    "Holders of a snapshot (`iter/task_file`, `iter/task_vma`)": schema.HELD_FIELDS,
}

_STACKS: Final = {
    kinds.ALWAYS: "kernel stack by default, others on request",
    kinds.ASKED: "on request",
    "": "none",
}

_GENERATED = "GENERATED from dmabuf_trace/schema.py by python -m bpf.generate: do not edit."


def header() -> str:
    """Text of ``bpf/events.gen.h``."""
    parts = [
        "/* SPDX-License-Identifier: GPL-2.0 */",
        f"/* {_GENERATED} */",
        "#ifndef DMABUF_TRACE_EVENTS_GEN_H",
        "#define DMABUF_TRACE_EVENTS_GEN_H",
        "",
        _struct("event", schema.EVENT_FIELDS, schema.EVENT_DTYPE.itemsize),
        _struct("name", schema.NAME_FIELDS, schema.NAME_DTYPE.itemsize),
        _struct("config", schema.CONFIG_FIELDS, schema.CONFIG_DTYPE.itemsize),
        _struct("found", schema.FOUND_FIELDS, schema.FOUND_DTYPE.itemsize),
        _struct("sync_file_fd", schema.SYNC_FILE_FIELDS, schema.SYNC_FILE_DTYPE.itemsize),
        _struct("queued", schema.QUEUED_FIELDS, schema.QUEUED_DTYPE.itemsize),
        _struct("held", schema.HELD_FIELDS, schema.HELD_DTYPE.itemsize),
        "enum event_kind {",
        *(f"\tEV_{kind.name.upper()} = {kind.id},\t/* {kind.doc} */" for kind in schema.KINDS),
        "};",
        "",
        "enum operation {",
        *(
            f"\tOPERATION_{name.upper()} = {number},"
            for number, name in enumerate(kinds.OPERATIONS, 1)
        ),
        "};",
        "",
        "enum context {",
        *(
            f"\tCONTEXT_{name.upper().replace(' ', '_')} = {number},"
            for number, name in enumerate(schema.CONTEXTS)
        ),
        "};",
        "",
        "enum name_type {",
        *(f"\tNAME_{name.upper()} = {number}," for name, number in schema.NAME_TYPES.items()),
        "};",
        "",
        "enum loss_cause {",
        *(
            f"\tLOSS_{cause.name.upper()} = {cause.id},\t/* {cause.doc} */"
            for cause in schema.CAUSES
        ),
        "};",
        "",
        *(f"#define FILTER_{name.upper()} {bit}" for name, bit in schema.FILTERS.items()),
        f"#define KIND_SLOTS {schema.KIND_SLOTS}",
        f"#define CAUSE_SLOTS {schema.CAUSE_SLOTS}",
        f"#define STACK_DEPTH {schema.STACK_DEPTH}",
        *(
            f"#ifndef MAX_{name.upper()}\n#define MAX_{name.upper()} {size}\n#endif"
            for name, size in schema.MAP_ENTRIES.items()
        ),
        f"#define UNKNOWN_STACK ({schema.UNKNOWN_STACK})",
        f"#define ATTACH_DYNAMIC {schema.ATTACH_DYNAMIC}",
        f"#define ATTACH_PEER2PEER {schema.ATTACH_PEER2PEER}",
        f"#define ATTACH_P2P_ASKED {schema.ATTACH_P2P_ASKED}",
        f"#define ATTACH_P2P_NOT_ASKED {schema.ATTACH_P2P_NOT_ASKED}",
        f"#define SYNC_END {schema.SYNC_END}",
        f"#define MAP_CACHED {schema.MAP_CACHED}",
        f"#define MAP_ENTRIES_SHIFT {schema.MAP_ENTRIES_SHIFT}",
        f"#define MAX_ENTRIES {schema.MAX_ENTRIES:#x}",
        f"#define FD_DUP2 {schema.FD_DUP2}",
        f"#define FENCE_TIMED_OUT {schema.FENCE_TIMED_OUT}",
        "",
        "#endif",
        "",
    ]
    return "\n".join(parts)


def reference() -> str:
    """Text of ``bpf/EVENTS.md``."""
    lines = [
        f"<!-- {_GENERATED} -->",
        "# Events",
        "",
        f"Schema version {schema.VERSION}. One record of {schema.EVENT_DTYPE.itemsize} bytes per "
        f"event, one of {schema.NAME_DTYPE.itemsize} bytes per name.",
        "",
        "## Fields",
        "",
        "| field | type | meaning |",
        "|---|---|---|",
        *(f"| `{field.name}` | {field.type} | {field.doc} |" for field in schema.EVENT_FIELDS),
        "",
        "## Kinds",
    ]
    for kind in schema.KINDS:
        lines += ["", f"### {kind.id} `{kind.name}`: {kind.doc}", "", f"Source: `{kind.source}`."]
        timed, stack = "Timed" if kind.timed else "Not timed", _STACKS[kind.stack]
        lines += [f"{timed}; stacks: {stack}.", ""]
        for field in ("object", "value", "aux", "detail", "ret"):
            if text := getattr(kind, field):
                lines.append(f"- `{field}`: {text}")
        if kind.caveat:
            lines += ["", f"Caveat: {kind.caveat}."]
    lines += ["", "## Names", "", "| field | type | meaning |", "|---|---|---|"]
    lines += [f"| `{field.name}` | {field.type} | {field.doc} |" for field in schema.NAME_FIELDS]
    lines += [
        "",
        "Types: "
        + ", ".join(f"{number} {name}" for name, number in schema.NAME_TYPES.items())
        + ".",
    ]
    for title, fields in SNAPSHOT_RECORDS.items():
        lines += ["", f"## {title}", "", "| field | type | meaning |", "|---|---|---|"]
        lines += [f"| `{field.name}` | {field.type} | {field.doc} |" for field in fields]
    lines += ["", "## Loss", "", "| cause | what it means | what helps |", "|---|---|---|"]
    lines += [f"| `{cause.name}` | {cause.doc} | {cause.hint} |" for cause in schema.CAUSES]
    return "\n".join([*lines, ""])


def generated(root: Path) -> dict[Path, str]:
    """Paths below a source tree and the text that each must have."""
    return {root / "bpf" / "events.gen.h": header(), root / "bpf" / "EVENTS.md": reference()}


if __name__ == "__main__":
    for path, text in generated(Path(__file__).resolve().parent.parent).items():
        path.write_text(text)
