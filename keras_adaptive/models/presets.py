"""Named configurations: a preset fills only what the caller leaves out."""

import functools
import inspect

IMAGENET_FROM = 128  # pixels: the smallest side for which `stem=None` means "imagenet"


def with_presets(presets):
    """Gives a builder the argument `preset`.

    Args:
        presets: Dictionary: name to the arguments it fills.

    Returns:
        A decorator. What the caller gives explicitly wins over the preset, which
        wins over the builder's defaults.
    """

    def decorate(build):
        signature = inspect.signature(build)

        @functools.wraps(build)
        def build_with_preset(*args, **kwargs):
            given = signature.bind_partial(*args, **kwargs).arguments
            preset = given.pop("preset", None)
            if preset is not None and preset not in presets:
                raise ValueError(
                    f"`preset` must be one of {tuple(presets)}. Received: preset={preset}"
                )
            return build(**{**presets.get(preset, {}), **given})

        return build_with_preset

    return decorate


def check_integers(least, **arguments):
    """Raises a ValueError for the first argument that is no integer of at least `least`."""
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(
                f"`{name}` must be an integer of at least {least}. Received: {name}={value}"
            )


def check_choice(choices, **arguments):
    """Raises a ValueError for the first argument that is none of the choices."""
    for name, value in arguments.items():
        if value not in choices:
            raise ValueError(f"`{name}` must be one of {choices}. Received: {name}={value}")


def check_image(input_shape, classes):
    """Raises a ValueError if these are no image shape and number of classes."""
    check_integers(2, classes=classes)
    shape = input_shape
    whole = isinstance(shape, (tuple, list)) and all(
        isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape
    )
    if not whole or len(shape) != 3:
        raise ValueError(
            "`input_shape` must be (height, width, channels), positive integers. "
            f"Received: input_shape={input_shape}"
        )
