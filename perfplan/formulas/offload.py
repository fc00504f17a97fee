"""State and activations kept in host memory: copies over the host link."""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import ceil, formula, maximum

__all__ = [
    "best_interval",
    "fetched_update_time",
    "host_copy_time",
    "host_update_time",
    "interleaved_update_time",
    "resident_memory",
]

_DOS = "training_communication.md section 8 (Maurya et al. 2024, Deep Optimizer States) [derived]"


@formula("t_h2d", "s", source="size over what a copy engine reaches of the link; both directions run at once")
def host_copy_time(size: Any, bandwidth: Any, reached: Any) -> Any:
    """Time to copy between accelerator and host memory, in either direction.

    size : bytes copied [B]
    bandwidth : host link of one accelerator, one direction [B/s]
    reached : fraction of the link that copies reach [1]

    >>> host_copy_time(20e9, 63e9, 0.8)
    0.3968253968253968
    """
    return size / (bandwidth * reached)


@formula("M_res", "B", source="derived: offloaded layers keep on the device what they do not move")
def resident_memory(saved: Any, moved: Any, share: Any) -> Any:
    """Activations of a layer that stay on the device between forward and backward, averaged over layers.

    saved : kept for backward, on the device or the host [B]
    moved : part of it that an offloaded layer moves to the host [B]
    share : share of the layers that offload [1]

    >>> resident_memory(10e9, 8e9, 0.25)
    8000000000.0
    """
    return saved - share * moved


@formula("t_cpu", "s", source=_DOS)
def host_update_time(parameters: Any, rate: Any, weight: Any, bandwidth: Any, reached: Any) -> Any:
    """Time of an optimizer step on the CPU, and of the copy of the new weights to the accelerator.

    parameters : parameters that the rank updates [1]
    rate : parameters that its share of the CPU updates per second [1/s]
    weight : bytes per weight copied up [B]
    bandwidth : host link of one accelerator, one direction [B/s]
    reached : fraction of the link that copies reach [1]

    The 5.95e9 parameters of the paper's log without its method took 3.98 s, the copy included (1.5e9 per second):

    >>> round(host_update_time(5.95e9, 1.5e9, 0, 31.5e9, 0.8), 2)
    3.97
    """
    return parameters / rate + host_copy_time(parameters * weight, bandwidth, reached)


@formula("t_gpu", "s", source=_DOS)
def fetched_update_time(state: Any, bandwidth: Any, reached: Any, update: Any) -> Any:
    """Time to fetch optimizer state from the host, update it on the accelerator and send it back, both ways at once.

    state : master weights and moments fetched [B]
    bandwidth : host link of one accelerator, one direction [B/s]
    reached : fraction of the link that copies reach [1]
    update : time of the update itself [s]

    >>> fetched_update_time(12e9, 25e9, 0.8, 0.05)
    0.65
    """
    return host_copy_time(state, bandwidth, reached) + update


@formula("T_update", "s", source=_DOS)
def interleaved_update_time(host: Any, device: Any, interval: Any) -> Any:
    """Time of the optimizer step when the accelerator updates one subgroup in `interval` and the host the others.

    host : time if the host updated all [s]
    device : time if the accelerator fetched and updated all [s]
    interval : subgroups per subgroup of the accelerator [1]

    >>> interleaved_update_time(4.0, 6.0, 2), interleaved_update_time(4.0, 6.0, 1)
    (3.0, 6.0)
    """
    return maximum((interval - 1) * host, device) / interval


@formula("k*", "1", source=_DOS)
def best_interval(host: Any, device: Any) -> Any:
    """Interval at which the accelerator keeps up with the host: it fetches and updates one subgroup in k.

    The least interval at which the host is the slower; the one below it may be quicker still where the accelerator is
    hardly the slower there (`interleaved_update_time` tells).

    host : time if the host updated all, or one subgroup [s]
    device : time if the accelerator fetched and updated the same [s]

    >>> best_interval(4.0, 6.0), interleaved_update_time(4.0, 6.0, 3)
    (3, 2.6666666666666665)
    """
    return 1 + ceil(device / host)
