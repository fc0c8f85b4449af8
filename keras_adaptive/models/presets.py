"""Named configurations of the builders; a preset fills only what the caller leaves out."""

import functools
import inspect
from pathlib import Path

import numpy as np

from keras_adaptive.models.pretrained import pretrained, pretrained_names


def with_presets(presets):
    """Gives a builder the arguments `preset` and `weights`.

    Args:
        presets: Dictionary: name to the arguments it fills.

    Returns:
        A decorator. What the caller gives explicitly wins over the preset, which
        wins over the builder's defaults. The name of a trained network as `weights` fills
        all other arguments, and those that are given must be its own.
    """

    def decorate(build):
        signature = inspect.signature(build)
        defaults = {name: p.default for name, p in signature.parameters.items()}

        @functools.wraps(build)
        def build_with_preset(*args, **kwargs):
            given = signature.bind_partial(*args, **kwargs).arguments
            preset = given.pop("preset", None)
            if preset is not None and preset not in presets:
                raise ValueError(
                    f"`preset` must be one of {tuple(presets)}. Received: preset={preset}"
                )
            given = {**presets.get(preset, {}), **given}
            weights = given.get("weights")
            if weights is None or Path(weights).is_file():
                return build(**given)
            own = _trained(weights, build.__name__)
            own = {**defaults, **presets.get(own.get("preset"), {}), **own}
            del own["preset"], given["weights"]
            for name, value in given.items():
                if value is not None and _plain(value) != _plain(own[name]):
                    raise ValueError(
                        f"`{name}` must be left out or be that of the trained network "
                        f"{weights!r}, {own[name]}. Received: {name}={value}"
                    )
            return build(**{**own, "weights": pretrained(weights).weights})

        return build_with_preset

    return decorate


def _trained(weights, builder):
    """Returns the arguments of a trained network that comes with the library."""
    names = [name for name in pretrained_names() if pretrained(name).builder == builder]
    if weights not in names:
        raise ValueError(
            "`weights` must be the path of a .weights.h5 file, or the name of a trained network "
            f"of {builder}, {names}. Received: weights={weights}"
        )
    return pretrained(weights).arguments


def _plain(value):
    return list(value) if isinstance(value, (tuple, list, np.ndarray)) else value
