# SPDX-License-Identifier: Apache-2.0
"""Frames lead to the line of their call, or to none where that can't be told for certain."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmabuf_trace.elf import Elf
from dmabuf_trace.errors import InputError
from dmabuf_trace.sourcelines import Lines

SOURCE: Final = """\
void *dma_buf_get(int fd);
void keep(void *buffer);

static inline __attribute__((always_inline)) void *taken(int fd)
{
	return dma_buf_get(fd); /* inlined */
}

static __attribute__((noinline)) void *helper(int fd)
{
	keep(dma_buf_get(fd)); /* helper */
	return helper;
}

__attribute__((section(".init.text"))) int early(int fd)
{
	keep(dma_buf_get(fd)); /* early */
	return 0;
}

int npu_ioctl(int fd)
{
	keep(helper(fd));
	keep(taken(fd)); /* ioctl */
	return 0;
}
"""
OTHER: Final = """\
void *dma_buf_get(int fd);
void keep(void *buffer);

static __attribute__((noinline)) void *helper(int fd)
{
	keep(dma_buf_get(fd)); /* other helper */
	return helper;
}

int isp_ioctl(int fd)
{
	keep(helper(fd)); /* isp */
	return 0;
}
"""
FLAGS: Final = ("-O2", "-g", "-fno-optimize-sibling-calls")
BUILD: Final = "0123456789abcdef0123456789abcdef01234567"


def compiled(folder: Path, text: str, *options: str, name: str = "npu.ko") -> Path:
    """A module as far as it matters here: relocatable, its sections at no place yet."""
    source = folder / "src" / f"{name.partition('.')[0]}.c"
    source.parent.mkdir(exist_ok=True)
    source.write_text(text)
    path = folder / name
    command = ["clang", "--target=x86_64-linux-gnu", *FLAGS, *options, "-c", "-o", str(path)]
    subprocess.run([*command, f"src/{source.name}"], cwd=folder, check=True)
    return path


def frame(path: Path, function: str, callee: str, which: int = 0) -> str:
    """The frame that a call in a function makes, as recordings have it."""
    shown = ["llvm-objdump", "-dr", str(path)]
    text = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
    (found,) = re.findall(rf"^([0-9a-f]+) <{function}>:\n((?:.+\n)+)", text, re.MULTILINE)
    returns = re.findall(rf"R_\w+\s+{callee}\b.*\n\s*([0-9a-f]+):", found[1])
    return f"{function}+{int(returns[which], 16) - int(found[0], 16):#x} [npu]"


def line(marker: str, text: str = SOURCE) -> int:
    """The number of the line with such a comment."""
    (number,) = (n for n, each in enumerate(text.splitlines(), 1) if f"/* {marker} */" in each)
    return number


CALLS: Final = {
    "a call": ("helper", "dma_buf_get", "helper"),
    "in a section of its own": ("early", "dma_buf_get", "early"),
    "in an inlined function": ("npu_ioctl", "dma_buf_get", "inlined"),
    "beside an inlined function": ("npu_ioctl", "keep", "ioctl"),
}


@pytest.mark.parametrize("options", [(), ("-gdwarf-4",), ("-gz=zlib",)], ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_the_line_of_a_call(tmp_path: Path, call: str, options: tuple[str, ...]) -> None:
    function, callee, marker = CALLS[call]
    npu = compiled(tmp_path, SOURCE, *options)
    which = 1 if (function, callee) == ("npu_ioctl", "keep") else 0

    found = Lines([npu]).of([frame(npu, function, callee, which)])

    assert found == [(str(tmp_path / "src/npu.c"), line(marker))]


def test_frames_that_lead_nowhere(tmp_path: Path) -> None:
    npu = compiled(tmp_path, SOURCE)
    lines = Lines([npu], root=tmp_path)
    known = frame(npu, "npu_ioctl", "keep")

    found = lines.of([known, "0xffffffffc0a01234", "vb2_qbuf+0x7 [videobuf2]", "ksys+0x1", "a b"])

    assert found == [("src/npu.c", line("ioctl") - 1), None, None, None, None]
    assert lines.notes == ()
    assert lines.of([]) == []


def test_a_stack_leads_to_its_first_known_line_outside_the_core(tmp_path: Path) -> None:
    npu = compiled(tmp_path, SOURCE)
    helper, ioctl = frame(npu, "helper", "dma_buf_get"), frame(npu, "npu_ioctl", "keep")
    core = ["fd_install+0x5", "dma_buf_fd+0x10", "__dma_buf_fd+0x1"]

    found = Lines([npu], root=tmp_path).locations(
        [[*core, helper, ioctl], ["vb2_get+0x7 [videobuf2]", ioctl, helper], core, []]
    )

    mine = ("src/npu.c", line("helper"))
    assert found == [mine, ("src/npu.c", line("ioctl") - 1), None, None]


def test_a_driver_may_name_its_functions_as_the_core_does(tmp_path: Path) -> None:
    npu = compiled(tmp_path, SOURCE.replace("npu_ioctl", "dma_buf_ioctl"))

    (found,) = Lines([npu]).locations([[frame(npu, "dma_buf_ioctl", "keep")]])

    assert found is not None


def linked(folder: Path, *parts: Path, name: str = "npu.ko", build: str = BUILD) -> Path:
    path = folder / name
    command = ["ld", "-r", f"--build-id=0x{build}", *map(str, parts), "-o", str(path)]
    subprocess.run(command, check=True)
    return path


def test_static_functions_of_one_name_are_not_told_apart(tmp_path: Path) -> None:
    parts = [
        compiled(tmp_path, text, name=name) for text, name in ((SOURCE, "a.o"), (OTHER, "b.o"))
    ]
    npu = linked(tmp_path, *parts)

    found = Lines([npu], root=tmp_path).of(
        [frame(parts[0], "helper", "dma_buf_get"), frame(npu, "isp_ioctl", "keep")]
    )

    assert found == [None, ("src/b.c", line("isp", OTHER))]


def test_debug_information_in_a_file_of_its_own(tmp_path: Path) -> None:
    npu = linked(tmp_path, compiled(tmp_path, SOURCE, name="a.o"))
    call = frame(npu, "early", "dma_buf_get")
    apart = tmp_path / "npu.ko.debug"
    subprocess.run(["objcopy", "--only-keep-debug", str(npu), str(apart)], check=True)

    lines = Lines([apart], {"npu": BUILD}, tmp_path)

    assert lines.of([call]) == [("src/a.c", line("early"))]
    assert lines.notes == ()


def test_another_build_is_not_used(tmp_path: Path) -> None:
    npu = linked(tmp_path, compiled(tmp_path, SOURCE, name="a.o"))
    call = frame(npu, "early", "dma_buf_get")

    lines = Lines([npu], {"npu": "77", "": "88"})

    assert lines.of([call]) == [None]
    assert lines.notes == (
        f"{npu} is not used: its build id is {BUILD}, that of module npu in the recording is 77",
    )
    assert None not in Lines([npu], {"npu": BUILD}).of([call])


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ("helper+0x4000 [npu]", "helper of more than 16383 bytes"),
        ("renamed+0x1 [npu]", "renamed of more than 0 bytes"),
    ],
)
def test_another_build_shows_in_its_functions(tmp_path: Path, other: str, told: str) -> None:
    npu = compiled(tmp_path, SOURCE)
    lines = Lines([npu])

    assert lines.of([other]) == [None]
    assert lines.notes == (f"{npu} is of another build than the recording: it has no {told}",)
    assert Lines([npu], {"": "88"}).notes == ()


def test_of_two_files_of_one_module_the_first_is_used(tmp_path: Path) -> None:
    npu = compiled(tmp_path, SOURCE)
    again = compiled(tmp_path, SOURCE, name="npu.ko.debug")

    lines = Lines([npu, again])

    assert lines.notes == (f"{again} is not used: {npu} is module npu already",)


def test_a_kernel_is_linked(tmp_path: Path) -> None:
    part = compiled(tmp_path, SOURCE, name="a.o")
    vmlinux = tmp_path / "vmlinux"
    script = ["-Ttext=0xffffffff81000000", "--unresolved-symbols=ignore-all", "-e", "npu_ioctl"]
    subprocess.run(["ld", *script, str(part), "-o", str(vmlinux)], check=True)
    call = frame(part, "npu_ioctl", "keep").removesuffix(" [npu]")

    found = Lines([vmlinux], root=tmp_path).of([call, f"{call} [npu]"])

    assert found == [("src/a.c", line("ioctl") - 1), None]


def test_a_module_says_its_name(tmp_path: Path) -> None:
    said = '__attribute__((section(".modinfo"), used)) static char n[] = "a=b\\0name=npu";\n'
    path = compiled(tmp_path, said + SOURCE, name="copy-of-it.ko")

    assert Elf(path).module == "npu"
    assert Elf(compiled(tmp_path, SOURCE, name="my-npu.ko")).module == "my_npu"


def test_another_machine(tmp_path: Path) -> None:
    """Where addr2line does not know it, it is refused: it would tell wrong lines."""
    npu = compiled(tmp_path, SOURCE, "--target=aarch64-linux-gnu")
    call = frame(npu, "npu_ioctl", "dma_buf_get")

    known = subprocess.run(["addr2line", "--help"], capture_output=True, text=True, check=True)
    if "aarch64" in known.stdout or shutil.which("aarch64-linux-gnu-addr2line"):
        assert Lines([npu], root=tmp_path).of([call]) == [("src/npu.c", line("inlined"))]
    else:
        with pytest.raises(InputError, match="can't read") as refused:
            Lines([npu]).of([call])
        assert "binutils-multiarch" in refused.value.hint


def test_files_that_are_refused(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(InputError) as found:
            Lines([path])
        return str(found.value).removeprefix(str(path)).strip()

    text = tmp_path / "text"
    text.write_text("no ELF")
    bare = compiled(tmp_path, SOURCE, "-g0", name="bare.ko")
    narrow = compiled(tmp_path, SOURCE, "-m32", name="narrow.ko")

    assert refused(text) == "is not an ELF file of 64 bits"
    assert refused(narrow) == "is not an ELF file of 64 bits"
    assert refused(bare) == "has no debug information"
    assert refused(tmp_path / "none").endswith("No such file or directory")
    assert refused(tmp_path).endswith("Is a directory")


def test_without_addr2line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npu = compiled(tmp_path, SOURCE)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(InputError, match="needs addr2line"):
        Lines([npu])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_or_read(whole: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(st.binary(min_size=1, max_size=8))
    cut = data.draw(st.integers(0, len(whole)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "npu.ko")
        path.write_bytes((whole[:at] + damage + whole[at + len(damage) :])[:cut])
        with suppress(InputError):
            Elf(path).named("helper")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("elf")
    return linked(folder, compiled(folder, SOURCE, name="a.o")).read_bytes()
