"""Where the optimizer state of a rank lies, and what updates it: device, host, NVMe; counts of subgroups by MILP.

All subgroups are alike, so a choice is how many go each way. The lanes (device, CPU, each direction of the host link
and of the disk) work side by side; the busiest sets the time, the fill of the first subgroup left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from perfplan.errors import Infeasible, OutOfRange
from perfplan.formulas import offload as forms
from perfplan.optimize.certificate import Certificate, of_solution
from perfplan.optimize.milp import solve
from perfplan.training.estimate import Estimate, estimate
from perfplan.training.host import host_rate
from perfplan.training.job import Job, host_link
from perfplan.training.layout import Layout
from perfplan.units import show

if TYPE_CHECKING:
    import pulp

__all__ = ["WAYS", "Choice", "Host", "Offload", "hidden_activations", "schedule_offload"]

BUFFERS = 2  # subgroups in flight where state is fetched
CHEAP = 0.01  # share of the step that copies of activations may cost


@dataclass(frozen=True)
class Way:
    """Where the state of a subgroup lies and where it is updated."""

    name: str
    home: str
    place: str


WAYS = (
    Way("resident", "device", "device"),
    Way("fetched", "host", "device"),
    Way("on the CPU", "host", "CPU"),
    Way("disk to device", "disk", "device"),
    Way("disk to CPU", "disk", "CPU"),
)


@dataclass(frozen=True)
class Host:
    """What an accelerator's share of its host offers. memory: for optimizer state [B]; disk: bandwidth of NVMe, each
    direction, 0 if there is none [B/s]."""

    memory: float = math.inf
    disk: float = 0.0


@dataclass(frozen=True)
class Choice:
    """Subgroups by way (in the order of WAYS); time of the update [s]; device, host: memory [B]; interval: k where one
    subgroup in k is fetched, else 0."""

    name: str
    counts: tuple[int, ...]
    time: float
    device: float
    host: float
    fits: bool
    interval: int = 0


@dataclass(frozen=True)
class Update:
    """The optimizer step of the busiest rank. parameters, subgroup [1]; state, weight: bytes per parameter; on_device:
    update of one parameter there [s]; rate: of the CPU [1/s]; link: (bandwidth [B/s], fraction reached); room: memory
    of the device beside everything else [B]."""

    parameters: float
    subgroup: float
    state: float
    weight: float
    on_device: float
    rate: float
    link: tuple[float, float]
    room: float
    host: Host

    @property
    def groups(self) -> int:
        """Subgroups of the rank."""
        return math.ceil(self.parameters / self.size - 1e-9)

    @property
    def size(self) -> float:
        """Parameters of a subgroup, no more than there are."""
        return min(self.subgroup, self.parameters)

    @property
    def bytes(self) -> float:
        """State of a subgroup [B]."""
        return self.size * self.state

    @cached_property
    def loads(self) -> tuple[Mapping[str, float], ...]:
        """Time that a subgroup takes of every lane, by way [s]."""
        copy = float(forms.host_copy_time(self.bytes, *self.link))
        up = float(forms.host_copy_time(self.size * self.weight, *self.link))
        both = {"host to device": copy, "device to host": copy}
        disk = float(forms.host_copy_time(self.bytes, self.host.disk, 1.0)) if self.host.disk else math.inf
        disks = {"disk read": disk, "disk write": disk}
        device = self.size * self.on_device
        fetched = {"device": float(forms.fetched_update_time(self.bytes, *self.link, device)), **both}
        there = float(forms.host_update_time(self.size, self.rate, self.weight, *self.link))
        cpu = {"CPU": there, "host to device": up}
        return {"device": device}, fetched, cpu, {**fetched, **disks}, {**cpu, **disks}

    @property
    def lanes(self) -> tuple[str, ...]:
        """Everything that may be the bottleneck."""
        return tuple(dict.fromkeys(lane for load in self.loads for lane in load))

    def choice(self, name: str, counts: tuple[int, ...], interval: int = 0) -> Choice:
        """What a choice takes."""
        time = max(sum(n * load.get(lane, 0.0) for n, load in zip(counts, self.loads, strict=True) if n)
                   for lane in self.lanes)
        resident, fetched, cpu, disk_device, disk_cpu = counts
        device = self.bytes * (resident + BUFFERS * (fetched + disk_device > 0))
        host = self.bytes * (fetched + cpu + BUFFERS * (disk_device + disk_cpu > 0))
        fits = device <= self.room and host <= self.host.memory and math.isfinite(time)
        return Choice(name, counts, time, device, host, fits, interval)


def _named(update: Update) -> list[Choice]:
    """The ways that have a name, all subgroups alike but for Deep Optimizer States."""
    groups = update.groups
    cpu, fetched = update.loads[2]["CPU"], update.loads[1]["device"]
    k = int(forms.best_interval(cpu, fetched))
    there = groups // k
    rows = [
        update.choice("all on the device", (groups, 0, 0, 0, 0)),
        update.choice("all on the CPU", (0, 0, groups, 0, 0)),
        update.choice("all fetched", (0, groups, 0, 0, 0), 1),
        update.choice(f"one in {k} fetched", (0, there, groups - there, 0, 0), k),
    ]
    return rows + ([update.choice("all on disk, CPU", (0, 0, 0, 0, groups))] if update.host.disk else [])


def _problem(update: Update) -> pulp.LpProblem:
    import pulp

    problem = pulp.LpProblem("offload", pulp.LpMinimize)
    time = problem.add_variable("time", 0)
    problem += time
    n = [problem.add_variable(f"n_{i}", 0, update.groups if update.host.disk or way.home != "disk" else 0,
                              pulp.LpInteger) for i, way in enumerate(WAYS)]
    problem += pulp.lpSum(n) == update.groups
    for lane in update.lanes:
        problem += time >= pulp.lpSum(
            load[lane] * count
            for load, count in zip(update.loads, n, strict=True)
            if math.isfinite(load.get(lane, math.inf))
        )
    for (first, second), memory, kept in (((1, 3), update.room, n[0]), ((3, 4), update.host.memory, n[1] + n[2])):
        if math.isinf(memory):
            continue
        buffers = problem.add_variable(f"buffers_{first}", cat=pulp.LpBinary)
        problem += n[first] + n[second] <= update.groups * buffers
        problem += update.bytes * (kept + BUFFERS * buffers) <= max(memory, 0.0)
    return problem


def best(update: Update, time_limit: float = 20.0) -> tuple[Choice, Certificate]:
    """The choice with the shortest update that fits, and how good it is known to be."""
    answer = solve(_problem(update), time_limit, gap=1e-6)
    if not answer.found:
        size = show(update.parameters * update.state, "B")
        room = show(max(update.room, 0.0), "B")
        raise Infeasible(f"{size} of optimizer state per accelerator do not fit into the {room} left on the device and"
                         f" the {show(update.host.memory, 'B')} of the host; give more --host-memory, a disk with"
                         " --nvme, or a layout that shards more")
    counts = [round(answer.values[f"n_{i}"]) for i in range(len(WAYS))]
    chosen = update.choice("best", (counts[0], counts[1], counts[2], counts[3], counts[4]))
    return chosen, replace(of_solution(answer, "MILP over subgroups", "s"), objective=chosen.time)


@dataclass(frozen=True)
class Offload:
    """Optimizer offload of one layout. plain, away: estimates with the state on the device and on the host; rows: the
    named choices and the best; flush: gradients copied to the host [s]; activations: layers whose activations leave
    at a cost of CHEAP or less, of how many, and what that frees on the fullest rank [B]."""

    plain: Estimate
    away: Estimate
    update: Update
    rows: tuple[Choice, ...]
    certificate: Certificate
    flush: float
    activations: tuple[int, int, float]

    def step(self, row: Choice) -> float:
        """Step time under a choice [s]."""
        base = self.plain if row.counts[0] == self.update.groups else self.away
        return float(base.step_time) - base.breakdown["optimizer"] + row.time


def hidden_activations(job: Job, layout: Layout, plain: Estimate) -> tuple[int, int, float]:
    """(layers whose activations can leave and come back with no more than CHEAP of the step exposed, layers, memory
    freed [B])."""
    layers, least, freed = len(job.model.layers), 0, 0.0
    most = layers
    while least < most:
        middle = (least + most + 1) // 2
        made = estimate(job, replace(layout, offload=(("acts", middle),)))
        if made.breakdown["offload"] <= CHEAP * made.step_time:
            least, freed = middle, plain.memory_total - made.memory_total
        else:
            most = middle - 1
    return least, layers, freed


def schedule_offload(
    job: Job, layout: Layout, host: Host, subgroup: float = 1e7, time_limit: float = 20.0
) -> Offload:
    """Named ways to place and update the optimizer state of a layout, and the best by MILP.

    subgroup: parameters updated at one time [1]; what `layout` itself says of offload is not looked at.
    """
    if not 1 <= subgroup <= 1e12:
        raise OutOfRange(f"a subgroup of {subgroup:g} parameters is not between 1 and 1e12")
    bare = replace(layout, offload=())
    plain, away = (estimate(job, at) for at in (bare, replace(layout, offload=(("optim", 0),))))
    state = job.recipe.master + job.moments[0]
    parameters = plain.memory["optimizer"] / state
    update = Update(parameters, subgroup, state, job.recipe.weight, plain.breakdown["optimizer"] / parameters,
                    host_rate(job), host_link(job), away.headroom, host)
    chosen, certificate = best(update, time_limit)
    flush = float(forms.host_copy_time(parameters * job.recipe.gradient, *host_link(job)))
    found = Offload(plain, away, update, (*_named(update), chosen), certificate, flush,
                    hidden_activations(job, bare, plain))
    quickest = min((row for row in found.rows if row.fits), key=found.step)  # with the state at home nothing is flushed
    return replace(found, rows=(*found.rows[:-1], replace(quickest, name="best")))
