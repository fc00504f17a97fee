"""State in host memory: optimizer state updated by the CPU or fetched for the update, weights fetched when needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perfplan.errors import MissingField
from perfplan.formulas import compute, offload
from perfplan.formulas.core import total
from perfplan.training.job import Job, host_link
from perfplan.training.layout import Layout

__all__ = ["caveats", "host_rate", "on_host", "update", "weight_copies"]


def on_host(layout: Layout, name: str) -> bool:
    """Whether `off=` names `name`."""
    return any(word == name for word, _ in layout.offload)


def host_rate(job: Job) -> float:
    """Parameters that an accelerator's share of the CPU updates per second."""
    rate = job.framework.host_update
    if rate is None:
        raise MissingField(
            f"framework {job.framework.id} states no host_update, which off=optim needs; add it to its YAML"
        )
    return rate


def update(job: Job, layout: Layout, owned: Sequence[Any], device: Any, window: Any) -> tuple[Any, Any]:
    """(optimizer step, exposed flush of gradients) [s] with the optimizer state on the host.

    owned: parameters of each class that the rank updates; device: time of that update on the accelerator; window:
    backward pass behind which gradients may leave. One subgroup in K (`off=optim:K`) is fetched and updated there.
    """
    link, interval = host_link(job), dict(layout.offload)["optim"]
    parameters = total("N_own", "1", {f"class {index}": size for index, size in enumerate(owned, start=1)})
    state = job.recipe.master + job.moments[0]
    flush = offload.host_copy_time(parameters * job.recipe.gradient, *link)
    shown = compute.exposed_time(flush, window, job.overlapped("offload"))
    here = offload.fetched_update_time(parameters * state, *link, device)
    if interval == 1:
        return here, shown
    there = offload.host_update_time(parameters, host_rate(job), job.recipe.weight, *link)
    return (offload.interleaved_update_time(there, here, interval) if interval else there), shown


def weight_copies(job: Job, held: Any, ahead: Any, behind: Any) -> Any:
    """Exposed copies of a rank's share of the weights, `held` bytes, once per pass and micro-batch [s]."""
    copy, share = offload.host_copy_time(held, *host_link(job)), job.overlapped("offload")
    return compute.exposed_time(copy, ahead, share) + compute.exposed_time(copy, behind, share)


def caveats(job: Job, layout: Layout) -> tuple[str, ...]:
    """What the estimate of an offloading layout takes for granted."""
    if not layout.offload:
        return ()
    bandwidth, reached = host_link(job)
    words = [
        f"offload: copies are assumed to reach {100 * reached:.0f}% of a host link of {bandwidth / 1e9:g} GB/s;"
        " whether the host has the memory is not checked"
    ]
    if on_host(layout, "optim"):
        words.append("offload: every accelerator's share of the host updates as fast as one measured alone")
    return tuple(words)
