# SPDX-License-Identifier: Apache-2.0
"""The client mirrors dmabuf_ref.h: every constant, layout and request number, both ways."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from tests.kmod import client

HEADER = Path(client.__file__).with_name("dmabuf_ref.h").read_text()
CODE = re.sub(r"/\*.*?\*/|\\\n", "", HEADER, flags=re.DOTALL)
TYPES = {"__u64": "Q", "__u32": "I", "__s32": "i"}
DIRECTIONS = {"_IO": 0, "_IOW": 1, "_IOR": 2, "_IOWR": 3}


def header_layouts() -> dict[str, tuple[tuple[str, str], ...]]:
    found = {}
    for name, body in re.findall(r"struct (\w+) \{(.*?)\};", CODE, re.DOTALL):
        declarations = [line.split() for line in body.split(";") if line.strip()]
        found[name] = tuple((field, TYPES[kind]) for kind, field in declarations)
    return found


def header_enum(name: str) -> dict[str, int]:
    body = re.search(rf"enum {name} \{{(.*?)\}}", CODE, re.DOTALL)
    assert body is not None
    return {word: number for number, word in enumerate(re.findall(r"\w+", body[1]))}


def header_requests() -> dict[str, tuple[int, int, str]]:
    """Name without prefix -> direction, number, type of the argument ("" for none)."""
    pattern = (
        r"#define DMABUF_REF_(\w+)\s+(_IO[WR]*)"
        r"\(DMABUF_REF_IOC_MAGIC, (0x\w+)(?:, (?:struct )?(\w+))?\)"
    )
    return {
        name: (DIRECTIONS[macro], int(number, 16), kind)
        for name, macro, number, kind in re.findall(pattern, CODE)
    }


def header_bit(name: str) -> int:
    bit = re.search(rf"#define DMABUF_REF_{name}\s+\(1U << (\d+)\)", CODE)
    assert bit is not None, name
    return 1 << int(bit[1])


def test_layouts_are_the_headers() -> None:
    layouts = header_layouts() | {"__s32": (("fd", "i"),)}
    assert len(layouts) == 9
    assert layouts == client.LAYOUTS


def test_layouts_have_no_padding() -> None:
    for name, members in header_layouts().items():
        codes = "".join(code for _, code in members)
        longest = max(struct.calcsize(code) for _, code in members)
        assert struct.calcsize("@" + codes) == struct.calcsize("=" + codes), name
        assert struct.calcsize("=" + codes) % longest == 0, f"{name}: tail padding"


def test_requests_are_the_headers() -> None:
    layouts = header_layouts() | {"__s32": (("fd", "i"),), "": ()}
    magic = re.search(r"#define DMABUF_REF_IOC_MAGIC\s+(0x\w+)", CODE)
    assert magic is not None
    assert int(magic[1], 16) == client.MAGIC
    expected = {
        name: direction << 30
        | struct.calcsize("=" + "".join(code for _, code in layouts[kind])) << 16
        | client.MAGIC << 8
        | number
        for name, (direction, number, kind) in header_requests().items()
    }
    assert len(expected) == 19
    assert {request.name: int(request) for request in client.Request} == expected


def test_enums_are_the_headers() -> None:
    importers = header_enum("dmabuf_ref_importer")
    assert importers.pop("DMABUF_REF_NR_IMPORTERS") == len(client.Importer)
    assert {f"DMABUF_REF_{i.name}": int(i) for i in client.Importer} == importers
    ops = header_enum("dmabuf_ref_op")
    assert ops.pop("DMABUF_REF_NR_OPS") == len(client.Op)
    assert {f"DMABUF_REF_OP_{op.name}": int(op) for op in client.Op} == ops
    usages = header_enum("dmabuf_ref_usage")
    assert usages.pop("DMABUF_REF_NR_USAGES") == len(client.Usage)
    assert {f"DMABUF_REF_USAGE_{u.name}": int(u) for u in client.Usage} == usages


def test_flags_are_the_headers() -> None:
    for flag in (*client.ExportFlag, *client.Misuse):
        assert flag == header_bit(str(flag.name))
    assert header_bit("FORCE") == client.FORCE
    assert header_bit("DYNAMIC_IMPORTER") == client.DYNAMIC_IMPORTER
    assert header_bit("LAZY") == client.LAZY
    assert header_bit("P2P") == client.P2P


def test_every_counter_is_documented_and_every_device_named() -> None:
    documented = re.findall(
        r"^ \* @(\w+):", HEADER[HEADER.index("struct dmabuf_ref_counters -") :], re.M
    )
    assert documented == [name for name, _ in client.LAYOUTS["dmabuf_ref_counters"]]
    assert f'"{client.IMPORTER_DRIVER}"' in HEADER
    assert re.findall(r'/\* "([\w-]+)":', HEADER) == [i.device for i in client.Importer]


def test_counter_differences_name_only_what_changed() -> None:
    zero = client.Counters(*[0] * len(client.LAYOUTS["dmabuf_ref_counters"]))
    one = client.Counters(*[1, *[0] * (len(client.LAYOUTS["dmabuf_ref_counters"]) - 1)])
    assert zero - zero == {}
    assert one - zero == {"export_ok": 1}
    assert zero - one == {"export_ok": -1}
