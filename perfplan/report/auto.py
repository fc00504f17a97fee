"""What `--schedule auto` adds to a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perfplan.errors import OutOfRange, offer
from perfplan.training.estimate import Estimate

__all__ = ["Extra", "known_schedule", "rescheduled"]


@dataclass(frozen=True)
class Extra:
    """What an option adds to a report: text behind it, fields of its document."""

    text: str
    document: dict[str, Any]


def known_schedule(word: str) -> bool:
    """Whether `--schedule` asks for other schedules; an error if it says neither own nor auto."""
    if word not in ("own", "auto"):
        raise OutOfRange(f"--schedule {word!r} is unknown{offer(word, ('own', 'auto'))}")
    return word == "auto"


def rescheduled(estimates: Sequence[Estimate], wanted: bool) -> Extra:
    """What `plan train --schedule auto` adds to a plan with these layouts."""
    if not wanted:
        return Extra("", {})
    from perfplan.overlap.auto import reschedule
    from perfplan.report.schedule import auto_document, auto_text

    auto = reschedule(estimates)
    return Extra(f"\n\n{auto_text(auto)}", {"schedule": auto_document(auto)})
