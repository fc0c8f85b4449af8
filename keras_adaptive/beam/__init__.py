"""Scoring beyond one machine, on Apache Beam: the exported file is the unit of work.

Importing it loads neither Keras nor TensorFlow, and neither do the workers.
"""

import lazy_loader

# the names of __init__.pyi, imported when they are used: `score` needs no Beam in one process
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
