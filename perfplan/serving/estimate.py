"""What a deployment delivers: TTFT, TPOT and throughput of a static batch, a closed loop or an open stream of requests.

Lengths and concurrency may be NumPy columns except in `at_rate`, which solves for one load.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from perfplan.errors import Infeasible, OutOfRange
from perfplan.formulas import serving as formulas
from perfplan.formulas.core import ceil, ceil_div, maximum, minimum, total, where
from perfplan.formulas.serving_bounds import exposed_kv_transfer
from perfplan.serving.job import ServingJob
from perfplan.serving.layout import ServingLayout
from perfplan.serving.memory import held_sequences, pool, sequence_cache
from perfplan.serving.spread import (
    NEVER,
    Percentiles,
    closed_first_tokens,
    closed_tokens,
    open_first_tokens,
    open_tokens,
)
from perfplan.serving.step import decode_step, network, prompt_step, whole
from perfplan.training.network import Network

__all__ = ["Steady", "at_rate", "capacity", "fresh_tokens", "loading_time", "prompt_time", "saturated",
           "static_batch", "steady"]

HALF = 0.5  # of the step in progress is left, on average, when a request arrives


@dataclass(frozen=True)
class Steady:
    """What one load gives. ttft: mean time to the first token [s]; tpot: mean time per further token [s]; rate:
    requests per second of all replicas [1/s]; tokens_per_s: generated, of all replicas; in_flight: requests in the
    batches of one replica; decode, prompt: seconds by op of a decode step, and of the prompt of one request; ttft_at,
    tpot_at: what half and 99 of 100 requests do not exceed; binding: what limits; waits: seconds by cause, of which the
    TTFT of a closed loop is the sum."""

    ttft: Any
    tpot: Any
    rate: Any
    tokens_per_s: Any
    in_flight: Any
    decode: dict[str, Any]
    prompt: dict[str, Any]
    ttft_at: Percentiles = NEVER
    tpot_at: Percentiles = NEVER
    binding: str = ""
    waits: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens_per_s_per_user(self) -> Any:
        """Generated tokens per second that one user sees after the first."""
        return 1 / self.tpot


def capacity(job: ServingJob, layout: ServingLayout, isl: int, osl: int) -> float:
    """Sequences that one attention rank holds: by the cache, at their full length where the engine admits only what it
    can finish, else at their mean length; and by the engine's limit."""
    room = pool(job, layout, isl + osl)
    held = held_sequences(job, layout, room, isl + osl, isl)
    if held < 1:
        raise Infeasible(f"layout {str(layout)!r} leaves {room / 2**30:.3g} GiB for the cache of {job.model.id}, which"
                         f" does not hold one request of {isl}+{osl} tokens; use more accelerators per replica, shorter"
                         " requests or narrower weights" + (f"; {job.reuse.prefixes} prefixes are kept in it too"
                                                            if job.reuse.prefixes else ""))
    if not job.engine.no_evict:
        held = held_sequences(job, layout, room, int(isl + osl / 2), isl)
    return min(held, float(job.engine.max_batch))


def _together(job: ServingJob, isl: Any, wanted: Any) -> tuple[Any, Any]:
    """(prompts that share a step, steps of one prompt) under the token budget, if `wanted` are there at once."""
    if not job.engine.chunked:
        return maximum(minimum(wanted, job.engine.token_budget // maximum(isl, 1)), 1.0), 1.0
    budget = job.engine.token_budget
    return maximum(minimum(wanted, budget / maximum(isl, 1)), minimum(1.0, budget / maximum(isl, 1))), maximum(
        isl / budget, 1.0)


def fresh_tokens(job: ServingJob, isl: Any) -> Any:
    """Tokens of a prompt that are computed."""
    return maximum(isl * (1 - job.reuse.found), 1.0) if job.reuse.found else isl


def loading_time(job: ServingJob, layout: ServingLayout, isl: Any, prompt: Any) -> Any:
    """Part of the copy of a prompt's cache from host memory, layer by layer, that outlasts its computing [s]."""
    if not job.reuse.host_hit:
        return 0.0
    size = sequence_cache(job, layout, isl * job.reuse.host_hit)
    return exposed_kv_transfer(size, len(job.model.layers), job.host_bandwidth, prompt)


def prompt_time(
    job: ServingJob, net: Network, layout: ServingLayout, isl: Any, together: Any = 1.0, beside: Any = 0.0,
    context: Any = 0.0,
) -> dict[str, Any]:
    """Seconds by op that the prompt of one request takes when `together` are computed at once, in steps of the budget.

    beside: decodes of `context` cached tokens that share the steps; what they would take alone does not count. Of the
    prompt only what the cache does not have is computed.
    """
    fresh = fresh_tokens(job, isl)
    group, pieces = _together(job, fresh, together)
    length = fresh / pieces
    past = isl - fresh + fresh * (pieces - 1) / (2 * pieces)
    parts = prompt_step(job, net, layout, maximum(group, 1.0) * length, length, past, beside, context)
    alone = decode_step(job, net, layout, beside, context) if _any(beside) else {}
    share = pieces / maximum(group, 1.0)
    return {name: share * (time - alone.get(name, 0.0)) for name, time in parts.items()}


def _beside_decodes(job: ServingJob, net: Network, layout: ServingLayout, isl: Any, osl: Any, active: Any, clump: Any
                    ) -> dict[str, Any]:
    """Seconds by op that one prompt takes where `clump` of the active requests are computed at once, the rest decode
    beside them if the engine mixes steps."""
    beside = maximum(active - clump, 0.0) if job.engine.mixed else 0.0 * active
    return prompt_time(job, net, layout, isl, clump, beside, isl + osl / 2)


def _any(count: Any) -> bool:
    return bool(count.any()) if hasattr(count, "any") else bool(count)


def _slots(job: ServingJob, layout: ServingLayout, concurrency: Any) -> Any:
    """Requests of the fullest attention rank of one replica."""
    each = concurrency / (layout.dp * layout.adp) * where(layout.adp > 1, job.imbalance, 1.0)
    return maximum(each, 1.0 / layout.adp)


def steady(job: ServingJob, layout: ServingLayout, isl: Any, osl: Any, concurrency: Any, held: Any = None,
           queued: bool = False) -> Steady:
    """A closed loop that keeps `concurrency` requests with the deployment; held: sequences that a rank has room for;
    queued: more requests wait outside, so that the place of a finished one is never empty."""
    net = network(job, layout)
    room = capacity(job, layout, int(isl), int(osl)) if held is None else held
    slots = _slots(job, layout, concurrency)
    active = minimum(slots, room)
    decode = decode_step(job, net, layout, active, isl + osl / 2)
    engine, steps = job.engine, maximum(osl - 1, 1) / formulas.drafted_tokens(job.acceptance, job.drafts)
    shared = formulas.shared_prompts(active / steps, engine.gather, engine.joined, isl)
    clump = maximum(minimum(shared, active), 1.0)
    prompt = _beside_decodes(job, net, layout, isl, osl, active, clump)
    if _any(engine.together):
        wave = _beside_decodes(job, net, layout, isl, osl, active, maximum(active, 1.0))
        prompt = {name: time + engine.together * (wave[name] - time) for name, time in prompt.items()}
    alone = prompt_time(job, net, layout, isl)
    own, step = whole(prompt), whole(decode)
    others = maximum(active * layout.adp - 1, 0.0) / layout.adp
    stalled = step + formulas.decode_stall(others, own, steps, engine.together, _together(job, isl, active)[0] - 1)
    tpot = where(osl > 1, stalled * steps / maximum(osl - 1, 1), 0.0)
    most = maximum(engine.token_budget / fresh_tokens(job, isl), 1.0)
    residual, burst = step * minimum(others, 1.0), formulas.burst_wait(others, own, engine.burst)
    waits = {"load": loading_time(job, layout, isl, whole(alone)), "server": engine.first,
             "streams": engine.stream * (concurrency / layout.dp), "prompt": whole(alone),
             "ahead": formulas.turns_wait(engine.ahead, clump, most, others, own), "step": HALF * residual,
             "burst": burst}
    waits["cycle"] = where(osl > 1, 0.0, formulas.cycle_wait(active, own, sum(waits.values())))
    batch, later = active * layout.adp, maximum(osl - 1, 0)
    rate = (formulas.closed_rate(batch, own / layout.adp, steps, step) if queued
            else formulas.looped_rate(batch, sum(waits.values()), later, tpot))
    waits["cache"] = formulas.queued_time(maximum(slots - active, 0.0) * layout.adp, rate)
    ttft = total("T_ttft", "s", waits)
    rate = rate * layout.dp if queued else formulas.looped_rate(concurrency, ttft, later, tpot)
    binding = _binding(decode, prompt, steps, slots, active)
    spread = (closed_first_tokens(ttft, residual, engine.burst, others * own),
              closed_tokens(tpot, 2 * burst / maximum(osl - 1, 1)))
    return Steady(ttft, tpot, rate, rate * osl, batch, decode, prompt, *spread, binding, waits)


def _binding(decode: dict[str, Any], prompt: dict[str, Any], steps: Any, slots: Any, active: Any) -> str:
    """The largest part of a request's time in the batch; the cache if it keeps requests out. For one load only."""
    if any(getattr(value, "ndim", 0) for value in (steps, slots, active)):
        return ""
    if slots > active:
        return "cache memory"
    share = {name: float(steps * decode.get(name, 0.0) / active + prompt.get(name, 0.0)) for name in decode}
    return max(share, key=lambda name: share[name])


def saturated(job: ServingJob, layout: ServingLayout, isl: int, osl: int, requests: int | None = None) -> Steady:
    """All requests queued from the start: the batch is as large as the memory and the engine allow."""
    room = capacity(job, layout, isl, osl)
    queued = room * layout.adp * layout.dp if requests is None else min(requests, room * layout.adp * layout.dp)
    plain = replace(job.engine, burst=0.0, together=0.0, joined=0.0)
    return steady(replace(job, engine=plain), layout, isl, osl, queued, room, queued=True)


def static_batch(job: ServingJob, layout: ServingLayout, isl: int, osl: int, batch: int) -> Steady:
    """One fixed batch: all prompts, then all decode steps; what exceeds the memory runs in further rounds."""
    net = network(job, layout)
    per_rank = ceil_div(batch, layout.adp * layout.dp)
    room = min(max(int(capacity(job, layout, isl, osl)), 1), per_rank)
    rounds = ceil(per_rank / room)
    prompt = {name: time * room for name, time in prompt_time(job, net, layout, isl, room).items()}
    decode = decode_step(job, net, layout, room, isl + osl / 2)
    steps = (osl - 1) / formulas.drafted_tokens(job.acceptance, job.drafts)
    once = whole(prompt) + steps * whole(decode)
    latency = rounds * once
    tpot = whole(decode) * steps / max(osl - 1, 1)
    ttft = whole(prompt) + loading_time(job, layout, isl, whole(prompt)) + (rounds - 1) * once / 2
    spread = closed_first_tokens(ttft, 0.0, 1.0, (rounds - 1) * once), closed_tokens(tpot, 0.0)
    return Steady(ttft, tpot, batch / latency, batch * osl / latency, room * layout.adp, decode,
                  {k: v / room for k, v in prompt.items()}, *spread, _binding(decode, prompt, steps, per_rank, room))


def at_rate(job: ServingJob, layout: ServingLayout, isl: int, osl: int, rate: float) -> Steady:
    """Open-loop arrivals at `rate` requests per second, below saturation; Infeasible beyond it."""
    if rate <= 0:
        raise OutOfRange(f"rate is {rate:g} requests/s, but must be above 0")
    room = capacity(job, layout, isl, osl)
    plain = replace(job, engine=replace(job.engine, burst=0.0, together=0.0, joined=0.0))
    top = saturated(job, layout, isl, osl)
    if rate >= top.rate:
        raise Infeasible(f"{rate:g} requests/s of {isl}+{osl} tokens are beyond layout {str(layout)!r}, which saturates"
                         f" at {top.rate:.3g} requests/s; use more replicas")
    low, high = 1e-9, room * layout.adp * layout.dp
    for _ in range(60):
        middle = (low + high) / 2
        over = steady(plain, layout, isl, osl, middle, room, queued=True).rate > rate
        low, high = (low, middle) if over else (middle, high)
    return _arriving(plain, layout, isl, osl, rate, steady(plain, layout, isl, osl, max(high, 1e-9), room))


def _arriving(job: ServingJob, layout: ServingLayout, isl: int, osl: int, rate: float, found: Steady) -> Steady:
    """The closed loop `found` of that rate with the latencies of requests that come at random: each meets as many
    others as there are on average."""
    own, step, each = float(whole(found.prompt)), float(whole(found.decode)), rate / (layout.dp * layout.adp)
    steps = max(osl - 1, 1) / float(formulas.drafted_tokens(job.acceptance, job.drafts))
    calm, stretch = 1 / layout.adp, 1 / (1 - each * own)
    batch = each * steps * step * stretch
    empty = float(whole(decode_step(job, network(job, layout), layout, calm, isl + osl / 2)))
    slope = max(step - empty, 0.0) / max(batch - calm, 1.0)
    tpot = (step + slope * min(batch, 1.0)) * stretch * steps / max(osl - 1, 1) if osl > 1 else 0.0
    group, pieces = _together(job, fresh_tokens(job, isl), float(job.engine.token_budget))
    ttft, at = open_first_tokens(each, own, step * (osl > 1), group if pieces == 1 else 1 / pieces, job.engine.mixed,
                                 batch)
    first = job.engine.first + float(loading_time(job, layout, isl, own))
    return replace(
        found, ttft=first + ttft, tpot=tpot, waits={}, ttft_at=Percentiles(first + at.p50, first + at.p99),
        tpot_at=open_tokens(tpot, batch, own / steps, slope, stretch, step / empty), rate=rate,
        tokens_per_s=rate * osl, in_flight=batch * layout.adp)
