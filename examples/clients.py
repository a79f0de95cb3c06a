# SPDX-License-Identifier: Apache-2.0
"""Real dma-buf clients on any kernel: the system heap, udmabuf, PRIME on a DRM device, V4L2.

Standard library only. Each function does what an application would, and gives everything back; how
buffers are got is in :mod:`dmabuf_trace.uapi`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from dmabuf_trace.uapi import Prime, closing, heap_alloc, udmabuf_create

__all__ = [
    "Prime",
    "closing",
    "drm_device",
    "heap_alloc",
    "stream",
    "udmabuf_create",
    "video_node",
]


def drm_device(driver: str) -> Path:
    """Node of the DRM device of a driver.

    Raises:
        FileNotFoundError: no such device.
    """
    for card in sorted(Path("/sys/class/drm").glob("card[0-9]")):
        if (card / "device" / "driver").resolve().name == driver or driver in str(card.resolve()):
            return Path("/dev/dri") / card.name
    raise FileNotFoundError(f"no DRM device of {driver}: modprobe {driver}")


def video_node(name: str) -> Path:
    """Node of a V4L2 device by its name, as in /sys/class/video4linux.

    Raises:
        FileNotFoundError: no such device.
    """
    for entry in sorted(Path("/sys/class/video4linux").iterdir()):
        if (entry / "name").read_text().strip() == name:
            return Path("/dev") / entry.name
    raise FileNotFoundError(f"no V4L2 device {name}: modprobe vivid n_devs=2 allocators=1,1")


def _quiet(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def stream(capture: Path, out: Path, frames: int) -> None:
    """Stream from one vivid into another one without a copy: EXPBUF, then DMABUF import.

    Raises:
        RuntimeError: v4l2-ctl, which exits with 0 in any case, said that something failed.
    """
    v4l2 = ["v4l2-ctl", "-d", str(capture), "-e", str(out)]
    # HDMI on both sides: the same frame size, so that each buffer fits the other device
    _quiet(["v4l2-ctl", "-d", str(capture), "--set-input=3"])
    _quiet(["v4l2-ctl", "-d", str(out), "--set-output=1"])
    options = ["--stream-mmap", "--stream-out-dmabuf", f"--stream-count={frames}"]
    done = subprocess.run([*v4l2, *options], check=True, capture_output=True, text=True)
    if "failed" in done.stdout + done.stderr:
        raise RuntimeError(f"v4l2-ctl: {done.stderr.strip()}")
