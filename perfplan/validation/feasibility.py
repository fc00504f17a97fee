"""False "fits" and false "does not fit": rows that ran out of memory, and rows that ran, against the memory model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from perfplan.validation.score import Outcome

__all__ = ["FALSE_FITS", "FALSE_REFUSALS", "Feasibility", "feasibility"]

FALSE_FITS, FALSE_REFUSALS = 0.01, 0.10  # marks: a plan that runs out of memory costs more than one passed over


@dataclass(frozen=True)
class Feasibility:
    """ran: rows with a measured speed; refused: those predicted not to fit; oom: rows that ran out of memory; allowed:
    those predicted to fit; where: source and accelerator -> rows refused."""

    ran: int
    refused: int
    oom: int
    allowed: int
    where: Mapping[str, int] = field(default_factory=dict)

    @property
    def false_refusals(self) -> float | None:
        """Share of the rows that ran which are predicted not to fit [1]."""
        return self.refused / self.ran if self.ran else None

    @property
    def false_fits(self) -> float | None:
        """Share of the rows that ran out of memory which are predicted to fit [1]."""
        return self.allowed / self.oom if self.oom else None

    def sentences(self) -> list[str]:
        """Both rates beside their marks, with counts."""
        spread = ", ".join(f"{name} {count}" for name, count in self.where.items())
        ran = f"{self.refused} of {self.ran} rows that ran, {self.false_refusals:.1%}" if self.ran else (
            "untested: no row has a measured speed")  # fmt: skip
        oom = f"{self.allowed} of {self.oom} rows that ran out of memory, {self.false_fits:.1%}" if self.oom else (
            "untested: no row ran out of memory")  # fmt: skip
        return [f'false "does not fit" (mark {FALSE_REFUSALS:.0%}): {ran}' + f": {spread}" * bool(spread),
                f'false "fits" (mark {FALSE_FITS:.0%}): {oom}']


def feasibility(outcomes: Iterable[Outcome]) -> Feasibility:
    """Both rates over all rows that were priced."""
    priced = [o for o in outcomes if o.fits is not None and not o.unsupported]
    ran, oom = [o for o in priced if o.ratio is not None], [o for o in priced if o.oom]
    refused = [f"{o.source} {o.hardware}" for o in ran if not o.fits]
    where = dict(sorted(Counter(refused).items(), key=lambda pair: (-pair[1], pair[0])))
    return Feasibility(len(ran), len(refused), len(oom), sum(bool(o.fits) for o in oom), where)
