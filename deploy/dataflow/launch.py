"""What the flex template starts: `xinst run`, with the recipe as a flag.

Everything else is passed on, so the template takes what the command takes.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from beam_pipelines import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Submits one job.

    Returns:
      0, or 1 where it could not be done, with the reason on standard error.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--recipe", required=True, help="on any filesystem of Beam's")
    options, rest = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "recipe.toml"
        with FileSystems.open(options.recipe) as stream:
            copy.write_bytes(stream.read())
        return cli.main(["run", str(copy), *rest])


if __name__ == "__main__":
    sys.exit(main())
