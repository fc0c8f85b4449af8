"""Channels come last, everywhere."""

import keras


def check_channels_last():
    """Raises an error where Keras is set to put the channels of an image first."""
    data_format = keras.config.image_data_format()
    if data_format != "channels_last":
        raise ValueError(
            "`keras.config.image_data_format()` must be 'channels_last': networks and layers "
            "here take (batch, height, width, channels). Call "
            "keras.config.set_image_data_format('channels_last') first. "
            f"Received: {data_format!r}"
        )
