"""How every command ends: errors that the user can mend, exit codes, and output whose failure ends nothing."""

import io
import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO


class UserError(Exception):
    """Say in one line what is wrong, where, and what to do; ends the program with exit code 2."""

    exit_code = 2


class MissingWeights(UserError):
    """Say which pretrained weights are missing and how to get them; ends the program with exit code 3."""

    exit_code = 3


def run_as_command(main: Callable[[list[str]], None]) -> None:
    """Run `main` on the command line's words. What the user can mend is one line; any other error keeps its traceback."""
    keep_streams()
    try:
        main(sys.argv[1:])
    except UserError as error:
        _end(str(error), error.exit_code)
    except OSError as error:
        if error.filename is None:
            raise
        _end(f"{os.fsdecode(error.filename)}: cannot be used ({error.strerror}); mend that, or name another place", UserError.exit_code)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _end(message: str, code: int) -> None:
    rank = os.environ.get("RANK", "0")  # torchrun's number of this process
    print(f"error: {message}" if rank == "0" else f"error: process {rank}: {message}", file=sys.stderr)
    raise SystemExit(code) from None


def keep_streams() -> None:
    """See to it that printing never fails, whatever becomes of the terminal, pipe or disk that this process prints to.

    Closed descriptors 0 to 2 are opened on the null device, or the next data files would get these numbers and what is
    printed. Characters that a stream's encoding lacks are escaped. A stream that fails is dropped.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest free number: this one
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8", errors="backslashreplace"))
        elif name != "stdin" and stream is getattr(sys, f"__{name}__"):  # others are somebody's who wants them as they are
            setattr(
                sys,
                name,
                io.TextIOWrapper(
                    io.BufferedWriter(_Unfailing(stream)),
                    stream.encoding,
                    "backslashreplace",
                    line_buffering=stream.line_buffering,
                    write_through=stream.write_through,
                ),
            )


class _Unfailing(io.RawIOBase):
    """The bytes of a standard stream: from the first failure on they go nowhere."""

    def __init__(self, stream: TextIO):
        self.stream = stream  # kept, because it closes its bytes when it is deleted
        self.bytes = getattr(stream.buffer, "raw", stream.buffer)  # python -u has no buffer in between

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.bytes.fileno()

    def isatty(self) -> bool:
        return self.bytes.isatty()

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        try:
            while (written := self.bytes.write(data)) is None:  # a pipe that is full and does not wait
                select.select([], [self], [])
            return written
        except OSError:
            with suppress(OSError), open(os.devnull, "wb") as nowhere:  # for other writers to this descriptor too
                os.dup2(nowhere.fileno(), self.fileno())
            return len(data)


def ending_signals() -> list[int]:
    """Return the signals besides Ctrl-C that ask a command to end: SIGTERM, and a closed terminal's SIGHUP unless nohup ignores it."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    return [signal.SIGTERM] if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN else [signal.SIGTERM, hangup]
