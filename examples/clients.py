# SPDX-License-Identifier: Apache-2.0
"""Real dma-buf clients on any kernel: the system heap, udmabuf, PRIME on a DRM device, V4L2.

Standard library only. Each function does what an application would, and gives everything back.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HEAP_ALLOC = 0xC0184800  # include/uapi/linux/dma-heap.h
UDMABUF_CREATE = 0x40187542  # include/uapi/linux/udmabuf.h
UDMABUF_CLOEXEC = 1
DRM_CREATE_DUMB = 0xC02064B2  # include/uapi/drm/drm.h, drm_mode.h
DRM_DESTROY_DUMB = 0xC00464B4
DRM_PRIME_HANDLE_TO_FD = 0xC00C642D
DRM_PRIME_FD_TO_HANDLE = 0xC00C642E
DRM_GEM_CLOSE = 0x40086409


@contextmanager
def closing(fd: int) -> Iterator[int]:
    """Close the fd at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


def heap_alloc(size: int, heap: str = "system") -> int:
    """Fd of a new buffer of a dma-heap."""
    with closing(os.open(f"/dev/dma_heap/{heap}", os.O_RDWR | os.O_CLOEXEC)) as device:
        argument = bytearray(struct.pack("=QIIQ", size, 0, os.O_RDWR | os.O_CLOEXEC, 0))
        fcntl.ioctl(device, HEAP_ALLOC, argument)
    return int(struct.unpack("=QIIQ", argument)[1])


def udmabuf_create(size: int) -> int:
    """Fd of a buffer made of the pages of a sealed memfd."""
    with closing(os.memfd_create("udmabuf", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)) as memory:
        os.ftruncate(memory, size)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        with closing(os.open("/dev/udmabuf", os.O_RDWR | os.O_CLOEXEC)) as device:
            argument = bytearray(struct.pack("=IIQQ", memory, UDMABUF_CLOEXEC, 0, size))
            return int(fcntl.ioctl(device, UDMABUF_CREATE, argument))


def drm_device(driver: str) -> Path:
    """Node of the DRM device of a driver.

    Raises:
        FileNotFoundError: no such device.
    """
    for card in sorted(Path("/sys/class/drm").glob("card[0-9]")):
        if (card / "device" / "driver").resolve().name == driver or driver in str(card.resolve()):
            return Path("/dev/dri") / card.name
    raise FileNotFoundError(f"no DRM device of {driver}: modprobe {driver}")


class Prime:
    """An open DRM device: makes GEM buffers, exports and imports them by PRIME."""

    def __init__(self, node: Path) -> None:
        self.fd = os.open(node, os.O_RDWR | os.O_CLOEXEC)

    def create(self, width: int, height: int) -> int:
        """Handle of a new 32-bit dumb buffer."""
        argument = bytearray(struct.pack("=IIIIIIQ", height, width, 32, 0, 0, 0, 0))
        fcntl.ioctl(self.fd, DRM_CREATE_DUMB, argument)
        return int(struct.unpack("=IIIIIIQ", argument)[4])

    def export(self, handle: int) -> int:
        """Fd for a handle."""
        argument = bytearray(struct.pack("=IIi", handle, os.O_RDWR | os.O_CLOEXEC, -1))
        fcntl.ioctl(self.fd, DRM_PRIME_HANDLE_TO_FD, argument)
        return int(struct.unpack("=IIi", argument)[2])

    def adopt(self, fd: int) -> int:
        """Handle for an fd that another device or process exported."""
        argument = bytearray(struct.pack("=IIi", 0, 0, fd))
        fcntl.ioctl(self.fd, DRM_PRIME_FD_TO_HANDLE, argument)
        return int(struct.unpack("=IIi", argument)[0])

    def release(self, handle: int) -> None:
        """Give a handle back."""
        fcntl.ioctl(self.fd, DRM_GEM_CLOSE, struct.pack("=II", handle, 0))

    def close(self) -> None:
        """Close the device."""
        os.close(self.fd)


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
