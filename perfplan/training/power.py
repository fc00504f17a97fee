"""A power cap on the accelerators: what computes slows down, what waits for memory or links does not."""

from __future__ import annotations

from dataclasses import replace

from perfplan.catalog.specs import Cluster
from perfplan.errors import MissingField, OutOfRange
from perfplan.formulas.energy import capped_clock

__all__ = ["CAPPED", "LEAST_CAP", "capped"]

LEAST_CAP = 0.5  # of the power; below it nothing was published
_MEASURED = 0.7, 1.3  # Splitwise: at 0.7 of their power H100 compute prompts 1.30 times as long, decode as before
CAPPED = "power cap: compute-bound work slows as Splitwise's capped H100 did, memory and links not at all"


def capped(cluster: Cluster, power: float) -> Cluster:
    """The cluster with its accelerators capped to `power` [W]: their compute clock that lasts, and their power.

    Raises MissingField where the accelerator states no power, OutOfRange where the cap is none, or below half of it.
    """
    chip = cluster.accelerator
    if chip.tdp is None:
        raise MissingField(f"accelerator {chip.id} states no tdp, which a power cap needs; add it to its YAML")
    if not LEAST_CAP * chip.tdp <= power <= chip.tdp:
        raise OutOfRange(f"a power cap of {power:g} W is not modelled for {chip.id}; choose from"
                         f" {LEAST_CAP * chip.tdp:g} W to its {chip.tdp:g} W")
    clock = capped_clock(power / chip.tdp, *_MEASURED)
    lasts = {"any": 1.0, **chip.sustained}
    slower = replace(chip, tdp=power, sustained={dtype: clock * share for dtype, share in lasts.items()})
    return replace(cluster, accelerator=slower)
