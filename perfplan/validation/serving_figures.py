"""Published figures of serving that no formula alone gives: statistics of workloads, searches over placements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from perfplan.catalog import Catalog
from perfplan.formulas.queueing import general_wait, quadratic_service_time, quadratic_service_variance
from perfplan.formulas.queueing import squared_variation as variation
from perfplan.units import parse
from perfplan.validation import distserve

if TYPE_CHECKING:
    from perfplan.validation.reproduce import Prices

__all__ = ["serving_prices"]


def _service(catalog: Catalog, inputs: Mapping[str, Any]) -> tuple[float, float]:
    """Mean [s] and squared variation of the prefill time of a workload's prompts, one at a time."""
    lengths = catalog.workload(str(inputs["workload"])).isl
    constant, linear, quadratic = (parse(inputs[name], "s") for name in ("constant", "linear", "quadratic"))
    first, second, third, fourth = (lengths.moment(power) for power in range(1, 5))
    mean = float(quadratic_service_time(first, second, constant, linear, quadratic))
    variance = float(quadratic_service_variance(first, second, third, fourth, linear, quadratic))
    return mean, float(variation(mean, variance))


def _wait(catalog: Catalog, inputs: Mapping[str, Any]) -> float:
    service, varied = _service(catalog, inputs)
    return float(general_wait(float(inputs["load"]), service, 0.0 if inputs.get("deterministic") else varied))


def _length(catalog: Catalog, inputs: Mapping[str, Any]) -> float:
    workload = catalog.workload(str(inputs["workload"]))
    lengths = workload.isl if inputs["side"] == "input" else workload.osl
    if inputs["statistic"] == "second":
        return lengths.moment(2)
    return float(getattr(lengths, inputs["statistic"]))


def serving_prices(catalog: Catalog) -> Prices:
    """The quantities of this module by name, over one catalog."""
    named: dict[str, Callable[[Catalog, Mapping[str, Any]], float]] = {
        "prefill_service": lambda found, inputs: _service(found, inputs)[0],
        "prefill_variation": lambda found, inputs: _service(found, inputs)[1],
        "prefill_wait": _wait,
        "workload_length": _length,
        "distserve_search": lambda found, inputs: distserve.figure(inputs),
    }
    return {name: partial(price, catalog) for name, price in named.items()}
