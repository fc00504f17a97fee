"""Power and money of serving: caps and clocks, machines within a budget, cost per token."""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import formula

__all__ = [
    "capped_clock",
    "capped_power",
    "capped_time",
    "machines_within_budget",
    "price_per_million_tokens",
]


@formula("T_f", "s", source="POLCA [derived]; Splitwise's capped H100: prefill 1.30, decode 1.00 times as long")
def capped_time(time: Any, sensitive: Any, clock: Any) -> Any:
    """Time of a phase at a lower clock.

    time : time at full clock [s]
    sensitive : share of it that follows the clock, near 1 in prefill and near 0 in decode [1]
    clock : clock over full clock [1]

    >>> round(capped_time(1.0, 1.0, 1 / 1.3), 2), capped_time(1.0, 0.0, 1 / 1.3)
    (1.3, 1.0)
    """
    return time * (sensitive / clock + 1 - sensitive)


@formula("f_cap", "1", source="a line through Splitwise's capped H100: at 0.7 of the power prefill takes 1.30 times")
def capped_clock(cap: Any, measured: Any, slower: Any) -> Any:
    """Clock of compute-bound work under a power cap, over that at full power.

    cap : fraction of the power allowed [1]
    measured : cap at which the slow-down was measured [1]
    slower : time of compute-bound work at that cap over its time at full power [1]

    >>> capped_clock(1.0, 0.7, 1.3), round(1 / capped_clock(0.7, 0.7, 1.3), 2)
    (1.0, 1.3)
    """
    return 1 - (1 - cap) * (1 - 1 / slower) / (1 - measured)


@formula("p_cap", "W", source="Splitwise (ISCA 2024): machines capped to 0.7 of their power")
def capped_power(power: Any, cap: Any) -> Any:
    """Power of a machine under a cap.

    power : power uncapped [W]
    cap : fraction of it allowed [1]

    >>> capped_power(10200.0, 0.7)
    7140.0
    """
    return power * cap


@formula("N_budget", "1", source="Splitwise (ISCA 2024), iso-power and iso-cost designs; notebooks/utils.py")
def machines_within_budget(reference: Any, total: Any, kept: Any, machine: Any) -> Any:
    """Whole machines of another type that fit the budget of `total` reference machines of which `kept` stay.

    reference : power, or price, of one reference machine, in any unit [1]
    total : reference machines that the budget pays for [1]
    kept : reference machines kept [1]
    machine : power, or price, of one machine of the other type, in the same unit [1]

    No H100 kept of 40: 70 A100 at the same power, 86 at the same price:

    >>> machines_within_budget(440, 40, 0, 248), machines_within_budget(476, 40, 0, 221)
    (70, 86)
    """
    return reference * (total - kept) // machine


@formula("c_Mtok", "$", source="configiq#10, inference-perf#139: ($/h) / (tok/s 3600) 1e6")
def price_per_million_tokens(price: Any, accelerators: Any, rate: Any) -> Any:
    """Money per million tokens of accelerators rented for the whole time.

    price : price of one accelerator-hour [$/h]
    accelerators : accelerators of the deployment [1]
    rate : tokens of the deployment per second [1/s]

    olmocr#249: 2190 tokens in 32.8 s on one H100 at 2 $/h:

    >>> round(price_per_million_tokens(2.0, 1, 2190 / 32.8), 2)
    8.32
    """
    return 1e6 * price * accelerators / 3600 / rate
