"""A model of the energy of a layer: arithmetic, and three levels of memory."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EnergyModel:
    """Energy of a layer, from its multiply-accumulates and the numbers it moves.

        E = #main * e_main + #cache * e_cache + #register * e_register + #MAC * e_MAC

    The accesses are those of an accelerator that keeps every number it will need again on
    the chip: each input, weight and output goes to or from main memory once; each is read
    from, or written to, the cache once for every `reuse` times it is used; every MAC reads
    two numbers from registers and updates a third. It is a model to compare networks with,
    not a measurement of a device: replace the constants by your own.

    Args:
        main, cache, register, mac: Numbers, the energy of one access at each level and of
            one MAC, in units of one MAC. The defaults are those of Eyeriss for 16 bits
            (65 nm): DRAM 200, global buffer 6, registers 1.
        reuse: Number, how often a value read from the cache is used in the registers. 16 is
            about the side of Eyeriss's array of 12 x 14.

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
