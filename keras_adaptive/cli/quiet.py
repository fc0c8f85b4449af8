"""Keeps what TensorFlow and its parts write for themselves off the terminal."""

import contextlib
import logging
import os
import re
import sys
import tempfile
import warnings

from keras_adaptive.cli.arguments import PROGRAM

# lines of absl, TensorFlow and LiteRT that are no errors of ours; what is fatal is shown
NOISE = re.compile(
    rb"[IWE]\d{4} \d\d:\d\d:\d\d|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] "
    rb"|WARNING: All log messages before absl|To enable the following instructions"
    rb"|INFO: |WARNING: .*(delegate|deprecated)|loc\(|\s*$"
)
LOGGERS = ("absl", "tensorflow", "jax")


@contextlib.contextmanager
def quiet():
    """Shows what Python writes to stderr at once, and what C++ writes there if it is not noise.

    That is known when the command has ended: a filter that reads along would have to wait for
    Python while C++ waits for the filter.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        terminal = os.dup(2)
    except OSError:  # no stderr
        yield
        return
    with tempfile.TemporaryFile() as kept, contextlib.ExitStack() as stack:
        stack.callback(setattr, warnings, "formatwarning", warnings.formatwarning)
        warnings.formatwarning = _one_line
        stack.callback(os.close, terminal)
        if _is_stderr(sys.stderr):
            shown = stack.enter_context(
                open(terminal, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
            )
            stack.enter_context(contextlib.redirect_stderr(shown))
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            kept.seek(0)
            for line in kept:
                if not NOISE.match(line):
                    os.write(2, line)


def _one_line(message, category, filename, lineno, line=None):
    return f"{PROGRAM}: warning: {message}\n"


def _is_stderr(stream):
    try:
        return stream.fileno() == 2
    except (AttributeError, OSError, ValueError):
        return False
