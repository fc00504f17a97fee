"""Single values of hand-written files, checked: each function returns the value or says what belongs there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perfplan.errors import BadQuantity, CatalogError, MissingField, OutOfRange, UnknownName, offer

__all__ = ["LARGEST", "choice", "count", "flag", "known_keys", "mapping", "required", "shown", "text", "texts"]

LARGEST = 10**8
"""No width, vocabulary, position or number of experts of a model comes near."""


def known_keys(data: Mapping[Any, Any], keys: tuple[str, ...], where: str) -> None:
    """Fail on the first key of `data` that is not in `keys`, offering the nearest."""
    for key in data:
        if key not in keys:
            raise UnknownName(f"{where} has an unknown field {key!r}{offer(str(key), keys)}")


def required(data: Mapping[str, Any], key: str, where: str) -> Any:
    """`data[key]`, which has to be there."""
    if data.get(key) is None:
        raise MissingField(f"{where} lacks the field {key}")
    return data[key]


def mapping(data: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """`data[key]`, which has to be a mapping."""
    value = required(data, key, where)
    if not isinstance(value, Mapping):
        raise CatalogError(f"{where}, {key} is {shown(value)} where a mapping belongs")
    return value


def text(data: Mapping[str, Any], key: str, where: str) -> str:
    """`data[key]`, which has to be a text with something in it."""
    value = required(data, key, where)
    if not isinstance(value, str) or not value.strip():
        raise CatalogError(f"{where}, {key} is {shown(value)} where a text belongs")
    return value


def texts(data: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """The list of texts at `key`, empty if it is absent."""
    notes = data.get(key, [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise CatalogError(f"{where}, {key} is {shown(notes)} where a list of texts belongs")
    return tuple(notes)


def count(value: Any, where: str, *, zero: bool = False) -> int:
    """A whole number of elements, heads, layers ... within what any model has."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadQuantity(f"{where} is {shown(value)} where a whole number belongs")
    if not (0 if zero else 1) <= value <= LARGEST:
        raise OutOfRange(f"{where} is {value}, outside {0 if zero else 1} to {LARGEST}")
    return value


def flag(value: Any, where: str) -> bool:
    """`value`, which has to be true or false."""
    if not isinstance(value, bool):
        raise BadQuantity(f"{where} is {shown(value)} where true or false belongs")
    return value


def choice(value: Any, choices: tuple[str, ...], where: str) -> str:
    """`value`, which has to be one of `choices`."""
    if value not in choices:
        raise UnknownName(f"{where} is {shown(value)}{offer(str(value), choices)}")
    return str(value)


def shown(value: Any) -> str:
    """`value` as an error message shows it: short."""
    printed = repr(value)
    return printed if len(printed) <= 60 else printed[:57] + "..."
