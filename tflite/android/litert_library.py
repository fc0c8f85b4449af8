"""Prints the path of LiteRT's library, `libLiteRt.so`, for programs on a JVM.

The functions of the library have other arguments in other versions, under the same names, and
calling them wrongly ends the program. So it must be of the version that is tried: that of this
environment, or else one that is fetched into `target/`.
"""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

VERSION = "2.3.0"
FOLDER = Path(__file__).parent / "target" / f"litert-{VERSION}"


def find() -> Path:
    """Returns the path of the library."""
    try:
        distribution = metadata.distribution("ai-edge-litert")
        if distribution.version == VERSION:
            return Path(str(distribution.locate_file("ai_edge_litert/libLiteRt.so")))
    except metadata.PackageNotFoundError:
        pass
    path = FOLDER / "ai_edge_litert" / "libLiteRt.so"
    if not path.is_file():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run(
            [*command, "--target", str(FOLDER), f"ai-edge-litert=={VERSION}"],
            check=True,
            stdout=sys.stderr,
        )
    return path


if __name__ == "__main__":
    print(find())
