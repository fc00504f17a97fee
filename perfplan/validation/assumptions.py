"""What is assumed where a measurement is silent: numbers of catalogs/measurements/assumptions.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from perfplan.catalog.files import packaged_root, read_yaml
from perfplan.errors import MissingField

__all__ = ["assumed"]


@cache
def assumed(name: str) -> int:
    """The number assumed for `name`, in the unit that the file states; MissingField if there is none."""
    entry = read_yaml(packaged_root() / "measurements" / "assumptions.yaml").get(name)
    if not isinstance(entry, Mapping) or not isinstance(entry.get("value"), int):
        raise MissingField(f"measurements/assumptions.yaml lacks {name}.value")
    return int(entry["value"])
