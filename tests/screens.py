# SPDX-License-Identifier: Apache-2.0
"""Moments to be looked at: a busy camera pipeline that leaks, with names that nobody would want."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dmabuf_trace.top.activity import Moment
from dmabuf_trace.top.replay import Replay
from tests.build import KIB, MIB, MS, US, Build, Process, S

HOSTILE: Final = ("\x1b[31mred\x1b[2J", "[bold]not bold[/bold]", "\u202egnp.exe", "a\nb", "\x9b2J")
"""Names that move the cursor, colour, are markup, turn the direction, break the line."""
SVG: Final = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; white-space: pre; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""How rich writes an SVG: as its own form, without fonts from elsewhere."""
CAMERA, SHELL, ENCODER = Process(210, "camerad"), Process(300, "shell"), Process(410, "encoder")


def busy() -> Build:
    """A minute of it."""
    k = Build(lists_all=True)
    old = k.by(SHELL).existing(8 * MIB, "drm", name="scanout")
    k.holding(old, 7)
    k.snapshot("start")
    frames = [k.by(CAMERA).export(2 * MIB, "system", fd=10 + at, dur=120 * US) for at in range(4)]
    isp = [k.by(CAMERA).attach(frame, "isp0", driver="isp", dur=8 * US) for frame in frames]
    gpu = k.by(SHELL).attach(old, "gpu0", driver="amdgpu", dynamic=True, dur=20 * US)
    k.map(gpu, dur=900 * US)
    for at, name in enumerate(HOSTILE):
        k.by(Process(500 + at, name[:15])).name(k.export((64 + at) * KIB, name), name)
    for turn in range(240):
        mapping = k.by(CAMERA).map(isp[turn % 4], dur=(10 + turn % 50) * US)
        k.wait(20 * MS)
        k.unmap(mapping)
        made = k.by(ENCODER).export(512 * KIB, "udmabuf", dur=40 * US)
        attachment = k.attach(
            made, "venc0", driver="venc", dur=9 * US, errno=16 * (turn % 60 == 59)
        )
        k.wait(200 * MS)
        if turn % 10:  # one in ten is never released
            if turn % 60 != 59:
                k.detach(attachment)
            k.release(made)
        k.wait(30 * MS)
    k.begin(frames[0])
    k.lose("map", "ring_full", 3)
    return k


def moments(k: Build, folder: Path) -> list[Moment]:
    """One every half a second, played without waiting."""
    path = k.write(folder / "x.dbt")
    return [*Replay(path, S // 2, 1, lambda _: False).moments()]
