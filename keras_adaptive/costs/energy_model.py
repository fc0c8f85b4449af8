"""A model of the energy of a layer: arithmetic, and three levels of memory."""

import csv
from dataclasses import dataclass

import keras

from keras_adaptive._checks import finite
from keras_adaptive._files import reading

COLUMNS = ("layer", "main", "cache", "register", "mac")
PRICES = COLUMNS[1:]


@keras.saving.register_keras_serializable(package="keras_adaptive")
@dataclass(frozen=True)
class EnergyModel:
    """Energy of a layer, from its multiply-accumulates and the numbers it moves.

        E = #main * e_main + #cache * e_cache + #register * e_register + #MAC * e_MAC

    The accesses are those of an accelerator that keeps every number it will need again on
    the chip: each input, weight and output goes to or from main memory once; each is read
    from, or written to, the cache once for every `reuse` times it is used; every MAC reads
    two numbers from registers and updates a third. It is a model to compare networks with,
    not a measurement of a device: replace the constants by your own, and the accesses of layers
    by those of a simulator (`from_counts`).

    Args:
        main, cache, register, mac: Numbers, the energy of one access at each level and of
            one MAC, in units of one MAC. The defaults are those of Eyeriss for 16 bits
            (65 nm): DRAM 200, global buffer 6, registers 1.
        reuse: Number, how often a value read from the cache is used in the registers. 16 is
            about the side of Eyeriss's array of 12 x 14.
        counts: Tuple of one tuple per layer: its name, its accesses of the main memory, the cache
            and the registers, and its MACs. They take the place of those above.

    Raises:
        ValueError: If a number is negative or not finite, `reuse` is 0, or `counts` are no such
            tuples.

    Example:

    >>> EnergyModel().energy(macs=1000, moved=10)
    6750.0

    References:
        [Eyeriss (Chen et al., 2016)](https://doi.org/10.1109/ISCA.2016.40), table IV;
        [Dual Dynamic Inference (Wang et al., 2019)](https://arxiv.org/abs/1907.04523),
        equation 6.
    """

    main: float = 200.0
    cache: float = 6.0
    register: float = 1.0
    mac: float = 1.0
    reuse: float = 16.0
    counts: tuple = ()

    def __post_init__(self):
        for name in (*PRICES, "reuse"):
            given = getattr(self, name)
            number = finite(given, name)
            must = "greater than 0" if name == "reuse" else "at least 0"
            if number < 0 or (number == 0 and name == "reuse"):
                raise ValueError(f"`{name}` must be {must}. Received: {name}={given}")
            object.__setattr__(self, name, number)  # the class is frozen
        object.__setattr__(self, "counts", _counts(self.counts))

    @classmethod
    def from_counts(cls, path, **kwargs):
        """Returns a model with the accesses that a simulator of an accelerator has counted.

        Args:
            path: Path of a CSV file with the columns `layer`, `main`, `cache`, `register` and
                `mac`: names of layers, and numbers per sample.
            **kwargs: As in `EnergyModel`.

        Raises:
            ValueError: If the file has other columns, or what it holds are no numbers.
        """
        must = f"`path` must be a CSV file with the columns {', '.join(COLUMNS)}"
        with reading(path, must), open(path, newline="", encoding="utf-8") as file:
            rows = [
                (row["layer"], *(float(row[name]) for name in PRICES))
                for row in csv.DictReader(file)
            ]
        if not rows or not all(0 <= n < float("inf") for _, *row in rows for n in row):
            raise ValueError(f"{must}, of finite numbers of at least 0. Received: path={path}")
        return cls(counts=tuple(rows), **kwargs)

    def get_config(self):
        prices = {name: getattr(self, name) for name in (*PRICES, "reuse")}
        return {**prices, "counts": [list(row) for row in self.counts]}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def energy_counted(self, layer):
        """Returns the energy of a layer by its counted accesses, `None` where none are given.

        Args:
            layer: String, its name.
        """
        for name, main, cache, register, mac in self.counts:
            if name == layer:
                return (
                    main * self.main
                    + cache * self.cache
                    + register * self.register
                    + mac * self.mac
                )
        return None

    def energy(self, macs, moved):
        """Returns the energy of a layer.

        Args:
            macs: Its multiply-accumulates.
            moved: Its inputs, weights and outputs, in numbers.
        """
        through_cache = 2 * macs / self.reuse
        return float(
            moved * self.main
            + through_cache * self.cache
            + 3 * macs * self.register
            + macs * self.mac
        )


def _counts(rows):
    """Returns the rows of accesses as tuples of a name and Python's own numbers."""
    try:
        found = tuple((name, *(finite(n, "counts") for n in counts)) for name, *counts in rows)
        fits = all(len(row) == len(COLUMNS) and isinstance(row[0], str) for row in found)
        fits = fits and all(n >= 0 for _, *counts in found for n in counts)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"`counts` must be tuples ({', '.join(COLUMNS)}) of a name and finite numbers of at "
            f"least 0. Received: counts={rows}"
        )
    return found
