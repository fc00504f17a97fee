"""A small event simulation of continuous batching: what the closed forms of `plan` approximate, step by step.

The engine's policy is data. Times come from outside as a function of what a step carries, so the simulator knows no
hardware. The same requests, policy and times give the same result.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from perfplan.errors import OutOfRange

__all__ = ["Policy", "Request", "Run", "StepTime", "poisson", "simulate"]

StepTime = Callable[[int, float, float, float], float]
"""Seconds of a step with (decodes, mean tokens cached by each, prompt tokens, mean tokens that one of them attends
to)."""
ORDERS = ("fcfs", "shortest")


@dataclass(frozen=True)
class Policy:
    """How an engine forms batches. max_batch: sequences at once; token_budget: tokens of a step; chunked: prompts
    beyond the budget are split; mixed: prompts share a step with decodes; padding: batches up to which graphs are
    captured, ascending; room: tokens that the cache holds; order: who is admitted first, fcfs or shortest prompt;
    preempt: when the cache is full the youngest request gives its place up and is computed again, else room is
    reserved for whole requests at admission."""

    max_batch: int
    token_budget: int
    room: float
    chunked: bool = True
    mixed: bool = True
    padding: tuple[int, ...] = ()
    order: str = "fcfs"
    preempt: bool = True

    def __post_init__(self) -> None:
        """Reject what no engine can do."""
        if self.max_batch < 1 or self.token_budget < 1 or self.room < 1:
            raise OutOfRange("an engine needs room for at least one sequence, token per step and token of cache")
        if self.order not in ORDERS:
            raise OutOfRange(f"order {self.order!r} of admission is none of {', '.join(ORDERS)}")

    def padded(self, batch: int) -> int:
        """The batch that a captured graph runs."""
        index = bisect_left(self.padding, batch)
        return self.padding[index] if batch and index < len(self.padding) else batch


@dataclass(frozen=True)
class Request:
    """One request. arrival: [s]; isl, osl: tokens of prompt and output."""

    arrival: float
    isl: int
    osl: int


@dataclass
class _Live:
    request: Request
    index: int
    want: int  # tokens to prefill: the prompt, and after a preemption what was generated too
    done: int = 0  # of them prefilled
    made: int = 0  # tokens generated
    before: int = 0  # of them before the last admission

    @property
    def since(self) -> int:
        """Decode steps since the last admission, each of which cached a token."""
        return max(self.made - self.before - 1, 0)


@dataclass(frozen=True)
class Run:
    """What happened. ttft, tpot: per request in their order [s] (tpot 0 where one token was asked for); end: when the
    last request was done [s]; steps, preemptions: counts; busy: time in steps [s]; batch: mean decodes per step."""

    ttft: tuple[float, ...]
    tpot: tuple[float, ...]
    end: float
    steps: int
    preemptions: int
    busy: float
    batch: float

    def percentile(self, what: str, share: float, skip: float = 0.0) -> float:
        """Percentile of `ttft` or `tpot` over the requests after the first `skip` share of them [s]."""
        values = getattr(self, what)
        kept = sorted(values[int(len(values) * skip) :])
        return float(kept[min(int(share * len(kept)), len(kept) - 1)])

    def mean(self, what: str, skip: float = 0.0) -> float:
        """Mean of `ttft` or `tpot` over the requests after the first `skip` share of them [s]."""
        values = getattr(self, what)[int(len(getattr(self, what)) * skip) :]
        return float(sum(values) / len(values))


@dataclass
class _Engine:
    policy: Policy
    times: StepTime
    waiting: deque[_Live] = field(default_factory=deque)
    prompts: list[_Live] = field(default_factory=list)
    decodes: list[_Live] = field(default_factory=list)
    held: int = 0  # tokens cached or reserved
    preemptions: int = 0

    def reserve(self, live: _Live) -> int:
        """Cache that admission takes: the prompt and a token, or the whole request where nothing is preempted."""
        return live.want + 1 if self.policy.preempt else live.request.isl + live.request.osl

    def release(self, live: _Live) -> None:
        """Give back what a request holds."""
        self.held -= self.reserve(live) + live.since * self.policy.preempt

    def admit(self) -> None:
        if self.policy.order == "shortest" and len(self.waiting) > 1:
            self.waiting = deque(sorted(self.waiting, key=lambda live: (live.want, live.index)))
        while self.waiting and len(self.prompts) + len(self.decodes) < self.policy.max_batch:
            need = self.reserve(self.waiting[0])
            if self.held + need > self.policy.room:
                if not self.prompts and not self.decodes:
                    first = self.waiting[0].request
                    raise OutOfRange(
                        f"a request of {first.isl}+{first.osl} tokens does not fit into a cache of "
                        f"{self.policy.room:g} tokens"
                    )
                return
            self.held += need
            self.prompts.append(self.waiting.popleft())

    def chunks(self) -> list[tuple[_Live, int]]:
        """The pieces of prompts that the next step computes."""
        budget = self.policy.token_budget - (len(self.decodes) if self.policy.mixed else 0)
        taken: list[tuple[_Live, int]] = []
        for live in self.prompts:
            left = live.want - live.done
            piece = min(left, budget) if self.policy.chunked else left
            if piece < 1 or (taken and piece > budget):
                break
            taken.append((live, piece))
            budget -= piece
        return taken

    def preempt(self) -> None:
        """Take room back from the youngest while the decodes do not fit."""
        while self.policy.preempt and self.held > self.policy.room and len(self.decodes) + len(self.prompts) > 1:
            pool = self.decodes if self.decodes else self.prompts
            youngest = max(pool, key=lambda live: live.index)
            pool.remove(youngest)
            self.release(youngest)
            youngest.want, youngest.done = youngest.request.isl + youngest.made, 0
            youngest.before = youngest.made
            self.waiting.appendleft(youngest)
            self.preemptions += 1


def _advance(
    engine: _Engine,
    pieces: list[tuple[_Live, int]],
    decoding: list[_Live],
    now: float,
    first: list[float],
    last: list[float],
) -> None:
    """Book what a step that ended `now` has done."""
    for live in decoding:
        live.made += 1
        engine.held += engine.policy.preempt
    for live, piece in pieces:
        live.done += piece
        if live.done >= live.want:
            engine.prompts.remove(live)
            engine.decodes.append(live)
            live.made += 1
            if first[live.index] < 0:
                first[live.index] = now
    for live in [live for live in engine.decodes if live.made >= live.request.osl]:
        engine.decodes.remove(live)
        last[live.index] = now
        engine.release(live)


def _arrive(engine: _Engine, arriving: deque[tuple[int, Request]], now: float, came: list[float], users: int) -> None:
    """Let requests in: those whose time has come, or, with users, the next of each user whose last is done."""
    inside = len(engine.waiting) + len(engine.prompts) + len(engine.decodes)
    while arriving and (inside < users if users else arriving[0][1].arrival <= now):
        index, request = arriving.popleft()
        engine.waiting.append(_Live(request, index, request.isl))
        came[index] = now if users else request.arrival
        inside += 1


def simulate(policy: Policy, times: StepTime, requests: Sequence[Request], users: int = 0) -> Run:
    """Run the requests, ordered by arrival, through one engine from empty to empty; users: a closed loop of so many,
    who all begin at once and send the next request when the last is answered, whatever the arrivals say."""
    engine, arriving = _Engine(policy, times), deque(enumerate(requests))
    first, last, came = [-1.0] * len(requests), [0.0] * len(requests), [0.0] * len(requests)
    now = busy = decoded = 0.0
    steps = 0
    while arriving or engine.waiting or engine.prompts or engine.decodes:
        _arrive(engine, arriving, now, came, users)
        engine.admit()
        pieces = engine.chunks()
        decoding = list(engine.decodes) if policy.mixed or not pieces else []
        if not pieces and not decoding:
            now = arriving[0][1].arrival
            continue
        tokens = sum(piece for _, piece in pieces)
        seen = sum((live.done + piece / 2) * piece for live, piece in pieces) / tokens if tokens else 0.0
        context = sum(live.want + live.since for live in decoding) / len(decoding) if decoding else 0.0
        time = times(policy.padded(len(decoding)), context, float(tokens), seen)
        now, busy, decoded, steps = now + time, busy + time, decoded + len(decoding) * time, steps + 1
        _advance(engine, pieces, decoding, now, first, last)
        engine.preempt()
    ttft = tuple(one - before for one, before in zip(first, came, strict=True))
    tpot = tuple(
        (end - one) / (r.osl - 1) if r.osl > 1 else 0.0 for one, end, r in zip(first, last, requests, strict=True)
    )
    return Run(ttft, tpot, now, steps, engine.preemptions, busy, decoded / busy if busy else 0.0)


def poisson(lengths: Sequence[tuple[int, int]], rate: float, variation: float = 1.0, seed: int = 0) -> list[Request]:
    """Requests of these lengths, arriving at `rate` [1/s]; variation: squared coefficient of the times between
    arrivals: exponential at 1, more regular below (gamma), burstier above (two exponential phases, balanced means)."""
    import random

    if rate <= 0:
        raise OutOfRange(f"a rate of {rate:g} requests/s brings no request; give more than 0")
    chance, now, found = random.Random(seed), 0.0, []
    rare = (1 - ((variation - 1) / (variation + 1)) ** 0.5) / 2 if variation > 1 else 0.5
    for isl, osl in lengths:
        if variation > 1:
            share = rare if chance.random() < rare else 1 - rare
            now += chance.expovariate(2 * share * rate)
        elif variation > 0:
            now += chance.gammavariate(1 / variation, variation / rate)
        else:
            now += 1 / rate
        found.append(Request(now, int(isl), int(osl)))
    return found
