# SPDX-License-Identifier: Apache-2.0
"""An error that a person can cause -> two lines on stderr and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dmabuf_trace.errors import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, TraceError
from dmabuf_trace.render.text import printable


@contextmanager
def failures_told(leave: Callable[[int], BaseException]) -> Iterator[None]:
    """Within: a failure is told, and raises what ``leave`` makes of the exit status."""
    try:
        yield
        sys.stdout.flush()
    except TraceError as error:
        sys.stderr.write(f"dmabuf-trace: {printable(str(error))}\n")
        if error.hint:
            sys.stderr.write(f"  {printable(error.hint)}\n")
        raise leave(error.status) from None
    except KeyboardInterrupt:
        raise leave(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        # whoever read us has enough; the interpreter's own flush at exit must not complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise leave(EXIT_BROKEN_PIPE) from None


def unprintable_escaped() -> None:
    """Let no text that is not in the terminal's encoding be an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
