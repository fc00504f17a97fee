"""Power, energy and money of serving: phase-shaped power, caps and clocks, oversubscription, cost per token."""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import formula, ln

__all__ = [
    "capped_clock",
    "capped_power",
    "capped_time",
    "clocked_power",
    "energy_per_token",
    "landauer_energy",
    "machines_within_budget",
    "phase_power",
    "price_per_million_tokens",
    "provisioned_power",
    "servers_within_power",
]

_POLCA = "serving_power_edge.md section 6 (POLCA) [derived]"


@formula("p_mean", "W", source=_POLCA)
def phase_power(idle: Any, prefill: Any, decode: Any, prefill_share: Any, decode_share: Any) -> Any:
    """Mean power of a server that prefills, decodes and idles by turns.

    idle : power at rest [W]
    prefill : power in prefill [W]
    decode : power in decode [W]
    prefill_share : share of the time in prefill [1]
    decode_share : share of the time in decode [1]

    >>> phase_power(100.0, 400.0, 200.0, 0.25, 0.5)
    225.0
    """
    return idle + prefill_share * (prefill - idle) + decode_share * (decode - idle)


@formula("P_row", "W", source=_POLCA)
def provisioned_power(servers: Any, mean: Any, deviation: Any, correlation: Any, quantile: Any) -> Any:
    """Power of a row that is exceeded only as rarely as the normal `quantile` says.

    servers : servers in the row [1]
    mean : mean power of one [W]
    deviation : standard deviation of the power of one [W]
    correlation : correlation of the power of two servers, near 1 in training [1]
    quantile : quantile of the normal distribution, 3 = once in 740 [1]

    Forty servers that swing alone need far less than forty times one; swinging together, just that:

    >>> round(provisioned_power(40, 3000.0, 800.0, 0.0, 3)), round(provisioned_power(40, 3000.0, 800.0, 1.0, 3))
    (135179, 216000)
    """
    variance = servers * deviation**2 * (1 + (servers - 1) * correlation)
    return servers * mean + quantile * variance**0.5


@formula("N_row", "1", source=_POLCA)
def servers_within_power(budget: Any, mean: Any, deviation: Any, correlation: Any, quantile: Any) -> Any:
    """Servers whose power stays within a row's budget but for the share of the time that the quantile leaves.

    budget : power of the row [W]
    mean : mean power of a server [W]
    deviation : standard deviation of it [W]
    correlation : correlation of the power of two servers [1]
    quantile : quantile of the normal distribution [1]

    A row that feeds 40 servers of 6.5 kW nameplate and 4.5 kW on average: ten more fit where they hardly swing together
    (inference), none where all peak at once (training):

    >>> round(servers_within_power(260e3, 4.5e3, 1e3, 0.1, 2)), round(servers_within_power(260e3, 4.5e3, 1e3, 1.0, 2))
    (50, 40)
    """
    spread = (quantile * deviation) ** 2
    square, half = mean**2 - spread * correlation, budget * mean + spread * (1 - correlation) / 2
    return budget**2 / (half + (half**2 - square * budget**2) ** 0.5)


@formula("p_f", "W", source=_POLCA)
def clocked_power(idle: Any, dynamic: Any, clock: Any, exponent: Any) -> Any:
    """Power at a lower clock.

    idle : power at rest [W]
    dynamic : power above that at full clock [W]
    clock : clock over full clock [1]
    exponent : power of the clock that the dynamic part follows, 1 to 3 [1]

    >>> clocked_power(100.0, 300.0, 0.5, 2)
    175.0
    """
    return idle + dynamic * clock**exponent


@formula("T_f", "s", source=_POLCA + "; Splitwise's capped H100: prefill 1.30, decode 1.00 times as long")
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


@formula("E_tok", "J", source="energy of a second over tokens of a second")
def energy_per_token(power: Any, accelerators: Any, pue: Any, rate: Any) -> Any:
    """Energy per token at the meter of the building.

    power : mean power per accelerator with its share of host and network [W]
    accelerators : accelerators of the deployment [1]
    pue : power usage effectiveness of the building [1]
    rate : tokens of the deployment per second [1/s]

    >>> energy_per_token(600.0, 8, 1.25, 6000.0)
    1.0
    """
    return power * accelerators * pue / rate


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


@formula("E_min", "J", source="Landauer 1961")
def landauer_energy(bits: Any, thermal: Any) -> Any:
    """Least energy to erase bits, which no plan may undercut.

    bits : bits erased [1]
    thermal : Boltzmann's constant times temperature, 4.14e-21 J at 300 K [J]

    One FLOP of an H100 (700 W over 989.5 TFLOP/s) takes 2.5e8 times the floor of a bit:

    >>> round(700 / 989.5e12 / landauer_energy(1, 1.380649e-23 * 300) / 1e8, 1)
    2.5
    """
    return bits * thermal * ln(2)
