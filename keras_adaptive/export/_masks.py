"""Masks in int8 files: what closes a place of attention must not take the range of the others."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

FAR = -1e4  # below this, a constant is there to close a place: exp of it is 0
CLOSED = -20.0  # what it becomes: exp of it is 2e-9, and 256 levels still tell scores apart
THROUGH = {"Identity", "Cast"}  # between a constant and what reads it
READERS = {"Select", "SelectV2", "Mul", "Add", "AddV2", "BiasAdd"}
ALONG = {"Identity", "ExpandDims", "Reshape", "Sum"}  # between a mask and how many it leaves open


def fit_masks(folder):
    """Writes a SavedModel again, in which masks are such that int8 can compute with them.

    Keras masks scores of attention by -1e9, or by a number near the least float, which a softmax
    turns into 0. In int8 one scale serves masked and open scores: all open ones would be equal, and
    attention uniform. With -20 the scale is a tenth.

    A mean over what a mask leaves open is divided by how many that are. Where it is none, that is
    NaN in floats, and in int8 the interpreter ends with an error: it is divided by at least 1.

    Args:
        folder: Path of the SavedModel.

    Returns:
        Integer, how many places were changed.
    """
    path, found = Path(folder) / "saved_model.pb", 0
    saved = SavedModel.FromString(path.read_bytes())
    for graph in (meta.graph_def for meta in saved.meta_graphs):
        for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
            found += _near(nodes)
        for function in graph.library.function:
            found += _never_by_zero(function.node_def)
    if found:
        path.write_bytes(saved.SerializeToString())
    return found


def _near(nodes):
    """Changes the constants that close, in one graph; returns how many."""
    readers = {}
    for node in nodes:
        for name in node.input:
            if not name.startswith("^"):
                readers.setdefault(name.partition(":")[0], []).append(node)
    found = 0
    for node in nodes:
        if node.op != "Const" or not tf.as_dtype(node.attr["dtype"].type).is_floating:
            continue
        values = tf.make_ndarray(node.attr["value"].tensor)
        if values.size and values.max() <= 0 and values.min() < FAR and _masks(node.name, readers):
            near = np.maximum(values, values.dtype.type(CLOSED))
            near = tf.make_tensor_proto(near, values.dtype, values.shape)
            node.attr["value"].tensor.CopyFrom(near)
            found += 1
    return found


def _masks(name, readers):
    """Returns whether all that reads a tensor may be a mask's."""
    nodes = readers.get(name, [])
    return bool(nodes) and all(
        node.op in READERS or (node.op in THROUGH and _masks(node.name, readers)) for node in nodes
    )


def _never_by_zero(nodes):
    """Changes divisions by how many a mask leaves open, in one function; returns how many."""
    made, found = {node.name: node for node in nodes}, 0
    for node in list(nodes):
        if node.op not in ("RealDiv", "DivNoNan") or not _counts(node.input[1], made):
            continue
        kind = node.attr["T"].type
        one = nodes.add(name=f"{node.name}/one", op="Const")
        one.attr["dtype"].type = kind
        one.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(1, kind))
        most = nodes.add(name=f"{node.name}/at_least_one", op="Maximum")
        most.attr["T"].type = kind
        most.input.extend([node.input[1], f"{one.name}:output:0"])
        node.input[1] = f"{most.name}:z:0"
        found += 1
    return found


def _counts(name, made):
    """Returns whether a tensor is the sum of a mask."""
    node, summed = made.get(name.partition(":")[0]), False
    while node is not None and node.op in ALONG:
        summed |= node.op == "Sum"
        node = made.get(node.input[0].partition(":")[0])
    is_mask = node is not None and node.op == "Cast" and node.attr["SrcT"].type == tf.bool
    return summed and is_mask
