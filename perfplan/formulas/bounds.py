"""What no layout and no schedule can beat: arithmetic, memory traffic, and the cut between fast domains."""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import formula, maximum, minimum

__all__ = ["cut_floor", "flop_floor", "host_floor", "read_floor", "traffic_floor"]

_ALL = "derived: every resource of the whole machine in use all the time"


@formula("T_flop", "s", source=_ALL)
def flop_floor(flops: Any, accelerators: Any, peak: Any) -> Any:
    """Least time of the arithmetic of a step, spread evenly and at the data sheet's peak.

    flops : floating-point operations of one number format [FLOP]
    accelerators : accelerators of the job [1]
    peak : dense peak of that format, data sheet [FLOP/s]

    >>> flop_floor(989e12 * 8, 8, 989e12)
    1.0
    """
    return flops / (accelerators * peak)


@formula("T_hbm", "s", source=_ALL)
def traffic_floor(weights: Any, accelerators: Any, cache: Any, bandwidth: Any) -> Any:
    """Least time to read the weights once and write them once, less what the caches of all accelerators hold.

    weights : weights of the model [B]
    accelerators : accelerators of the job [1]
    cache : last-level cache of one accelerator [B]
    bandwidth : memory bandwidth of one accelerator [B/s]

    >>> traffic_floor(100.0, 2, 10.0, 45.0)
    2.0
    """
    return maximum(2 * weights - accelerators * cache, 0.0) / (accelerators * bandwidth)


@formula("T_read", "s", source=_ALL)
def read_floor(weights: Any, cached: Any, accelerators: Any, cache: Any, bandwidth: Any) -> Any:
    """Least time to read weights and the cache of all sequences once, less what the chips' caches may have kept.

    weights : weights that one token needs [B]
    cached : keys, values and states that the step reads, all sequences [B]
    accelerators : accelerators of the replica [1]
    cache : last-level cache of one accelerator [B]
    bandwidth : memory bandwidth of one accelerator [B/s]

    >>> read_floor(100.0, 60.0, 2, 10.0, 35.0)
    2.0
    """
    return maximum(weights + cached - accelerators * cache, 0.0) / (accelerators * bandwidth)


@formula("T_cut", "s", source="derived: a fast domain holds all layers, or passes on the tokens that it computes")
def cut_floor(parameters: Any, least: Any, tokens: Any, hidden: Any, wire: Any, islands: Any, bandwidth: Any) -> Any:
    """Least time of what must enter a fast domain in one step: reduced gradients, or one activation per token.

    A domain that holds every dense layer takes part in their gradients' reduction and must receive what the others
    found. One that does not receives an activation, or its gradient, for each of its tokens; the domain with the most
    work has at least its share of them. Experts may lie anywhere and do not count.

    parameters : dense parameters that learn [1]
    least : bytes per gradient on the wire at the least: 4 bits [B]
    tokens : tokens of a step [1]
    hidden : width of the model [1]
    wire : bytes per element of an activation on the wire at the least: 8 bits [B]
    islands : fast domains of the job [1]
    bandwidth : what enters one domain per second, all its links [B/s]

    >>> cut_floor(8e9, 0.5, 4e6, 4096, 1.0, 8, 400e9), cut_floor(8e9, 0.5, 4e6, 4096, 1.0, 1, 400e9)
    (0.00512, 0.0)
    """
    gradients, activations = parameters * least, tokens / islands * hidden * wire
    return minimum(gradients, activations) / bandwidth * minimum(islands - 1, 1)


@formula("T_host", "s", source="derived: state that no accelerator holds crosses the host links both ways every step")
def host_floor(state: Any, accelerators: Any, memory: Any, bandwidth: Any) -> Any:
    """Least time to fetch, and to send back, the state of training that the memory of the accelerators cannot hold.

    state : weights, gradients and optimizer state [B]
    accelerators : accelerators of the job [1]
    memory : memory of one accelerator [B]
    bandwidth : host link of one accelerator, one direction [B/s]

    >>> host_floor(200e9, 1, 80e9, 60e9), host_floor(200e9, 4, 80e9, 60e9)
    (2.0, 0.0)
    """
    return maximum(state - accelerators * memory, 0.0) / (accelerators * bandwidth)
