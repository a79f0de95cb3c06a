# SPDX-License-Identifier: Apache-2.0
"""Recordings for the tests of the HTML page, and the page of a recording."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dmabuf_trace import page
from dmabuf_trace.render.html import page_html
from tests.build import KIB, MIB, MS, US, Build, Process, S

HOSTILE: Final = (
    "</script><script>document.title='taken'</script>",
    "<img src=x onerror=document.title='taken'>",
    "\"'><svg onload=document.title='taken'>",
    "]]><!-- --><![CDATA[",
    "\x1b[2J\x07\r\n$title${body}",
    "\u202eevil\u2066\u200b\u2028",
    "&lt;b&gt;&#x202e;",
    "\ufffe\ue000",
    "javascript:document.title='taken'",
)


def busy() -> Build:
    """A device that maps frame by frame, one that holds, leaks, a refused attach."""
    k = Build()
    k.holding(k.existing(size=MIB, exporter="drm", name="scanout"), fd=9)
    k.snapshot("start")
    leaked = k.export(size=512 * KIB, exporter="system", fd=3, stack=("heap_alloc", "heap_ioctl"))
    k.name(leaked, "camera")
    held = k.attach(leaked, "csi", driver="rkisp1")
    k.map(held, dur=40 * US)
    for frame in range(24):
        buffer = k.export(size=(frame % 5 + 1) * 64 * KIB, exporter="vgem", fd=20 + frame)
        attachment = k.attach(buffer, "gpu", driver="virtio_gpu", bus="pci", dynamic=True)
        mapping = k.map(attachment, dur=(frame % 7 + 1) * 3 * US)
        k.wait(60 * MS)
        k.unmap(mapping)
        k.detach(attachment)
        k.close_fd(buffer, 20 + frame)
        k.release(buffer)
    k.attach(leaked, "isp", driver="isp", errno=16)
    k.by(Process(812, "viewer")).fd(leaked, 7)
    k.wait(S)
    return k


def hostile() -> Build:
    """Names of buffers, threads, exporters, devices and functions that mean harm."""
    k = Build()
    for at, name in enumerate(HOSTILE):
        buffer = k.by(Process(10 + at, name)).export(exporter=name, fd=3, stack=(name,))
        k.name(buffer, name)
        k.map(k.attach(buffer, name, driver=name, bus=name), dur=US)
        k.attach(buffer, name, errno=16)
        k.by(Process(50 + at, name)).fd(buffer, 8)
    k.wait(2 * S)
    return k


def page_of(k: Build, tmp_path: Path, *, cut: bool = False) -> str:
    return page_html(page.read(k.write(tmp_path / "x.dbt", cut=cut)))
