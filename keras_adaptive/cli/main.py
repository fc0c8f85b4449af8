"""What `python -m keras_adaptive` does with its arguments."""

import shlex
import sys

from keras_adaptive.cli.arguments import parse

WRONG_INPUT, FAILED, INTERRUPTED = 2, 1, 130


def main(arguments=None):
    """Runs one command; ends the program with a message where something is wrong."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(arguments)
    options.command = shlex.join(["python", "-m", "keras_adaptive", *arguments])
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
    sys.stderr.write(f"python -m keras_adaptive: error: {error}\n")
    sys.exit(code)
