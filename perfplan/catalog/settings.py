"""`--set accelerator.memory=96GiB`: overrides written into the raw data of an entry before it is checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from perfplan.catalog.files import FOLDERS, parse_yaml
from perfplan.errors import CatalogError, UnknownName, offer

__all__ = ["Setting", "apply", "read_settings"]

INFORMATION = {"cluster": ("topology", "rails")}
"""Fields that tell a reader what stands there and change no price, by kind of entry."""


@dataclass(frozen=True)
class Setting:
    """One override: the kind of entry, the path of fields inside it, and the text of the new value."""

    kind: str
    path: tuple[str, ...]
    value: str

    def __str__(self) -> str:
        """As the user wrote it."""
        return f"{self.kind}.{'.'.join(self.path)}={self.value}"


def read_settings(texts: Iterable[str]) -> tuple[Setting, ...]:
    """Parse texts like "cluster.levels.0.bandwidth=400GB/s".

    >>> read_settings(["accelerator.memory=96GiB"])[0].path
    ('memory',)
    """
    return tuple(_read(text) for text in texts)


def _read(text: str) -> Setting:
    path, equals, value = text.partition("=")
    kind, *fields = path.strip().split(".")
    if not equals or not fields or not all(fields) or not value.strip():
        raise CatalogError(f"setting {text!r} is not of the form kind.field=value, such as accelerator.memory=96GiB")
    if kind not in FOLDERS:
        raise UnknownName(f"setting {text!r}: there is no kind {kind!r}{offer(kind, FOLDERS)}")
    return Setting(kind, tuple(fields), value.strip())


def apply(data: Mapping[str, Any], settings: Iterable[Setting], fields: Sequence[str]) -> dict[str, Any]:
    """A copy of raw entry `data` with `settings` written in; `fields` are the names known at the top.

    The value's own check comes with the schema afterwards. Raises UnknownName naming the nearest field.
    """
    changed = deepcopy(dict(data))
    for setting in settings:
        _write(changed, setting, fields)
        if isinstance(changed.get("sources"), dict):
            changed["sources"][".".join(setting.path)] = "set by the user"
    return changed


def _write(data: dict[str, Any], setting: Setting, fields: Sequence[str]) -> None:
    if fields and setting.path[0] not in fields:
        raise UnknownName(f"setting {setting}: no {setting.kind} has a field {setting.path[0]!r}"
                          f"{offer(setting.path[0], fields)}")
    place: Any = data
    for step in setting.path[:-1]:
        place = _enter(place, step, setting)
    last = setting.path[-1]
    if last in INFORMATION.get(setting.kind, ()):
        raise CatalogError(f"setting {setting}: {last} is information and changes no price; set the level's bandwidth,"
                           " its efficiency, or the dims of a torus")
    if isinstance(place, list):
        place[_position(place, last, setting)] = _value(setting)
    elif isinstance(place, dict):
        place[_key(place, last)] = _value(setting)
    else:
        raise UnknownName(f"setting {setting}: {'.'.join(setting.path[:-1])} has no fields of its own")


def _value(setting: Setting) -> Any:
    try:
        return parse_yaml(setting.value)
    except CatalogError as error:
        raise CatalogError(f"setting {setting}: {error}") from error


def _enter(place: Any, step: str, setting: Setting) -> Any:
    if isinstance(place, list):
        return place[_position(place, step, setting)]
    if isinstance(place, dict) and _key(place, step) in place:
        return place[_key(place, step)]
    if isinstance(place, dict):
        raise UnknownName(f"setting {setting}: there is no field {step!r} here{offer(step, map(str, place))}")
    raise UnknownName(f"setting {setting}: {step!r} lies inside a plain value")


def _key(place: dict[Any, Any], step: str) -> Any:
    return next((key for key in place if str(key) == step), step)


def _position(place: list[Any], step: str, setting: Setting) -> int:
    """Index of a list element, given as number or by the element's name."""
    names = [str(item.get("name", "")) if isinstance(item, dict) else "" for item in place]
    if step in names:
        return names.index(step)
    if step.isdecimal() and int(step) < len(place):
        return int(step)
    known = [*(str(i) for i in range(len(place))), *filter(None, names)]
    raise UnknownName(f"setting {setting}: there is no element {step!r}; there are {', '.join(known)}")
