"""The records of TFRecord files: `tf.train.Example`, without TensorFlow."""

import functools

import numpy as np

from keras_adaptive._checks import needs_extra


def features_of(record):
    """Returns the features of a record by name: lists of bytes, or arrays of numbers.

    Raises:
        ValueError: If it is no `tf.train.Example`.
    """
    example, error = _messages()
    try:
        found = example.FromString(record).features.feature
    except error as problem:
        raise ValueError("it is no tf.train.Example") from problem
    features = {}
    for name, feature in found.items():
        kind = feature.WhichOneof("kind")
        if kind == "bytes_list":
            features[name] = list(feature.bytes_list.value)
        elif kind == "float_list":
            features[name] = np.array(feature.float_list.value, np.float32)
        elif kind == "int64_list":
            features[name] = np.array(feature.int64_list.value, np.int64)
    return features


@functools.cache
def _messages():
    """Returns the class of a record, in a pool of its own: TensorFlow's may be loaded too."""
    with needs_extra("beam"):
        from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="example.proto", package="tensorflow", syntax="proto3"
    )

    def add(name, *fields, inside=None):
        added = (file.message_type if inside is None else inside.nested_type).add(name=name)
        for number, (called, kind, label, *of) in enumerate(fields, 1):
            added.field.add(
                name=called, number=number, type=kind, label=label, **(of[0] if of else {})
            )
        return added

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    add("BytesList", ("value", field.TYPE_BYTES, many))
    add("FloatList", ("value", field.TYPE_FLOAT, many))
    add("Int64List", ("value", field.TYPE_INT64, many))
    lists = {"bytes_list": "BytesList", "float_list": "FloatList", "int64_list": "Int64List"}
    kinds = [
        (name, field.TYPE_MESSAGE, one, {"type_name": f".tensorflow.{of}", "oneof_index": 0})
        for name, of in lists.items()
    ]
    add("Feature", *kinds).oneof_decl.add(name="kind")
    entry = {"type_name": ".tensorflow.Features.FeatureEntry"}
    features = add("Features", ("feature", field.TYPE_MESSAGE, many, entry))
    of_entry = {"type_name": ".tensorflow.Feature"}
    pair = (("key", field.TYPE_STRING, one), ("value", field.TYPE_MESSAGE, one, of_entry))
    add("FeatureEntry", *pair, inside=features).options.map_entry = True
    of_example = {"type_name": ".tensorflow.Features"}
    add("Example", ("features", field.TYPE_MESSAGE, one, of_example))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("tensorflow.Example")
    return message_factory.GetMessageClass(found), message.DecodeError
