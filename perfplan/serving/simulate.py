"""A small event simulation of continuous batching: what the closed forms of `plan` approximate, step by step.

The engine's policy is data. Times come from outside as a function of what a step carries, so the simulator knows no
hardware. The same requests, policy and times give the same result.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from perfplan.errors import OutOfRange

__all__ = ["Policy", "Request", "Run", "StepTime", "pipeline", "poisson", "simulate", "staged"]

StepTime = Callable[[int, float, float, float], float]
"""Seconds of a step with (decodes, mean tokens cached by each, prompt tokens, mean tokens that one of them attends
to)."""
ORDERS = ("fcfs", "shortest")
NEVER = float("inf")  # s


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
    before: int = 0  # tokens generated before the last admission
    joined: int = 0  # decode steps of the engine when its own began


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
    """What runs. Decodes advance all at once: `turns` counts their steps, `ends` says after which each is done."""

    policy: Policy
    times: StepTime
    waiting: deque[_Live] = field(default_factory=deque)
    prompts: list[_Live] = field(default_factory=list)
    decodes: dict[int, _Live] = field(default_factory=dict)
    ends: list[tuple[int, int]] = field(default_factory=list)  # (turns, index), a heap; preempted ones stay in it
    turns: int = 0
    began: int = 0  # of all decodes, tokens cached when they began less the turns then
    held: int = 0  # tokens cached or reserved
    preemptions: int = 0

    @property
    def inside(self) -> int:
        """Requests of the engine."""
        return len(self.waiting) + len(self.prompts) + len(self.decodes)

    @property
    def context(self) -> float:
        """Mean tokens cached by each decode."""
        return self.began / len(self.decodes) + self.turns if self.decodes else 0.0

    def join(self, live: _Live) -> None:
        """A prompt is done and its first token out: it decodes from the next step on."""
        live.joined = self.turns
        self.decodes[live.index] = live
        self.began += live.want - live.joined
        heappush(self.ends, (self.turns + live.request.osl - live.before - 1, live.index))

    def leave(self, live: _Live) -> None:
        """A decode is done or preempted and gives back what it holds."""
        del self.decodes[live.index]
        self.began -= live.want - live.joined
        self.held -= self.reserve(live) + (self.turns - live.joined) * self.policy.preempt

    def done(self) -> Iterator[_Live]:
        """Take out the decodes that have all their tokens."""
        while self.ends and self.ends[0][0] <= self.turns:
            turns, index = heappop(self.ends)
            live = self.decodes.get(index)
            if live is not None and live.joined + live.request.osl - live.before - 1 == turns:
                self.leave(live)
                yield live

    def reserve(self, live: _Live) -> int:
        """Cache that admission takes: the prompt and a token, or the whole request where nothing is preempted."""
        return live.want + 1 if self.policy.preempt else live.request.isl + live.request.osl

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
            youngest = max(self.decodes.values() or self.prompts, key=lambda live: live.index)
            if self.decodes:
                self.leave(youngest)
                youngest.before += self.turns - youngest.joined + 1
            else:
                self.prompts.remove(youngest)
                self.held -= self.reserve(youngest)
            youngest.want, youngest.done = youngest.request.isl + youngest.before, 0
            self.waiting.appendleft(youngest)
            self.preemptions += 1


def _advance(
    engine: _Engine, pieces: list[tuple[_Live, int]], decoding: int, now: float, first: list[float], last: list[float]
) -> None:
    """Book what a step that ended `now` has done."""
    engine.turns += decoding > 0
    engine.held += decoding * engine.policy.preempt
    for live, piece in pieces:
        live.done += piece
        if live.done >= live.want:
            engine.prompts.remove(live)
            engine.join(live)
            if first[live.index] < 0:
                first[live.index] = now
    for live in engine.done():
        last[live.index] = now


def _carried(pieces: list[tuple[_Live, int]]) -> tuple[float, float]:
    """(prompt tokens of a step, mean tokens that one of them attends to)."""
    tokens = sum(piece for _, piece in pieces)
    return float(tokens), sum((live.done + piece / 2) * piece for live, piece in pieces) / tokens if tokens else 0.0


def _arrive(engine: _Engine, arriving: deque[tuple[int, Request]], now: float, came: list[float], users: int) -> None:
    """Let requests in: those whose time has come, or, with users, the next of each user whose last is done."""
    inside = engine.inside
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
        decoding = len(engine.decodes) if policy.mixed or not pieces else 0
        if not pieces and not decoding:
            now = arriving[0][1].arrival
            continue
        time = times(policy.padded(decoding), engine.context if decoding else 0.0, *_carried(pieces))
        now, busy, decoded, steps = now + time, busy + time, decoded + decoding * time, steps + 1
        _advance(engine, pieces, decoding, now, first, last)
        engine.preempt()
    ttft = tuple(one - before for one, before in zip(first, came, strict=True))
    tpot = tuple(
        (end - one) / (r.osl - 1) if r.osl > 1 else 0.0 for one, end, r in zip(first, last, requests, strict=True)
    )
    return Run(ttft, tpot, now, steps, engine.preemptions, busy, decoded / busy if busy else 0.0)


def pipeline(policy: Policy, times: StepTime, requests: Sequence[Request], stages: int) -> tuple[float, ...]:
    """Times to the first token of prompts in a pipeline that computes nothing else: as many steps are under way as it
    has stages, each takes what waits when it begins, and none overtakes another. times: of one stage."""
    engine, arriving = _Engine(policy, times), deque(enumerate(requests))
    free, ends, found = [0.0] * stages, deque[float](maxlen=stages), [0.0] * len(requests)
    now = 0.0
    while arriving or engine.prompts:
        now = max(now, ends[0] if len(ends) == stages else 0.0)
        now = now if engine.prompts else max(now, arriving[0][1].arrival)
        while arriving and arriving[0][1].arrival <= now:
            index, request = arriving.popleft()
            engine.prompts.append(_Live(request, index, request.isl))
        pieces = engine.chunks()
        time, out = times(0, 0.0, *_carried(pieces)), now
        for stage in range(stages):
            free[stage] = out = max(out, free[stage]) + time
        ends.append(out)
        for live, piece in pieces:
            live.done += piece
            if live.done >= live.want:
                engine.prompts.remove(live)
                found[live.index] = out - live.request.arrival
    return tuple(found)


def staged(policy: Policy, times: StepTime, requests: Sequence[Request], stages: int) -> Run:
    """Run the requests through a pipeline that mixes prompts and decodes: as many groups of requests as stages, whose
    steps follow each other through them; a request joins the smallest group. policy: of a group; times: of a stage."""
    engines, arriving = [_Engine(policy, times) for _ in range(stages)], deque(enumerate(requests))
    first, last = [-1.0] * len(requests), [0.0] * len(requests)
    ready, free = [0.0] * stages, [0.0] * stages
    busy = decoded = 0.0
    steps = 0
    while arriving or any(engine.inside for engine in engines):
        at = min(range(stages), key=ready.__getitem__)
        engine, now = engines[at], ready[at]
        while arriving and arriving[0][1].arrival <= now:
            index, request = arriving.popleft()
            least = min(range(stages), key=lambda i: engines[i].inside)
            engines[least].waiting.append(_Live(request, index, request.isl))
            ready[least] = ready[least] if ready[least] < NEVER else now
        if not engine.inside:
            ready[at] = arriving[0][1].arrival if arriving else NEVER
            continue
        engine.admit()
        pieces = engine.chunks()
        decoding = len(engine.decodes) if policy.mixed or not pieces else 0
        time, out = times(decoding, engine.context if decoding else 0.0, *_carried(pieces)), now
        for stage in range(stages):
            free[stage] = out = max(out, free[stage]) + time
        ready[at], busy, decoded, steps = out, busy + time, decoded + decoding * time, steps + 1
        _advance(engine, pieces, decoding, out, first, last)
        engine.preempt()
    ttft = tuple(one - r.arrival for one, r in zip(first, requests, strict=True))
    tpot = tuple((end - one) / (r.osl - 1) if r.osl > 1 else 0.0
                 for one, end, r in zip(first, last, requests, strict=True))
    preempted = sum(engine.preemptions for engine in engines)
    return Run(ttft, tpot, max(last), steps, preempted, busy, stages * decoded / busy if busy else 0.0)


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
