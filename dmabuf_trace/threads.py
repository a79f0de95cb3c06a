# SPDX-License-Identifier: Apache-2.0
"""Threads that libraries start must not take the signals that the main thread waits for."""

from __future__ import annotations

import importlib
import signal


def import_numpy() -> None:
    """Import numpy ahead of all else that does, with every signal blocked.

    Its BLAS starts a thread per processor, which keeps the signal mask of this moment. A signal for
    the process goes to any thread that doesn't block it: one of those would take it while the main
    thread has no time for it, and it would end the process instead of the recording.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        importlib.import_module("numpy")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
