"""Checks the inputs of a network and brings them into the form that it takes."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from anytime_tflite.rule import Array

_FAR = 10  # times the range from black to white

Image = ArrayLike | Mapping[str, ArrayLike]
"""An array of the network's input, or of each of its inputs by name."""


class WrongTypeError(TypeError, ValueError):
    """An argument is of a type that cannot be meant."""


class Inputs:
    """What a network takes.

    Args:
        shapes: Dictionary: name of each input to its shape, without the batch, and its dtype.
        preprocessing: `{"mean", "std"}`, how uint8 pixels become floats; or `None`.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[tuple[int, ...], Any]],
        preprocessing: Mapping[str, list[float]] | None,
    ) -> None:
        self.shapes = shapes
        self._mean = self._std = None
        self._range: tuple[float, float] | None = None
        if preprocessing is not None:
            mean, std = (np.asarray(preprocessing[key]) for key in ("mean", "std"))
            self._mean, self._std = mean.astype("float32"), std.astype("float32")
            # Pixels become numbers between those of black and white. Floats may go beyond, but
            # not by many times that range, as do pixels that were not standardized.
            black, white = (-mean / std).min(), ((1 - mean) / std).max()
            margin = _FAR * (white - black)
            self._range = float(black - margin), float(white + margin)

    def named(self, image: Any, called: str) -> dict[str, Any]:
        """Returns what is given for each input, by name, in the network's order.

        Args:
            image: Array of the only input, or a dictionary of all.
            called: String, what errors call it.
        """
        if isinstance(image, Mapping):
            if set(image) != set(self.shapes):
                raise ValueError(
                    f"`{called}` must be a dictionary of {sorted(self.shapes)}. "
                    f"Received: one of {sorted(map(str, image))}"
                )
            return {name: image[name] for name in self.shapes}
        if len(self.shapes) > 1:
            raise WrongTypeError(
                f"`{called}` must be a dictionary of the inputs {sorted(self.shapes)}. "
                f"Received: a {type(image).__name__}"
            )
        return dict.fromkeys(self.shapes, image)

    def one(self, image: Image, called: str = "image") -> dict[str, Array]:
        """Returns the network's inputs by name, each a batch of one."""
        return {
            name: self._checked(name, given, self.called(called, name), ())[None]
            for name, given in self.named(image, called).items()
        }

    def batch(self, arrays: Mapping[str, Any], called: str) -> dict[str, Array]:
        """Returns the network's inputs by name, of arrays that are batches of one size."""
        return {
            name: self._checked(name, given, self.called(called, name), given.shape[:1])
            for name, given in arrays.items()
        }

    def sliced(self, x: Any) -> dict[str, Any] | None:
        """Returns what holds the samples of each input, by name; `None`: it must be iterated."""
        if isinstance(x, Mapping):
            return self.named(x, "x")
        if self._in_order(x):
            return dict(zip(self.shapes, x, strict=True))
        if hasattr(x, "shape") and hasattr(x, "__getitem__"):
            return self.named(x, "x")
        if isinstance(x, str | bytes) or not isinstance(x, Iterable):
            raise WrongTypeError(
                "`x` must be an array, arrays of every input, or an iterable of samples or "
                f"batches. Received: a {type(x).__name__}"
            )
        return None

    def read(self, arrays: Mapping[str, Any], samples: slice) -> dict[str, Array]:
        """Returns some of the samples of what can be sliced."""
        return {
            name: as_array(array[samples], self.called("x", name)) for name, array in arrays.items()
        }

    def count(self, arrays: dict[str, Any]) -> int:
        """Returns how many samples there are, which must be as many for every input."""
        for name, array in arrays.items():
            if not hasattr(array, "shape"):
                arrays[name] = array = as_array(array, self.called("x", name))
            shape = self.shapes[name][0]
            if len(array.shape) != 1 + len(shape) or tuple(array.shape[1:]) != shape:
                sizes = "".join(f", {size}" for size in shape)
                raise ValueError(
                    f"{self.called('x', name)} must be of shape (samples{sizes}). "
                    f"Received: shape {tuple(array.shape)}"
                )
        total = _same_count(arrays, "x")
        if not total:
            raise ValueError("`x` must hold at least one sample. Received: none")
        return total

    def item(self, item: Any, number: int) -> tuple[dict[str, Any], bool]:
        """Returns what an iterable gave for each input, and whether it is one sample.

        Args:
            item: A sample or a batch, or a tuple that begins with one.
            number: Integer, the number of its first sample.
        """
        called = f"x[{number}]"
        if self._in_order(item):
            item = dict(zip(self.shapes, item, strict=True))
        elif isinstance(item, tuple) and item:
            item = item[0]
            if self._in_order(item):
                item = dict(zip(self.shapes, item, strict=True))
        arrays = {
            name: as_array(given, self.called(called, name))
            for name, given in self.named(item, called).items()
        }
        more = {array.ndim - len(self.shapes[name][0]) for name, array in arrays.items()}
        if more == {0}:
            return arrays, True
        if more != {1}:
            shapes = {name: array.shape for name, array in arrays.items()}
            raise ValueError(
                f"`{called}` must be a sample or a batch of them, each of shape "
                f"{ {name: shape for name, (shape, _) in self.shapes.items()} }. "
                f"Received: {shapes}"
            )
        _same_count(arrays, called)
        return arrays, False

    def _in_order(self, x: Any) -> bool:
        """Returns whether `x` gives every input of a network with several, in their order."""
        several = len(self.shapes) > 1
        fits = several and isinstance(x, list | tuple) and len(x) == len(self.shapes)
        return fits and not any(isinstance(one, Mapping | list | tuple) for one in x)

    def called(self, called: str, name: str) -> str:
        """Returns what errors call an input."""
        return f"`{called}`" if len(self.shapes) == 1 else f"`{called}[{name!r}]`"

    def _checked(self, name: str, image: ArrayLike, called: str, samples: tuple[int, ...]) -> Array:
        """Returns an input in the shape and the dtype that the network takes."""
        shape, dtype = self.shapes[name]
        shape = (*samples, *shape)
        array = as_array(image, called)
        if array.shape != shape:
            raise ValueError(f"{called} must be of shape {shape}. Received: shape {array.shape}")
        if dtype.kind != "f":
            return _as_integers(array, dtype, called)
        if array.dtype == np.uint8:
            if self._mean is None:
                raise ValueError(
                    f"{called} must be of floats: the file does not say how pixels are "
                    "standardized. Received: dtype uint8"
                )
            array = array.astype("float32")
            array /= np.float32(255)
            array -= self._mean
            array /= self._std
        elif array.dtype.kind != "f":
            raise ValueError(f"{called} must be of uint8 or floats. Received: dtype {array.dtype}")
        else:
            with np.errstate(over="ignore"):  # what is too large becomes infinite
                array = np.asarray(array, dtype)
            low, high = float(array.min()), float(array.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise ValueError(
                    f"{called} must be finite in {dtype}. Received: NaN or infinite values"
                )
            if self._range is not None and not self._range[0] <= low <= high <= self._range[1]:
                raise ValueError(
                    f"{called} must be pixels of uint8, or floats standardized as the file says. "
                    f"Received: floats from {low:g} to {high:g}, which no pixel becomes"
                )
        return np.asarray(array, dtype, order="C")


def as_array(given: Any, called: str) -> Array:
    """Returns an array; `called` is what errors call it."""
    if isinstance(given, np.ma.MaskedArray):
        raise ValueError(f"{called} must be without a mask. Received: a masked array")
    try:
        return np.asarray(given)
    except ValueError as error:  # rows of different length
        raise ValueError(f"{called} must be an array. Received: {error}") from error


def _same_count(arrays: Mapping[str, Any], called: str) -> int:
    """Returns how many samples there are, of every input the same."""
    counts = {name: int(array.shape[0]) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"`{called}` must hold as many samples for each input. Received: {counts}")
    return next(iter(counts.values()))


def _as_integers(array: Array, dtype: Any, called: str) -> Array:
    """Returns integers, or booleans, in the dtype of the network's input."""
    if dtype.kind == "b":
        if array.dtype != dtype:
            raise ValueError(f"{called} must be of booleans. Received: dtype {array.dtype}")
        return np.asarray(array, order="C")
    limits = np.iinfo(dtype)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{called} must be of integers, {dtype}. Received: dtype {array.dtype}")
    if array.size and not limits.min <= array.min() <= array.max() <= limits.max:
        raise ValueError(
            f"{called} must be of integers that {dtype} holds. Received: {array.min()} to "
            f"{array.max()}"
        )
    return np.asarray(array, dtype, order="C")
