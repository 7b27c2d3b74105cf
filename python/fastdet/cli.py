# SPDX-License-Identifier: Apache-2.0
"""The command ``fastdet``: results to standard output, all else to standard error; 0 done, 2 wrong use, 1 failed."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import warnings
from typing import Any

from fastdet import __version__
from fastdet.progress import printable

# Name -> (what it does, module whose ``run(words) -> exit code`` does it). Imported when called: --help stays quick.
COMMANDS = {
    "predict": ("find objects on pictures", "fastdet.commands.predict"),
    "train": ("train a detector on your data (COCO, YOLO, VOC)", "fastdet.commands.train"),
    "val": ("COCO metrics of a detector on a data set", "fastdet.commands.val"),
    "check": ("what is wrong with a data set: labels, pictures, duplicates, leaks", "fastdet.commands.check"),
    "info": ("versions, backends, and what a weight file holds", "fastdet.commands.info"),
    "licenses": ("licences of fastdet, its weights and what it runs on", "fastdet.commands.licenses"),
}
INTERRUPTED = 130  # what shells expect after SIGINT: a loop around the command ends too


def main(words: list[str] | None = None) -> int:
    """Run ``fastdet WORDS``; returns the exit code. Errors that are the world's, not ours, are one line."""
    words = sys.argv[1:] if words is None else words
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold what it cannot encode
        sys.stdout.reconfigure(errors="backslashreplace")
    name = words[0] if words else "--help"
    if name in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else 2
    if name in ("-V", "--version", "version"):
        print(f"fastdet {__version__}")
        return 0
    if name not in COMMANDS:
        from difflib import get_close_matches

        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        _say(f"fastdet: unknown command {name!r}; {hint}")
        return 2
    return _guarded(name, words[1:])


def _guarded(name: str, words: list[str]) -> int:
    previous = _interrupt_on_termination()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _say(f"fastdet: warning: {message}")
            warnings.filterwarnings("ignore", module=r"PIL\.")
            return importlib.import_module(COMMANDS[name][1]).run(words)
    except KeyboardInterrupt:
        _say(f"fastdet {name}: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (``| head``); Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as request:  # argparse: --help is 0, wrong use is 2
        return request.code if isinstance(request.code, int) else 1
    except (ArithmeticError, ImportError, OSError, RuntimeError, ValueError) as error:
        if os.environ.get("FASTDET_TRACEBACK"):
            raise
        reason = _one_line(error).removeprefix(f"{name}: ")
        _say(f"fastdet {name}: {reason}")
        return 1
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _interrupt_on_termination() -> Any:
    """SIGTERM ends the work as SIGINT does. Returns the handler to put back, None where there is no main thread."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        return signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        return None


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{what}" for name, (what, _) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: fastdet COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            "fastdet COMMAND --help shows the options of a command, fastdet --version the version.",
            "Example: fastdet predict --save out    (the detector and the pictures that come with the package)",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
