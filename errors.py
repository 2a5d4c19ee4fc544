"""How every command ends: errors that the user can correct, exit codes, and output that never fails."""

import io
import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO


class UserError(Exception):
    """An error that the user can correct: one line says what is wrong, where, and what to do. Exit code 2."""

    exit_code = 2


class MissingWeights(UserError):
    """Pretrained weights are missing: the message names them and says how to get them. Exit code 3."""

    exit_code = 3


def run_as_command(main: Callable[[list[str]], None]) -> None:
    """Run `main` on the command line's words. A UserError or a file's OSError prints one line; other errors keep their traceback."""
    keep_streams()
    try:
        main(sys.argv[1:])
    except UserError as error:
        _end(str(error), error.exit_code)
    except OSError as error:
        if error.filename is None:
            raise
        _end(f"{os.fsdecode(error.filename)}: cannot be used ({error.strerror}); correct that, or use another path", UserError.exit_code)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _end(message: str, code: int) -> None:
    rank = os.environ.get("RANK", "0")  # torchrun's number of this process
    print(f"error: {message}" if rank == "0" else f"error: process {rank}: {message}", file=sys.stderr)
    raise SystemExit(code) from None


def keep_streams() -> None:
    """Make printing never fail, even if the terminal, pipe or disk behind it fails.

    Closed descriptors 0 to 2 are opened on the null device; otherwise the next data file would get such a number, and
    printed text would go into it. Characters outside a stream's encoding are escaped. After a failure a stream's output is
    discarded.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # open uses the lowest free number, which is this one
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8", errors="backslashreplace"))
        elif name != "stdin" and stream is getattr(sys, f"__{name}__"):  # leave a stream that somebody has replaced
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
    """A standard stream's bytes; after the first failure they are discarded."""

    def __init__(self, stream: TextIO):
        self.stream = stream  # keep a reference: a deleted stream closes its bytes
        self.bytes = getattr(stream.buffer, "raw", stream.buffer)  # with python -u the buffer is already the raw stream

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.bytes.fileno()

    def isatty(self) -> bool:
        return self.bytes.isatty()

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        try:
            while (written := self.bytes.write(data)) is None:  # a full non-blocking pipe
                select.select([], [self], [])
            return written
        except OSError:
            with suppress(OSError), open(os.devnull, "wb") as nowhere:  # also for other writers to this descriptor
                os.dup2(nowhere.fileno(), self.fileno())
            return len(data)


def ending_signals() -> list[int]:
    """Return the signals, besides Ctrl-C, that stop a command: SIGTERM, and SIGHUP (closed terminal) unless nohup ignores it."""
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    return [signal.SIGTERM] if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN else [signal.SIGTERM, hangup]
