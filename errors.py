"""Errors that the user can mend, and the exit codes they end with."""

import os
import sys
from typing import Callable


class UserError(Exception):
    """Say in one line what is wrong, where, and what to do; ends the program with exit code 2."""

    exit_code = 2


class MissingWeights(UserError):
    """Say which pretrained weights are missing and how to get them; ends the program with exit code 3."""

    exit_code = 3


def run_as_command(main: Callable[[list[str]], None]) -> None:
    """Run `main` on the command line's words: a `UserError` is printed and exits, anything else keeps its traceback."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        rank = os.environ.get("RANK", "0")  # torchrun's number of this process
        print(f"error: {error}" if rank == "0" else f"error: process {rank}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
