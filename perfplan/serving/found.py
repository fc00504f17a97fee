"""What cache that requests find takes and saves, in words: prefixes kept once, and cache in host memory."""

from __future__ import annotations

from dataclasses import replace

from perfplan.formulas.serving_bounds import kv_transfer_time
from perfplan.serving.estimate import prompt_time
from perfplan.serving.job import ServingJob
from perfplan.serving.layout import ServingLayout
from perfplan.serving.memory import sequence_cache, shared_prefix
from perfplan.serving.step import network, whole
from perfplan.units import show

__all__ = ["reuse_notes"]


def reuse_notes(job: ServingJob, layout: ServingLayout, isl: float, osl: float, rate: float) -> tuple[str, ...]:
    """One sentence for each kind of found cache. isl, osl: mean tokens; rate: requests of one attention rank [1/s]."""
    device = (_device(job, layout, isl),) if job.reuse.hit else ()
    return (*device, *((_host(job, layout, isl, osl, rate),) if job.reuse.host_hit else ()))


def _device(job: ServingJob, layout: ServingLayout, isl: float) -> str:
    share = f"{100 * job.reuse.hit:.0f} % of the prompt tokens are taken to be in the cache"
    shared = round(shared_prefix(job, isl))
    if not shared:
        return f"{share}; that requests share its memory is not counted (--prefixes says how many prefixes they share)"
    each = float(sequence_cache(job, layout, shared))
    return (f"{share}: {job.reuse.prefixes} prefixes of {shared} tokens, {show(each, 'B')} each, are kept once on each"
            " attention rank; a decode step still reads them for every request")


def _host(job: ServingJob, layout: ServingLayout, isl: float, osl: float, rate: float) -> str:
    """Copying against computing, the load of the link, and how long the host's memory remembers."""
    reuse, net = job.reuse, network(job, layout)
    size = float(sequence_cache(job, layout, isl * reuse.host_hit))
    copy = float(kv_transfer_time(size, job.host_bandwidth))
    computed = replace(job, reuse=replace(reuse, host_hit=0.0, host_memory=0.0, bandwidth=0.0), host_experts=0.0)
    saved = float(whole(prompt_time(computed, net, layout, isl)) - whole(prompt_time(job, net, layout, isl)))
    words = (f"{100 * reuse.host_hit:.0f} % of the prompt tokens come from host memory: {show(size, 'B')} a prompt and"
             f" accelerator take {show(copy, 's')} over {show(job.host_bandwidth, 'B/s')}, computing them would take"
             f" {show(saved, 's')}")
    load = rate * copy
    words += f"; the link is {100 * load:.0f} % busy"
    if load >= 1:
        words += ", MORE THAN IT CARRIES: such a hit rate cannot be had at this rate"
    new = float(sequence_cache(job, layout, isl * (1 - reuse.found) + osl))
    if reuse.host_memory:
        words += f"; {show(reuse.host_memory, 'B')} hold the cache of the last {reuse.host_memory / new:.0f} requests"
        words += f", {show(reuse.host_memory / (new * rate), 's')} of traffic" if rate else ""
    return words
