"""The measuring script as text: the module `measure` is the script, so that what is printed is what is tested."""

from __future__ import annotations

from importlib import resources

__all__ = ["measuring_script"]


def measuring_script() -> str:
    """A self-contained Python script that writes measurements in the schema that `calibrate` reads."""
    return resources.files("perfplan.calibration").joinpath("measure.py").read_text(encoding="utf-8")
