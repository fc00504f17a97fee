"""`--from`: a user's own launch line, read once for every command that takes it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perfplan.catalog import Catalog
    from perfplan.export.flags import LaunchFlags
    from perfplan.export.launched import Launched
    from perfplan.training.estimate import Estimate

__all__ = ["Shown", "flags_for", "from_line", "known_framework", "line_document"]


@dataclass(frozen=True)
class Shown:
    """The launch flags asked for, if any."""

    flags: LaunchFlags | None

    @property
    def text(self) -> str:
        """What a report for people ends in."""
        from perfplan.report.launch import flags_text

        return f"\n\n{flags_text(self.flags)}" if self.flags else ""

    def document(self, read: Launched | None = None) -> dict[str, Any]:
        """What a document for machines has besides: flags written, and a line read."""
        from perfplan.report.launch import flags_document

        return ({"launch": flags_document(self.flags)} if self.flags else {}) | line_document(read)


def line_document(read: Launched | None) -> dict[str, Any]:
    """What a document for machines says of a launch line that was read."""
    from perfplan.report.launch import read_document

    return {"launch_line": read_document(read)} if read else {}


def known_framework(framework: str, catalog: Catalog) -> None:
    """Raise before any work if --launch names a framework that has no table."""
    from perfplan.export.launchers import launcher

    if framework:
        launcher(catalog, framework)


def flags_for(estimate: Estimate, framework: str, catalog: Catalog) -> Shown:
    """The launch flags of the layout, nothing without a framework."""
    from perfplan.api import launch_flags

    return Shown(launch_flags(estimate, framework, catalog) if framework else None)


def from_line(pair: tuple[str, str], model: str, gpus: int | None, catalog: Catalog) -> Launched | None:
    """The launch line that --from gives, None without one; what was made of its flags goes to standard error."""
    if not pair[0]:
        return None
    from perfplan.api import read_launch
    from perfplan.report.launch import read_text

    read = read_launch(*pair, model=model, gpus=gpus, catalog=catalog)
    print(read_text(read), file=sys.stderr)
    return read
