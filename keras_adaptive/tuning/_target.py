"""The objective of a search: accuracy within a budget, or cost at an accuracy."""

from keras_adaptive._checks import finite


def target_of(budget, accuracy):
    """Returns the name and the value of whichever of the two is given."""
    given = {"budget": budget, "accuracy": accuracy}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) != 1:
        raise ValueError(
            "Exactly one of `budget` and `accuracy` must be given. "
            f"Received: {' and '.join(given) or 'none'}"
        )
    ((kind, value),) = given.items()
    return kind, finite(value, kind)
