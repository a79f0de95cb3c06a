# SPDX-License-Identifier: Apache-2.0
"""The part of libbpf.so.1 that is used, through ctypes.

Nothing here may raise inside a callback: exceptions vanish there.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, Final, Self

from dmabuf_trace.errors import UntraceableError

SONAME: Final = "libbpf.so.1"

_PRINT = CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)

_PROTOTYPES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "bpf_object__open_mem": (c_void_p, (c_char_p, c_size_t, c_void_p)),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__find_program_by_name": (c_void_p, (c_void_p, c_char_p)),
    "bpf_object__find_map_by_name": (c_void_p, (c_void_p, c_char_p)),
    "bpf_object__next_map": (c_void_p, (c_void_p, c_void_p)),
    "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p)),
    "bpf_program__name": (c_char_p, (c_void_p,)),
    "bpf_program__set_autoload": (c_int, (c_void_p, ctypes.c_bool)),
    "bpf_program__set_attach_target": (c_int, (c_void_p, c_int, c_char_p)),
    "bpf_program__set_expected_attach_type": (c_int, (c_void_p, c_int)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_prog_test_run_opts": (c_int, (c_int, c_void_p)),
    "bpf_program__attach_kprobe_multi_opts": (c_void_p, (c_void_p, c_char_p, c_void_p)),
    "bpf_program__attach_trace": (c_void_p, (c_void_p,)),
    "bpf_program__attach_tracepoint": (c_void_p, (c_void_p, c_char_p, c_char_p)),
    "bpf_program__attach_raw_tracepoint": (c_void_p, (c_void_p, c_char_p)),
    "bpf_program__attach_iter": (c_void_p, (c_void_p, c_void_p)),
    "bpf_iter_create": (c_int, (c_int,)),
    "bpf_link__fd": (c_int, (c_void_p,)),
    "bpf_link__destroy": (c_int, (c_void_p,)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_map__name": (c_char_p, (c_void_p,)),
    "bpf_map__reuse_fd": (c_int, (c_void_p, c_int)),
    "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32)),
    "bpf_map_lookup_elem": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_update_elem": (c_int, (c_int, c_void_p, c_void_p, c_uint64)),
    "bpf_obj_get_info_by_fd": (c_int, (c_int, c_void_p, POINTER(c_uint32))),
    "libbpf_set_print": (c_void_p, (_PRINT,)),
    "libbpf_version_string": (c_char_p, ()),
}


class ProgramInfo(ctypes.Structure):
    """``struct bpf_prog_info`` (include/uapi/linux/bpf.h) up to ``recursion_misses``."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", c_uint32),
        ("xlated_prog_len", c_uint32),
        ("jited_prog_insns", c_uint64),
        ("xlated_prog_insns", c_uint64),
        ("load_time", c_uint64),
        ("created_by_uid", c_uint32),
        ("nr_map_ids", c_uint32),
        ("map_ids", c_uint64),
        ("name", ctypes.c_char * 16),
        ("ifindex", c_uint32),
        ("gpl_compatible", c_uint32),
        ("netns_dev", c_uint64),
        ("netns_ino", c_uint64),
        ("nr_jited_ksyms", c_uint32),
        ("nr_jited_func_lens", c_uint32),
        ("jited_ksyms", c_uint64),
        ("jited_func_lens", c_uint64),
        ("btf_id", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("func_info", c_uint64),
        ("nr_func_info", c_uint32),
        ("nr_line_info", c_uint32),
        ("line_info", c_uint64),
        ("jited_line_info", c_uint64),
        ("nr_jited_line_info", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("jited_line_info_rec_size", c_uint32),
        ("nr_prog_tags", c_uint32),
        ("prog_tags", c_uint64),
        ("run_time_ns", c_uint64),
        ("run_cnt", c_uint64),
        ("recursion_misses", c_uint64),
    )


class MultiLinkInfo(ctypes.Structure):
    """``struct bpf_link_info`` of a kprobe.multi link, up to ``missed`` (from 6.7 on)."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("prog_id", c_uint32),
        ("addrs", c_uint64),
        ("count", c_uint32),
        ("flags", c_uint32),
        ("missed", c_uint64),
    )


class MultiOptions(ctypes.Structure):
    """``struct bpf_kprobe_multi_opts``, as of libbpf 1.0."""

    _fields_ = (
        ("sz", c_size_t),
        ("syms", POINTER(c_char_p)),
        ("addrs", c_void_p),
        ("cookies", c_void_p),
        ("cnt", c_size_t),
        ("retprobe", ctypes.c_bool),
    )

    @classmethod
    def of(cls, symbol: str, *, returned: bool) -> Self:
        """One function, at its entry or its return."""
        symbols = (c_char_p * 1)(symbol.encode())
        return cls(ctypes.sizeof(cls), symbols, None, None, 1, returned)


class Libbpf:
    """libbpf.so.1 with its prototypes, and what it said last.

    Raises:
        UntraceableError: the library is not installed.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(SONAME, use_errno=True)
        except OSError:
            raise UntraceableError(
                f"{SONAME} not found", "apt-get install libbpf1 (python3-bpfcc brings it too)"
            ) from None
        for name, (result, arguments) in _PROTOTYPES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self.messages: list[str] = []
        self._print = _PRINT(self._listen)
        self._library.libbpf_set_print(self._print)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(self._library, name)
        return function

    def _listen(self, level: int, text: bytes, arguments: int) -> int:
        """Keep warnings; the va_list is passed on as the pointer that both ABIs make of it."""
        if level > 0:
            return 0
        buffer = ctypes.create_string_buffer(4096)
        _LIBC.vsnprintf(buffer, len(buffer), text, c_void_p(arguments))
        self.messages.append(buffer.value.decode(errors="backslashreplace").strip())
        return 0

    def recursion_misses(self, program_fd: int) -> int:
        """Runs of a program that the kernel skipped, because it or another was running."""
        info = ProgramInfo()
        return int(info.recursion_misses) if self._inform(program_fd, info) else 0

    def missed(self, link_fd: int) -> int:
        """Hits that a kprobe.multi link had no room for; 0 also where the kernel doesn't tell."""
        info = MultiLinkInfo()
        return int(info.missed) if self._inform(link_fd, info) else 0

    def _inform(self, fd: int, info: ctypes.Structure) -> bool:
        size = c_uint32(ctypes.sizeof(info))
        return not self._library.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))

    def reason(self, error: int) -> str:
        """The last warnings, or the errno's text."""
        spoken = [line.removeprefix("libbpf: ") for line in self.messages[-3:]]
        self.messages.clear()
        return "; ".join(spoken) or os.strerror(abs(error))


_LIBC = ctypes.CDLL(None)
