"""Options that several commands share, declared once as the parameters of an ordinary function.

    def pair(one: One = "", other: Other = "") -> tuple[str, str]: ...

    @grouped
    def command(name: Name, pair: Annotated[Any, Group(pair)]) -> None: ...

The command line then has `--one` and `--other` in the place of `pair`, and the command is given what the function
makes of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

__all__ = ["Group", "grouped"]


@dataclass(frozen=True)
class Group:
    """Marks a parameter that stands for options. make: its parameters are the options, its result the argument."""

    make: Callable[..., Any]


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the options of each group in the place of the parameter that stands for it."""
    makers: dict[str, tuple[Callable[..., Any], list[str]]] = {}
    options: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        marks = getattr(parameter.annotation, "__metadata__", ())
        group = next((mark for mark in marks if isinstance(mark, Group)), None)
        own = list(inspect.signature(group.make, eval_str=True).parameters.values()) if group else [parameter]
        options += own
        if group:
            makers[parameter.name] = group.make, [option.name for option in own]

    @wraps(command)
    def call(**given: Any) -> Any:
        for name, (make, names) in makers.items():
            given[name] = make(**{option: given.pop(option) for option in names})
        return command(**given)

    named = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
    call.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    call.__annotations__ = {option.name: option.annotation for option in options}
    return call
