"""Files and policies with something wrong in them, made at random."""

import hashlib
import os
import signal
import sys
import time

import numpy as np

DIGEST = b'"sha256": "'
SECONDS = 20  # for one file; more is a hang


def mutate(content, rng):
    """Returns a changed copy of some bytes, and the name of what was done."""
    kinds = ("flip", "byte", "number", "cut", "insert", "delete", "zero", "copy")
    while True:
        kind = kinds[rng.integers(len(kinds))]
        changed = bytearray(content)
        at, length = int(rng.integers(len(content))), int(rng.integers(1, 64))
        if kind == "flip":
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == "byte":
            changed[at] = int(rng.integers(256))
        elif kind == "number":  # offsets, sizes and indices are 4 bytes, aligned
            at = at // 4 * 4
            value = int(rng.choice([0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1]))
            changed[at : at + 4] = value.to_bytes(4, "little")
        elif kind == "cut":
            del changed[at:]
        elif kind == "insert":
            changed[at:at] = rng.bytes(length)
        elif kind == "delete":
            del changed[at : at + length]
        elif kind == "zero":
            changed[at : at + length] = bytes(min(length, len(content) - at))
        else:
            other = int(rng.integers(len(content)))
            changed[at : at + length] = content[other : other + length]
        if bytes(changed) != content:
            return bytes(changed), kind


def reseal(content):
    """Returns the file with its digest computed anew, as somebody who forges it would."""
    at = content.find(DIGEST)
    if at < 0 or at + len(DIGEST) + 64 > len(content):
        return content
    at += len(DIGEST)
    digest = hashlib.sha256(content[:at] + b"0" * 64 + content[at + 64 :]).hexdigest()
    return content[:at] + digest.encode() + content[at + 64 :]


def outcome(path, check=True):
    """Opens and runs a file in a process of its own.

    Args:
        path: Where it is.
        check: Whether the structure of the file is checked first, as it always is.

    Returns:
        `"refused"`, `"runs"`, `"crash"`, `"hang"`, or `"unclear: <error>"`.
    """
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.write(writing, _open(path, check).encode()[:200])
        os._exit(0)
    os.close(writing)
    end = time.monotonic() + SECONDS
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reading)
            return "hang"
        time.sleep(0.002)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    return said if status == 0 and said else "crash"


def _open(path, check):
    from anytime_tflite import AnytimeModel, file, flatbuffer

    if not check:
        flatbuffer.check, file.unlike = lambda content: None, lambda info, signatures: None
    try:
        device = AnytimeModel(path, num_threads=1)
        image = np.zeros(device.input_shape, "float32")
        device.classify(image)
        if "predict" in device._backend.signatures:
            device.predict(image)
    except ValueError as error:
        return "refused" if "`" in str(error) else f"unclear: {error}"
    except Exception as error:
        return f"unclear: {error!r}"
    return "runs"
