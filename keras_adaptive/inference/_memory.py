"""Aligned memory, and copies of rows of a batch."""

import functools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

LARGE = 1 << 20  # bytes; copying more than this is shared among threads
THREADS = min(4, os.cpu_count() or 1)
ALIGNMENT = 64  # bytes; what TensorFlow needs to read our memory without copying it


def aligned(shape, dtype):
    """Returns an empty array that TensorFlow can read in place."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, "uint8")
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def is_aligned(array):
    address = array.__array_interface__["data"][0]  # `ctypes.data` takes four times as long
    return array.flags.c_contiguous and address % ALIGNMENT == 0


@functools.cache
def _threads():
    return ThreadPoolExecutor(THREADS)


def copy_rows(source, rows, target):
    """Copies some rows of an array to another: `target[...] = source[rows]`."""
    source = np.asarray(source)
    parts = THREADS if target.nbytes > LARGE else 1
    if parts == 1:
        np.take(source, rows, axis=0, out=target, mode="clip")
        return
    cuts = [len(rows) * i // parts for i in range(parts + 1)]
    copies = [
        _threads().submit(np.take, source, rows[a:b], 0, target[a:b], "clip")
        for a, b in zip(cuts[:-1], cuts[1:], strict=True)
    ]
    for copy in copies:
        copy.result()
