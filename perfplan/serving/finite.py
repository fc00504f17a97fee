"""A test of finitely many requests, offered at a rate or all at once: what a load generator reports.

Prompts go first. They keep up with arrivals below saturation; beyond it they queue, and every request waits for half of
those that came too fast. Requests then decode beside the prompts that come after them, and the last ones alone.
"""

from __future__ import annotations

from math import inf, isfinite

from perfplan.errors import OutOfRange
from perfplan.formulas import serving as formulas
from perfplan.formulas.queueing import general_wait
from perfplan.serving.estimate import Steady, capacity, prompt_time
from perfplan.serving.job import ServingJob
from perfplan.serving.layout import ServingLayout
from perfplan.serving.step import decode_step, network, whole

__all__ = ["finite_test"]

ROUNDS = 40  # of the search for the requests in flight
INSTANT = 1e-9  # s, keeps divisions finite
CROWDED = 0.95  # utilisation up to which a finite test has the mean wait of an endless one


def finite_test(
    job: ServingJob, layout: ServingLayout, isl: int, osl: int, requests: int, rate: float = inf
) -> Steady:
    """`requests` requests offered at `rate` per second (inf: all at once); means over the test.

    Raises Infeasible if not one request fits, OutOfRange for a rate or a count that is not above 0.
    """
    if not rate > 0 or requests < 1:
        raise OutOfRange(f"a test offers {requests} requests at {rate:g}/s, but both must be above 0")
    room = capacity(job, layout, isl, osl) * layout.adp
    each = max(requests / layout.dp, 1.0)
    low, high = 0.0, min(each, room)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        _, in_flight = _run(job, layout, isl, osl, each, rate / layout.dp, middle)
        low, high = (middle, high) if in_flight > middle else (low, middle)
    return _run(job, layout, isl, osl, each, rate / layout.dp, high)[0]


def _run(job: ServingJob, layout: ServingLayout, isl: int, osl: int, requests: float, rate: float, flight: float
         ) -> tuple[Steady, float]:
    """The test of one replica if it decodes `flight` requests on average, and how many it then does decode."""
    net, context = network(job, layout), isl + osl / 2
    active = max(flight / layout.adp, 1 / layout.adp)
    beside = max(active - 1, 0.0) if job.engine.mixed else 0.0
    decode = decode_step(job, net, layout, active, context)
    step, steps = whole(decode), max(osl - 1, 0) / float(formulas.drafted_tokens(job.acceptance, job.drafts))
    prompt = prompt_time(job, net, layout, isl, 1.0, beside, context)
    if rate * whole(prompt) / layout.adp > 1:  # prompts queue, and share steps
        prompt = prompt_time(job, net, layout, isl, requests, beside, context)
    alone = whole(prompt_time(job, net, layout, isl))
    own = max(whole(prompt) / layout.adp, INSTANT)  # beside decodes a short prompt may cost nothing
    arrivals = requests / rate if isfinite(rate) else 0.0
    prompts = max(arrivals, requests * own)  # s until the last prompt is done
    busy, slots = requests * own / prompts, capacity(job, layout, isl, osl) * layout.adp
    makespan = prompts + steps * step
    crowded = max(requests * (own + steps * step / slots) - makespan, 0.0)  # s longer, as the batch is full
    queue = formulas.overload_wait(requests, own, rate) if busy >= 1 else (
        general_wait(min(rate * own, CROWDED), own, 0.0))
    done = requests / (makespan + crowded)
    decoding = min(float(formulas.overtaken(steps * step, busy, prompts)), max(slots, 1.0) / done)
    ttft = job.engine.first + alone + float(queue) + step / 2 * min(flight, 1.0) + crowded / 2
    tpot = decoding / (osl - 1) if osl > 1 else 0.0
    total = done * layout.dp
    return Steady(ttft, tpot, total, total * osl, flight, decode, prompt), done * decoding
