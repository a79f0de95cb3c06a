# SPDX-License-Identifier: Apache-2.0
"""``python3 -m dmabuf_trace.target``: ``record`` on a machine that has Python, numpy and
libbpf.so.1, and no more: options, messages and exit status are the same."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from dmabuf_trace import options
from dmabuf_trace.errors import InputError, UntraceableError
from dmabuf_trace.render.failure import failures_told, unprintable_escaped
from dmabuf_trace.threads import import_numpy
from dmabuf_trace.version import VERSION

NAME: Final = "python3 -m dmabuf_trace.target"
DOC: Final = (
    "Record dma-buf events until CMD ends or Ctrl-C: of the whole system, unless filtered. The "
    "exit status is CMD's; without CMD, 0. Then, on any machine: dmabuf-trace report FILE."
)


class _Parser(argparse.ArgumentParser):
    """What can't be parsed is an error as any other."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message, f"{NAME} --help shows what there is")


def _limited(option: options.Option[Any], text: str) -> int:
    """A whole number within an option's limits."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if option.least is not None and number < option.least:
        raise argparse.ArgumentTypeError(f"{number} is below {option.least}")
    if option.most is not None and number > option.most:
        raise argparse.ArgumentTypeError(f"{number} is above {option.most}")
    return number


def _add(parser: argparse.ArgumentParser, option: options.Option[Any]) -> None:
    default = f" (default: {option.default})" if option.default and option.metavar else ""
    told: dict[str, Any] = {"dest": option.name, "default": option.default}
    told["help"] = option.help + default
    if not option.metavar:
        parser.add_argument(*option.flags, action="store_true", **told)
        return
    if option.is_number:
        told["type"] = lambda text: _limited(option, text)
    if option.repeatable:
        told["action"] = "append"
    parser.add_argument(*option.flags, metavar=option.metavar, **told)


def parser() -> argparse.ArgumentParser:
    """All options of ``record``."""
    usage = f"{NAME} [OPTIONS] {options.COMMAND_METAVAR}"
    made = _Parser(prog=NAME, usage=usage, description=DOC, allow_abbrev=False)
    made.add_argument("--version", action="version", version=f"dmabuf-trace {VERSION}")
    for option in options.OF_RECORD:
        _add(made, option)
    made.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar=options.COMMAND_METAVAR,
        help=options.COMMAND_HELP,
    )
    return made


def run(arguments: Sequence[str]) -> int:
    """Record; the exit status.

    Raises:
        TraceError: bad usage, or as :func:`dmabuf_trace.recorder.record`.
    """
    typed = vars(parser().parse_args(arguments))
    command = typed.pop("command")
    try:
        import_numpy()  # ahead of what imports it as well
    except ModuleNotFoundError as error:
        raise UntraceableError(f"no {error.name} here", "apt-get install python3-numpy") from None
    from dmabuf_trace.notes import record_with_notes
    from dmabuf_trace.request import Request

    request = Request(tuple(command[1:] if command[:1] == ["--"] else command), **typed)
    return record_with_notes(request.recording()).ending.status


def main() -> NoReturn:
    """Entry point."""
    unprintable_escaped()
    with failures_told(SystemExit):
        sys.exit(run(sys.argv[1:]))
    raise AssertionError("left by its exit status")


if __name__ == "__main__":
    main()
