"""Launch flags as text and JSON: those written for a layout, and what was made of a user's own."""

from __future__ import annotations

from typing import Any

from perfplan.export.flags import LaunchFlags
from perfplan.export.launched import Launched
from perfplan.export.line import Line
from perfplan.export.served import Served
from perfplan.report.text import paragraph

__all__ = ["flags_document", "flags_text", "read_document", "read_text", "served_text"]


def flags_text(flags: LaunchFlags) -> str:
    """The flags of a layout, ready to be pasted, and what they leave out."""
    table = flags.launcher
    remarks = [paragraph(f"no flag of {table.name} for: {', '.join(flags.unmapped)}")] if flags.unmapped else []
    head = f"launch flags for {table.name}, {table.release}"
    return "\n".join([head, flags.text, *remarks, *(paragraph(f"note: {note}") for note in flags.notes)])


def flags_document(flags: LaunchFlags) -> dict[str, Any]:
    """The flags under machine names."""
    return {"framework": flags.launcher.id, "release": flags.launcher.release, "flags": flags.text,
            "unmapped": flags.unmapped, "notes": flags.notes}


def read_text(read: Launched) -> str:
    """What was understood of a launch line, and what was not."""
    line, said = read.line, read.model.id
    own = f"the model of its flags, {len(read.model.layers)} layers" if said == f"{read.launcher.id}-line" else said
    batch = f"global batch {read.arguments['global_batch']}"
    batch += f" x {read.seq_len} tokens" if read.seq_len else ""
    off = ", ".join(read.overlap)
    return _said(
        line, f"read from the {read.launcher.id} line: {read.layout}; {own}; {batch}; precision {read.recipe.id}",
        f"overlap that it does not switch on: {off}" if off else "",
        "dropout is on, as it is unless the line sets --hidden-dropout 0" if read.dropout else "")


def served_text(read: Served) -> str:
    """What was understood of a serving launch line, and what was not."""
    limits = [f"{name.replace('_', ' ')} {value:g}" for name, value in read.limits.items()]
    limits += [f"requests of at most {read.length} tokens"] if read.length else []
    parts = [str(read.layout), read.model, f"weights in {read.weights or 'the format of the checkpoint'}",
             f"cache in {read.kv}" if read.kv else "", *limits, f"role {read.role}, priced as one pool of both"
             if read.role else ""]
    return _said(read.line, f"read from the {read.launcher.id} line: {'; '.join(part for part in parts if part)}")


def _said(line: Line, head: str, *more: str) -> str:
    """What was made of a line: head, what was understood, `more` about it, what was not."""
    blocks = [
        head, f"understood ({len(line.understood)}): {' '.join(line.understood) or 'nothing'}", *more,
        f"without effect on time or memory: {' '.join(line.ignored)}" if line.ignored else "",
        *(f"NOT priced: {flag}: {why}" for flag, why in line.unmodelled),
        *(f"NOT understood, ignored: {flag}{_near(near)}" for flag, near in line.unknown),
        f"words that are no flags: {' '.join(line.words)}" if line.words else "",
    ]
    return "\n".join(paragraph(block) for block in blocks if block)


def _near(names: tuple[str, ...]) -> str:
    return f" (nearest known: {', '.join(names)})" if names else ""


def read_document(read: Launched | Served) -> dict[str, Any]:
    """What was made of a launch line, under machine names."""
    line = read.line
    own = ({"overlap": read.overlap} if isinstance(read, Launched) else
           {"model": read.model, "weights": read.weights, "kv": read.kv, "length": read.length, "role": read.role,
            **read.limits})
    return {"framework": read.launcher.id, "layout": str(read.layout), "understood": line.understood,
            "without_effect": line.ignored, "not_priced": [" ".join(pair[:1]) for pair in line.unmodelled],
            "not_understood": [flag for flag, _ in line.unknown], "words": line.words, **own}
