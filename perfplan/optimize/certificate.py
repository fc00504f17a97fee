"""What a plan owes its reader: the objective, a bound that no plan can beat, the gap, and a sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass

from perfplan.optimize.milp import EXACT, Solution
from perfplan.units import show

__all__ = ["Certificate", "of_solution"]


@dataclass(frozen=True)
class Certificate:
    """How good an answer is known to be. objective: what the answer costs, to be as small as can be; bound: what every
    answer costs at least, -inf if unknown; method: how the answer was found; bounded_by: where the bound comes from,
    empty if the method proves it itself; unit: of objective and bound."""

    objective: float
    bound: float
    method: str
    bounded_by: str = ""
    unit: str = "1"

    @property
    def gap(self) -> float:
        """Part of the objective that a better answer could save at most: 0 is proven optimal, 1 nothing known."""
        if not math.isfinite(self.bound):
            return 1.0
        difference = max(0.0, self.objective - self.bound)
        return min(1.0, difference / abs(self.objective)) if self.objective else float(difference > 0)

    @property
    def proven(self) -> bool:
        """Whether no answer can be better."""
        return self.gap <= EXACT

    def sentence(self) -> str:
        """The certificate in words.

        >>> Certificate(0.6529, 0.4078, "multi-start search", "transportation bound").sentence()
        '0.653 by multi-start search, of which at most 37.5 % can be saved: no answer is below 0.408 \
(transportation bound)'
        >>> Certificate(0.4838, 0.4838, "shortest path over 105 set partitions").sentence()
        '0.484, proven optimal by shortest path over 105 set partitions'
        """
        best = show(self.objective, self.unit)
        if self.proven:
            return f"{best}, proven optimal by {self.method}" + f" and {self.bounded_by}" * bool(self.bounded_by)
        if not math.isfinite(self.bound):
            return f"{best} by {self.method}; how far from the best possible is not known"
        source = f" ({self.bounded_by})" if self.bounded_by else ""
        return (f"{best} by {self.method}, of which at most {100 * self.gap:.3g} % can be saved: no answer is below "
                f"{show(self.bound, self.unit)}{source}")


def of_solution(solution: Solution, method: str, unit: str = "1") -> Certificate:
    """The certificate of a problem that minimises, from what the solver says of it."""
    return Certificate(solution.objective, solution.bound, method, "" if solution.status == "optimal" else "the "
                       "solver's dual bound", unit)
