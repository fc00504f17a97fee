"""Puts the top-level `catalogs/` into the wheel as `perfplan/_catalogs`; everything else stands in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithCatalogs(build_py):
    """An editable install finds `catalogs/` beside the package, a wheel carries its own copy."""

    def run(self) -> None:
        """Build the package and copy the catalogs into it."""
        super().run()
        if not self.editable_mode:
            copy = Path(self.build_lib, "perfplan", "_catalogs")
            shutil.rmtree(copy, ignore_errors=True)  # an earlier build may have left files that are gone since
            shutil.copytree("catalogs", copy)


setup(cmdclass={"build_py": BuildWithCatalogs})
