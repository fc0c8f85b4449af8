"""Keras networks that spend only as much computation as each input needs."""

import importlib
import importlib.util
import sys

import lazy_loader

__version__ = "0.2.0"
# the public names, of __init__.pyi, imported when they are used: no Keras before that
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# The classes that .keras files name, and where they are. Keras opens a file by the names that are
# registered with it, so they are registered when it is imported, whichever comes first.
_REGISTERED = {
    "AdaptiveModel": "training.adaptive_model",
    "BatchNormalization": "layers.batch_normalization",
    "ChannelGate": "layers.channel_gate",
    "CombinedExit": "layers.combined_exit",
    "Distillation": "training.distillation",
    "EarlyExit": "layers.early_exit",
    "EnergyModel": "costs.energy_model",
    "GateLoss": "training.gate_loss",
    "GatedBlock": "layers.gated_block",
    "GradientScale": "layers.gradient_scale",
    "Reinforce": "training.reinforce",
    "RunningMean": "layers.running_mean",
    "SkipGate": "layers.skip_gate",
    "SmoothedCrossentropy": "training._label_smoothing",
    "StoppingLoss": "training.stopping_loss",
    "StoppingModel": "training.stopping_model",
    "StoppingPolicy": "layers.stopping_policy",
    "TensorsAlone": "_graph",
    "UpsampleLike": "models.deeplabv3",
}


class _Late:
    """Stands for a registered class until its module is imported, which registers itself."""

    def __init__(self, name):
        self.name = name

    def from_config(self, config):
        module = importlib.import_module(f"{__name__}.{_REGISTERED[self.name]}")
        return getattr(module, self.name).from_config(config)


def _register(keras):
    known = keras.saving.get_custom_objects()
    for name in _REGISTERED:
        known.setdefault(f"{__name__}>{name}", _Late(name))


class _WhenKerasIsImported:
    """An entry of `sys.meta_path` that registers our classes after Keras was imported."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "keras":
            return None
        sys.meta_path.remove(cls)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                execute(module)
                _register(module)

            spec.loader.exec_module = execute_and_register
        return spec


if "keras" in sys.modules:
    _register(sys.modules["keras"])
else:
    sys.meta_path.insert(0, _WhenKerasIsImported)
