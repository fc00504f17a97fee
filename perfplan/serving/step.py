"""One step of an engine: the ops of all layers, the head, sends between stages, and the host that it waits for."""

from __future__ import annotations

from collections import Counter
from typing import Any

from perfplan.formulas.compute import host_wait
from perfplan.formulas.core import maximum, minimum, total, where
from perfplan.serving.job import ServingJob
from perfplan.serving.layout import ServingLayout
from perfplan.serving.ops import Load, Pricing, head_times, layer_times
from perfplan.training.network import Group, Network

__all__ = ["PARTS", "Load", "decode_step", "network", "padded", "prompt_step", "step_parts", "whole"]

PARTS = ("projections", "attention", "mlp", "experts", "offload", "router", "streams", "tp", "ep", "head",
         "drafts", "pp", "host")


def network(job: ServingJob, layout: ServingLayout) -> Network:
    """The network as one replica sees it, the largest where the degrees are columns."""
    instance = layout.instance
    return Network(job.cluster, int(instance.max()) if hasattr(instance, "max") else instance)


def whole(parts: dict[str, Any]) -> Any:
    """The time of a step from its parts [s]."""
    return total("T_step", "s", parts)


def step_parts(job: ServingJob, net: Network, layout: ServingLayout, load: Load) -> dict[str, Any]:
    """Seconds by op of one step, through all stages of a pipeline one after another."""
    p = Pricing(job, net, load, layout.tp, layout.adp, layout.ep)
    parts: dict[str, Any] = {}
    for index, count in sorted(Counter(job.model.layers).items()):
        for name, time in layer_times(p, job.model.kinds[index]).items():
            parts[name] = parts.get(name, 0.0) + count * time
    parts |= head_times(p)
    if job.drafts:  # each draft runs one more layer and the head
        parts["drafts"] = job.drafts * (sum(parts.values()) - parts["head"]) / len(job.model.layers) + (
            job.drafts * parts["head"])
    path = net.path(Group(layout.pp, layout.width))
    parts["pp"] = (layout.pp - 1) * path.send(load.tokens * job.model.hidden * 2.0)
    parts["host"] = _host(job, layout, load, sum(parts.values()))
    return {name: parts[name] for name in PARTS if name in parts}


def _host(job: ServingJob, layout: ServingLayout, load: Load, device: Any) -> Any:
    """Time that the device waits for the host: between steps, and for the launches of a step with prompts [s]."""
    engine = job.engine
    launched = host_wait(device, engine.launch * len(job.model.layers))
    fixed = where(load.prompt > 0, engine.prompt + launched / layout.pp, engine.step)
    return layout.pp * (fixed + engine.sequence * load.decodes)


def padded(job: ServingJob, batch: Any) -> Any:
    """The batch that a captured graph runs: the next size captured, or the batch itself beyond the largest."""
    sizes = job.engine.padding
    result: Any = batch
    for size in sorted(sizes, reverse=True):
        result = where(batch <= size, size, result)
    return result


def decode_step(job: ServingJob, net: Network, layout: ServingLayout, batch: Any, context: Any) -> dict[str, Any]:
    """Seconds by op of a step that decodes `batch` sequences per attention rank, `context` tokens cached each."""
    share = maximum(batch / layout.pp, minimum(batch, 1.0))  # a pipeline keeps one micro-batch per stage in flight
    return step_parts(job, net, layout, Load(padded(job, share), context, drafts=job.drafts))


def prompt_step(job: ServingJob, net: Network, layout: ServingLayout, tokens: Any, length: Any, past: Any = 0.0,
                decodes: Any = 0.0, context: Any = 0.0) -> dict[str, Any]:
    """Seconds by op of a step with `tokens` prompt tokens in pieces of `length`, `past` tokens cached before each."""
    return step_parts(job, net, layout, Load(decodes, context, tokens, length, past, job.drafts))
