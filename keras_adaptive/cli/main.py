"""The entry point of the command line."""

import shlex
import sys

from keras_adaptive.cli.arguments import PROGRAM, parse

WRONG_INPUT, FAILED, INTERRUPTED = 2, 1, 130


def main(arguments=None):
    """Runs one command; errors end the program with a message and an exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(arguments)
    options.command = shlex.join([PROGRAM, *arguments])
    try:
        options.function(options)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        sys.exit(INTERRUPTED)
    except (ValueError, TypeError, ImportError, FileNotFoundError) as error:
        _end(error, WRONG_INPUT)
    except (RuntimeError, OSError) as error:
        _end(error, FAILED)


def _end(error, code):
    sys.stderr.write(f"{PROGRAM}: error: {error}\n")
    sys.exit(code)
