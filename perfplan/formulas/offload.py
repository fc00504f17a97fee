"""State and activations kept in host memory: copies over the host link."""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import formula

__all__ = ["host_copy_time", "resident_memory"]


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
