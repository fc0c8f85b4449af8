"""The entry point of the command line."""

import contextlib
import json
import os
import re
import shlex
import sys

from keras_adaptive.cli.arguments import PROGRAM, parse
from keras_adaptive.cli.quiet import quiet

WRONG_INPUT, FAILED, INTERRUPTED = 2, 1, 130
WRONG_PATH = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
LONGEST = 2000  # characters of an error
RAISED = re.compile(r"^\w*(?:Error|Exception): (.+)$", re.MULTILINE)


def main(arguments=None):
    """Runs one command; errors end the program with a message and an exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):  # names may hold what the encoding does not
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    options = parse(arguments)
    options.command = shlex.join([PROGRAM, *arguments])
    try:
        with quiet():
            if options.json:
                _print_json(options)
            else:
                options.function(options)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads has what it wants, as `head` does
        with contextlib.suppress(AttributeError, OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        sys.exit(INTERRUPTED)
    except (ValueError, TypeError, ImportError, PermissionError, *WRONG_PATH) as error:
        _end(error, WRONG_INPUT)
    except (RuntimeError, OSError, MemoryError) as error:
        _end(error, FAILED)
    except Exception as error:
        if not type(error).__module__.startswith("tensorflow"):  # a defect: where it is counts
            raise
        _end(error, FAILED)


def _print_json(options):
    """Prints what a command returns, or the report of its run; what it says goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        found = options.function(options)
    if found is None:
        folder = options.run if hasattr(options, "run") else options.out
        found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(json.dumps(found, indent=1, ensure_ascii=not encoding.lower().startswith("utf")))


def _end(error, code):
    text = _without_traceback(str(error)) or type(error).__name__
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    sys.stderr.write(f"{PROGRAM}: error: {text}\n")
    sys.exit(code)


def _without_traceback(text):
    """Returns what an error says; TensorFlow's hold the traceback of what was raised inside."""
    before, found, inside = text.partition("Traceback (most recent call last):")
    return (RAISED.findall(inside) or [before])[-1] if found else text
