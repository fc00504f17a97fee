"""The arguments that the serving commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from perfplan.cli import options
from perfplan.cli.groups import Group
from perfplan.errors import OutOfRange
from perfplan.serving.words import ENGINE

__all__ = ["ENGINE", "Cached", "Concurrency", "Engine", "EngineOrLine", "Isl", "Kv", "LayoutText", "MeanIsl", "MeanOsl",
           "Osl", "Percentile", "Rate", "Steps", "Tpot", "Ttft", "Weights", "Workload"]

Engine = Annotated[
    str, typer.Option("--engine", metavar="ID[-RELEASE]", help="Serving engine of the catalog, such as trtllm-0.17.")
]
EngineOrLine = Annotated[
    str,
    typer.Option("--engine", metavar="ID[-RELEASE]", show_default=False,
                 help=f"Serving engine of the catalog, such as vllm-0.12; unless given, that of"
                      f" the launch line read or written, else {ENGINE}."),
]
Weights = Annotated[
    str,
    typer.Option("--weights", metavar="FORMAT", show_default=False,
                 help="Number format of the weights, such as fp8 or awq; the checkpoint's own unless given."),
]
Kv = Annotated[
    str, typer.Option("--kv", metavar="DTYPE", show_default=False, help="Number format of the cache; else bf16.")
]
LayoutText = Annotated[
    str, typer.Option("--layout", metavar="TOKENS", show_default=False,
                      help="The layout, such as 'tp4 pp1 ep8 adp2 dp1' (adp: attention data parallelism).")
]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", metavar="N", show_default=False, min=1, help="Requests in flight.")
]
Isl = Annotated[str, typer.Option("--isl", metavar="TOKENS", show_default=False, help="Tokens of a prompt.")]
Osl = Annotated[str, typer.Option("--osl", metavar="TOKENS", show_default=False, help="Tokens generated per request.")]
Workload = Annotated[
    str, typer.Option("--workload", metavar="ID|CSV", show_default=False,
                      help="Lengths and arrivals: a workload of the catalog, or a trace as CSV with isl and osl.")
]
MeanIsl = Annotated[
    str, typer.Option("--isl", metavar="TOKENS", show_default=False, help="Tokens of every prompt, without a workload.")
]
MeanOsl = Annotated[
    str, typer.Option("--osl", metavar="TOKENS", show_default=False, help="Tokens of every output, without a workload.")
]
PrefixHit = Annotated[
    float, typer.Option("--prefix-hit", metavar="X", help="Share of the prompt tokens whose cache is there already.")
]
Prefixes = Annotated[
    int, typer.Option("--prefixes", metavar="N", min=0,
                      help="Distinct prefixes that make these hits, each kept once; 0 = every request keeps its own.")
]
HostHit = Annotated[
    float, typer.Option("--host-hit", metavar="X", help="Share of the prompt tokens whose cache is in host memory.")
]
HostMemory = Annotated[
    str, typer.Option("--host-memory", metavar="B", show_default=False,
                      help="Host memory for cache of each accelerator, such as 200GiB, to see how long it remembers.")
]
HostBandwidth = Annotated[
    str, typer.Option("--host-bandwidth", metavar="B/s", show_default=False,
                      help="What copies reach of the host link, such as '50 GB/s'; the catalog's figure unless given.")
]
HostExperts = Annotated[
    float, typer.Option("--host-experts", metavar="X",
                        help="Share of the routed experts' weights that is kept in host memory and read from there.")
]
Imbalance = Annotated[
    float, typer.Option("--imbalance", metavar="X", help="Sequences of the fullest attention rank over the mean.")
]
Drafts = Annotated[
    int, typer.Option("--drafts", metavar="N", min=0, help="Draft tokens per step of speculative decoding or MTP.")
]
Acceptance = Annotated[
    float, typer.Option("--acceptance", metavar="X", help="Chance that one draft token is accepted.")
]
Rate = Annotated[
    str, typer.Option("--rate", metavar="R/s", show_default=False, help="Requests that arrive per second.")
]
Ttft = Annotated[str, typer.Option("--ttft", metavar="T", help="Limit on the time to the first token.")]
Tpot = Annotated[str, typer.Option("--tpot", metavar="T", help="Limit on the mean time per further token.")]
Percentile = Annotated[
    float, typer.Option("--percentile", metavar="P", help="Percentage of the requests that must meet each limit.")
]
Margin = Annotated[
    float | None,
    typer.Option("--margin", metavar="X", show_default=False,
                 help="Share by which TPOT may exceed its prediction and still meet its limit; unless given, that by"
                      " which one in ten measured deployments of dense or of MoE models does.")
]


def _steps(
    routing_skew: options.Skew = 1.0,
    routing: options.Routing = "",
    imbalance: Imbalance = 1.0,
    drafts: Drafts = 0,
    acceptance: Acceptance = 0.0,
    host_experts: HostExperts = 0.0,
) -> dict[str, Any]:
    if bool(drafts) != bool(acceptance):
        raise OutOfRange(f"--drafts {drafts} without --acceptance would only cost time; give --acceptance, such as 0.7"
                         if drafts else
                         f"--acceptance {acceptance:g} changes nothing without --drafts; give --drafts, such as 3")
    return locals()


def _cached(
    prefix_hit: PrefixHit = 0.0,
    prefixes: Prefixes = 0,
    host_hit: HostHit = 0.0,
    host_memory: HostMemory = "",
    host_bandwidth: HostBandwidth = "",
) -> dict[str, Any]:
    return locals()


Steps = Annotated[Any, Group(_steps)]
"""How work is spread over ranks, experts and draft tokens."""
Cached = Annotated[Any, Group(_cached)]
"""What `reuse_of` takes: the cache that requests find."""
