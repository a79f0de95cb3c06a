# SPDX-License-Identifier: Apache-2.0
"""A map of the programs that is a set of 64-bit keys. Must not know what they stand for."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterable

from dmabuf_trace.loader.libbpf import Libbpf


class KeySet:
    """The keys of a map; ``fd`` belongs to the loader, and may be used in a forked child."""

    def __init__(self, lib: Libbpf, fd: int) -> None:
        self._lib = lib
        self._fd = fd

    def add(self, keys: Iterable[int]) -> list[int]:
        """Put keys in; those for which there was no room."""
        one = ctypes.c_uint64(1)
        return [key for key in keys if self._update(key, one)]

    def _update(self, key: int, value: ctypes.c_uint64) -> int:
        number = ctypes.c_uint64(key)
        error = self._lib.bpf_map_update_elem(
            self._fd, ctypes.byref(number), ctypes.byref(value), 0
        )
        if error and -error not in (errno.E2BIG, errno.ENOMEM):
            raise OSError(-error, "bpf_map_update_elem")
        return int(error)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, int):
            return False
        number, value = ctypes.c_uint64(key), ctypes.c_uint64()
        return not self._lib.bpf_map_lookup_elem(
            self._fd, ctypes.byref(number), ctypes.byref(value)
        )
