"""Augmentation of training images: what is done follows from three integers per image."""

import tensorflow as tf

PAD = 4  # pixels of a 32-pixel image, and in proportion


def pad_crop_flip(images, draws, flips):
    """Pads images with zeros, crops them at random, and mirrors half of them.

    Args:
        images: uint8 tensor `(batch, height, width, channels)`.
        draws: int32 tensor `(batch, 3)`, random over the whole range: the crop's row, its
            column, and whether it is mirrored.
        flips: Boolean, whether any image is mirrored.

    Returns:
        uint8 tensor of the same shape.
    """
    height, width = images.shape[1:3]
    below, beside = (round(PAD * n / 32) for n in (height, width))
    images = tf.pad(images, [[0, 0], [below, below], [beside, beside], [0, 0]])
    rows = tf.range(height) + tf.math.floormod(draws[:, :1], 2 * below + 1)
    columns = tf.range(width)[tf.newaxis]
    if flips:
        columns = tf.where(draws[:, 2:] < 0, width - 1 - columns, columns)
    columns += tf.math.floormod(draws[:, 1:2], 2 * beside + 1)
    images = tf.gather(images, rows, axis=1, batch_dims=1)
    return tf.gather(images, columns, axis=2, batch_dims=1)


def resized_crop_flip(image, draw, size, flips):
    """Resizes a random part of an image, of 8 to 100 % of its area, and mirrors half of them.

    Args:
        image: uint8 tensor `(height, width, channels)`.
        draw: int32 tensor `(3,)`, random over the whole range: two for the part, one for
            whether it is mirrored.
        size: `(height, width)` of the result.
        flips: Boolean, whether any image is mirrored.

    Returns:
        uint8 tensor `(*size, channels)`.
    """
    begin, part, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros((1, 0, 4)),
        seed=draw[:2],
        area_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        use_image_if_no_bounding_boxes=True,
    )
    channels = image.shape[-1]
    image = tf.cast(tf.round(tf.image.resize(tf.slice(image, begin, part), size)), tf.uint8)
    if flips:
        image = tf.cond(draw[2] < 0, lambda: tf.reverse(image, [1]), lambda: image)
    return tf.ensure_shape(image, (*size, channels))
