"""Cache that requests find instead of computing it: prefixes on the device, and cache kept in host memory."""

from __future__ import annotations

from dataclasses import dataclass

from perfplan.errors import OutOfRange
from perfplan.units import parse

__all__ = ["Reuse", "reuse_of"]


@dataclass(frozen=True)
class Reuse:
    """What of the prompts is there already. hit: share of the prompt tokens whose cache is on the device [1]; prefixes:
    distinct prefixes that make these hits and are kept once on each attention rank, 0 = every request keeps its own;
    host_hit: share of the prompt tokens whose cache is in host memory [1]; host_memory: host memory of each accelerator
    that holds cache, 0 = as much as that takes [B]; bandwidth: of the host link, 0 = as the catalog has it [B/s]."""

    hit: float = 0.0
    prefixes: int = 0
    host_hit: float = 0.0
    host_memory: float = 0.0
    bandwidth: float = 0.0

    def __post_init__(self) -> None:
        """Reject shares that are none, and settings that change nothing."""
        for name, share in (("prefix hit", self.hit), ("host hit", self.host_hit)):
            if not 0 <= share < 1:
                raise OutOfRange(f"a {name} of {share:g} is outside 0 to below 1 of the prompt tokens; write 0.6, say")
        if self.found >= 1:
            raise OutOfRange(f"a prefix hit of {self.hit:g} and a host hit of {self.host_hit:g} leave nothing of a"
                             " prompt to compute; together they must stay below 1")
        if self.prefixes < 0 or (self.prefixes and not self.hit):
            raise OutOfRange(f"prefixes are {self.prefixes}, but without --prefix-hit they change nothing; give both")
        if self.host_memory and not self.host_hit:
            raise OutOfRange("host memory changes nothing without --host-hit; give the share of the prompt tokens that"
                             " is found there")

    @property
    def found(self) -> float:
        """Share of the prompt tokens that need no computing [1]."""
        return self.hit + self.host_hit


def reuse_of(prefix_hit: float = 0.0, prefixes: int = 0, host_hit: float = 0.0, host_memory: float | str = 0.0,
             host_bandwidth: float | str = 0.0) -> Reuse:
    """The same from numbers or texts such as "200 GiB" and "50 GB/s"."""
    memory, bandwidth = (parse(given, unit, option) if isinstance(given, str) and given else float(given or 0.0)
                         for given, unit, option in ((host_memory, "B", "--host-memory"),
                                                     (host_bandwidth, "B/s", "--host-bandwidth")))
    return Reuse(prefix_hit, prefixes, host_hit, memory, bandwidth)
