"""Published figures of serving that no formula alone gives: statistics of workloads, searches over placements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from perfplan.catalog import Catalog
from perfplan.catalog.parameters import parameters
from perfplan.catalog.specs import Attention
from perfplan.formulas.queueing import general_wait, quadratic_service_time, quadratic_service_variance
from perfplan.formulas.queueing import squared_variation as variation
from perfplan.serving.deploy import serving_job
from perfplan.serving.job import ServingJob
from perfplan.serving.layout import ServingLayout
from perfplan.serving.memory import fits, per_token
from perfplan.serving.step import decode_step, network
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


def _job(catalog: Catalog, inputs: Mapping[str, Any]) -> ServingJob:
    return serving_job(
        str(inputs["model"]),
        str(inputs.get("cluster", "hgx-h200")),
        catalog,
        engine="vllm",
        weights=str(inputs.get("weights", "")),
        kv=str(inputs.get("kv", "")),
    )


def _kv_per_token(catalog: Catalog, inputs: Mapping[str, Any]) -> float:
    """Cache of one more token on one rank [B]."""
    return per_token(_job(catalog, inputs), ServingLayout.parse(str(inputs.get("layout", "tp1"))))


def _weights(catalog: Catalog, inputs: Mapping[str, Any]) -> float:
    return parameters(catalog.model(str(inputs["model"]))).total * parse(inputs["element"], "B")


def _fits(catalog: Catalog, inputs: Mapping[str, Any]) -> float:
    """1 if some layout of so many accelerators holds one sequence of the context, else 0."""
    job = _job(catalog, inputs)
    return float(any(one.fits for one in fits(job, int(inputs["gpus"]), int(inputs["context"]))))


def _attention_time(job: ServingJob, context: float, **changes: Any) -> float:
    """Attention of a decode step of 16 sequences, with the indexer of the model changed [s]."""
    kinds = tuple(
        replace(kind, mixer=replace(kind.mixer, **changes)) if isinstance(kind.mixer, Attention) else kind
        for kind in job.model.kinds
    )
    changed, layout = replace(job, model=replace(job.model, kinds=kinds)), ServingLayout.parse("tp8")
    return float(decode_step(changed, network(changed, layout), layout, 16.0, context)["attention"])


def _sparse(catalog: Catalog, inputs: Mapping[str, Any]) -> float:
    """Sparse attention over dense attention and indexer together [1]."""
    job, context = _job(catalog, inputs), float(inputs["context"])
    dense = _attention_time(job, context, index_heads=0, index_topk=0)
    indexer = _attention_time(job, context, index_topk=0) - dense
    return _attention_time(job, context) / (dense + indexer)


def serving_prices(catalog: Catalog) -> Prices:
    """The quantities of this module by name, over one catalog."""
    named: dict[str, Callable[[Catalog, Mapping[str, Any]], float]] = {
        "prefill_service": lambda found, inputs: _service(found, inputs)[0],
        "prefill_variation": lambda found, inputs: _service(found, inputs)[1],
        "prefill_wait": _wait,
        "workload_length": _length,
        "kv_per_token": _kv_per_token,
        "weight_bytes": _weights,
        "has_room": _fits,
        "lacks_room": lambda found, inputs: 1 - _fits(found, inputs),
        "sparse_over_dense_and_indexer": _sparse,
        "distserve_search": lambda found, inputs: distserve.figure(inputs),
    }
    return {name: partial(price, catalog) for name, price in named.items()}
