# SPDX-License-Identifier: Apache-2.0
"""Checks: whatever still uses the module keeps it loaded, and nothing else does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.kmod import client
from tests.kmod.client import DEVICE, PAGE_SIZE, Ref
from tests.kmod.foreign import HEAP, heap_buffer


@contextmanager
def _open_device() -> Iterator[None]:
    with Ref():
        yield


@contextmanager
def _fd() -> Iterator[None]:
    with Ref() as ref:
        buffer = ref.export(PAGE_SIZE)
    yield
    buffer.close()


@contextmanager
def _mapping() -> Iterator[None]:
    with Ref() as ref, ref.export(PAGE_SIZE) as buffer:
        vma = buffer.mmap()
    yield
    vma.close()


@contextmanager
def _leaked_attachment() -> Iterator[None]:
    with Ref() as ref, ref.export(PAGE_SIZE) as buffer:
        ref.attach(buffer, leak=True)
    yield
    with Ref() as ref:
        ref.undo_leaks()


@contextmanager
def _leaked_reference() -> Iterator[None]:
    with Ref() as ref, ref.export(PAGE_SIZE) as buffer:
        ref.leak_ref(buffer)
    yield
    with Ref() as ref:
        ref.undo_leaks()


@contextmanager
def _leaks_of_a_foreign_buffer() -> Iterator[None]:
    """No buffer of the module's own is there to hold it: the leaks have to."""
    fd = heap_buffer()
    with Ref() as ref:
        ref.attach(fd, leak=True)
    yield
    with Ref() as ref:
        ref.undo_leaks()
        ref.leak_ref(fd)
    os.close(fd)
    assert "in use" in _unload()
    with Ref() as ref:
        ref.undo_leaks()


@contextmanager
def _sync_file() -> Iterator[None]:
    """The fence in it has signalled, and its buffer is gone."""
    with Ref() as ref, ref.export(PAGE_SIZE) as buffer:
        ref.fence(buffer)
        fd = client.export_sync_file(buffer.fd)
    yield
    os.close(fd)


USERS: tuple[Callable[[], AbstractContextManager[None]], ...] = (
    _open_device,
    _fd,
    _mapping,
    _leaked_attachment,
    _leaked_reference,
    _sync_file,
    *((_leaks_of_a_foreign_buffer,) if HEAP.exists() else ()),
)


def _unload() -> str:
    """What rmmod said when it failed, else nothing."""
    try:
        client.unload()
    except subprocess.CalledProcessError as error:
        return str(error.stderr) or "failed"
    return ""


def check_unload(module: Path) -> None:
    """rmmod is refused while in use, works afterwards, and the module loads again"""
    for user in USERS:
        with user():
            refusal = _unload()
            assert "in use" in refusal, f"{user.__name__}: {refusal or 'unloaded'}"
        assert not _unload()
        assert not DEVICE.exists()
        client.load(module)
        with Ref() as ref:
            assert ref.counters().export_ok == 0, "a fresh module counts from zero"
