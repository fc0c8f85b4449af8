"""The one thing that setup.cfg cannot say: where the wheel keeps its copy of anytime_tflite.

anytime_tflite is a package of its own too (tflite/python). Were its folder at the top of this
wheel as well, two packages would own the same files, and removing one would break the other. So
the copy goes to `keras_adaptive/_bundled`, which a .pth file appends to `sys.path`: a package that
is installed on its own comes first there. An editable install needs none of this.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildPy(build_py):
    def run(self):
        super().run()
        if self.editable_mode:
            return
        root = Path(self.build_lib)
        bundled = root / "keras_adaptive" / "_bundled"
        shutil.rmtree(bundled, ignore_errors=True)  # of an earlier build
        bundled.mkdir(parents=True)
        shutil.move(root / "anytime_tflite", bundled)
        (root / "keras_adaptive_bundled.pth").write_text("keras_adaptive/_bundled\n")


setup(cmdclass={"build_py": BuildPy})
