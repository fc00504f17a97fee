"""`--from`: a user's own launch line, read once for every command that takes it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perfplan.catalog import Catalog
    from perfplan.export.flags import LaunchFlags
    from perfplan.export.launched import Launched
    from perfplan.export.served import Served
    from perfplan.serving.deploy import Deployment
    from perfplan.serving.plan import ServePlan
    from perfplan.training.estimate import Estimate

__all__ = ["Shown", "deployed", "planned", "flags_for", "from_line", "known_framework", "line_document",
           "served_line"]


@dataclass(frozen=True)
class Shown:
    """The launch flags asked for, one for each pool of instances; none if none were."""

    flags: tuple[LaunchFlags, ...]

    @property
    def text(self) -> str:
        """What a report for people ends in."""
        if not self.flags:
            return ""
        from perfplan.report.launch import flags_text

        return "".join(f"\n\n{flags_text(each)}" for each in self.flags)

    def document(self, read: Launched | Served | None = None) -> dict[str, Any]:
        """What a document for machines has besides: flags written, and a line read."""
        if not self.flags:
            return line_document(read)
        from perfplan.report.launch import flags_document

        found = [flags_document(each) for each in self.flags]
        return {"launch": found if len(found) > 1 else found[0]} | line_document(read)


def line_document(read: Launched | Served | None) -> dict[str, Any]:
    """What a document for machines says of a launch line that was read."""
    if not read:
        return {}
    from perfplan.report.launch import read_document

    return {"launch_line": read_document(read)}


def known_framework(framework: str, catalog: Catalog, phase: str = "training") -> str:
    """The serving engine, if any, that --launch writes the settings of; raises before any work if it has no table."""
    from perfplan.export.launchers import launcher

    return launcher(catalog, framework, phase).engine if framework else ""


def flags_for(estimate: Estimate, framework: str, catalog: Catalog) -> Shown:
    """The launch flags of the layout, nothing without a framework."""
    from perfplan.api import launch_flags

    return Shown((launch_flags(estimate, framework, catalog),) if framework else ())


def deployed(found: Deployment, engine: str, catalog: Catalog) -> Shown:
    """The launch settings of a priced deployment, nothing without an engine."""
    from perfplan.export.serving import deployment_flags

    return Shown(deployment_flags(catalog, engine, found) if engine else ())


def planned(plan: ServePlan, engine: str, catalog: Catalog) -> Shown:
    """The launch settings of the best deployment of a plan, nothing without an engine."""
    from perfplan.export.serving import plan_flags

    return Shown(plan_flags(catalog, engine, plan) if engine else ())


def from_line(pair: tuple[str, str], model: str, gpus: int | None, catalog: Catalog) -> Launched | None:
    """The launch line that --from gives, None without one; what was made of its flags goes to standard error."""
    if not pair[0]:
        return None
    from perfplan.api import read_launch
    from perfplan.report.launch import read_text

    read = read_launch(*pair, model=model, gpus=gpus, catalog=catalog)
    print(read_text(read), file=sys.stderr)
    return read


def served_line(pair: tuple[str, str], model: str, catalog: Catalog) -> Served | None:
    """The serving launch line that --from gives, None without one; what was made of it goes to standard error."""
    if not pair[0]:
        return None
    from perfplan.export.served import served
    from perfplan.report.launch import served_text

    read = served(catalog, *pair, model=model)
    print(served_text(read), file=sys.stderr)
    return read
