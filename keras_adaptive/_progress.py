"""Progress bars of work that may take long."""

from tqdm import tqdm

LONG = 2  # seconds after which a progress bar appears


def progress(items=None, *, unit, total=None, desc=None, silent=False):
    """Returns a progress bar that appears after two seconds and goes when it is done.

    Args:
        items: Iterable to go through; `None`: the caller calls `update`.
        unit: String, what is counted.
        total: Integer, how many there are. `None`: as many as `items` says.
        desc: String, what is being done.
        silent: Boolean, whether there is none.
    """
    return tqdm(items, desc=desc, total=total, unit=unit, delay=LONG, leave=False, disable=silent)
