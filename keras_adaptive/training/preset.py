"""A folder that is a trained network: what it is made of, weights, policy and card.

`config.json` holds the network as `.keras` files do, with policy, class names and pixel rule;
`model.weights.h5` its weights; `policy.json` the policy once more, for those who only look;
`metadata.json` versions and size; `README.md` a card.
"""

import datetime
import json
from pathlib import Path

import keras

from keras_adaptive import __version__
from keras_adaptive._files import (
    as_path,
    check_new_folder,
    read_json,
    reading,
    whole_folder,
    write_whole,
)

SHIPPED = Path(__file__).parents[1] / "models" / "weights"
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"


def save_to_preset(model, preset_dir):
    """Writes a network as a folder, see `AdaptiveModel.save_to_preset`."""
    folder = as_path(preset_dir, "preset_dir")
    check_new_folder(folder, "preset_dir", "`preset_dir` must be a new or empty folder")
    with whole_folder(folder) as part:
        write_about(model, part, folder.name)
        model.save_weights(part / WEIGHTS)


def write_about(model, folder, name):
    """Writes everything of the preset `name` but its weights."""
    write_config(model, folder)
    metadata = {
        "keras_version": keras.__version__,
        "keras_adaptive_version": __version__,
        "parameter_count": model.count_params(),
        "date_saved": datetime.datetime.now().isoformat(timespec="seconds"),
    }
    write_whole(folder / METADATA, json.dumps(metadata, indent=1) + "\n")
    if model.policy is not None:
        model.policy.save(folder / "policy.json")
    write_whole(folder / "README.md", card(model, name))


def write_config(model, folder):
    """Writes what a network is built from; how it was compiled belongs to a training."""
    config = keras.saving.serialize_keras_object(model)
    for name in ("build_config", "compile_config"):
        config.pop(name, None)
    write_whole(folder / CONFIG, json.dumps(config, separators=(",", ":")) + "\n")


def from_preset(cls, preset, load_weights=True):
    """Returns the network of a folder, see `AdaptiveModel.from_preset`."""
    folder = as_path(preset, "preset")
    if not (folder / CONFIG).is_file():
        folder = SHIPPED / str(preset)
        names = sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))
        if str(preset) not in names:
            raise ValueError(
                "`preset` must be a folder that `save_to_preset` wrote, or one of "
                f"{names}. Received: preset={preset}"
            )
    config = read_json(folder / CONFIG, "`preset`")
    with reading(folder / CONFIG, f"`preset` must hold a network of class {cls.__name__}"):
        model = keras.saving.deserialize_keras_object(config)
        if not isinstance(model, cls):
            raise ValueError(f"a {type(model).__name__}")
    if load_weights:
        with reading(folder / WEIGHTS, "`preset` must hold the weights of its network"):
            model.load_weights(folder / WEIGHTS)
    model.compile()
    return model


def card(model, name):
    """Returns what a network is and how it is opened, in Markdown."""
    macs = model.exit_costs()
    full = macs[-1]
    lines = [
        f"# {model.name}",
        "",
        f"A network with {model.num_exits} exits: it stops at the first one that is confident "
        "enough, so that easy inputs cost less. Made with keras_adaptive.",
        "",
        "```python",
        "import keras_adaptive as ka",
        "",
        f'model = ka.AdaptiveModel.from_preset("{name}")',
        "```",
        "",
        f"- inputs: {', '.join(f'`{i.name}` {i.shape[1:]}, {i.dtype}' for i in model.inputs)}",
        f"- parameters: {model.count_params():,}",
    ]
    if model.class_names:
        lines.append(f"- classes: {', '.join(model.class_names)}")
    if model.preprocessing:
        lines.append(f"- pixels: (pixel / 255 - mean) / std, with {model.preprocessing}")
    if model.policy is not None:
        lines.append(f"- policy: `{model.policy}`")
    lines += ["", "| exit | MACs | of the whole |", "| ---: | ---: | ---: |"]
    lines += [f"| {i} | {cost:,.0f} | {cost / full:.0%} |" for i, cost in enumerate(macs)]
    return "\n".join(lines) + "\n"
