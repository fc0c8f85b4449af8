"""Keras networks that spend only as much computation as each input needs."""

import importlib
import importlib.util
import sys

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # __init__.pyi
__all__ += ["__version__"]


class _AfterKeras:
    """Registers our classes when Keras has been imported, so that it opens files of ours.

    Importing this package loads neither Keras nor TensorFlow. But `keras.saving.load_model`
    finds classes by registered name, which must work whichever of the two came first.
    """

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
                _register()

            spec.loader.exec_module = execute_and_register
        return spec


def _register():
    for name in ("layers", "training", "models.deeplabv3"):
        importlib.import_module(f"{__name__}.{name}")


if "keras" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _AfterKeras)
