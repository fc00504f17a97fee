"""Optimizer offload: the closed form, the MILP against every named way, what does not fit."""

import math
import random
from itertools import product

import pytest

from perfplan.api import schedule_offload
from perfplan.errors import BadQuantity, Infeasible
from perfplan.formulas import offload as forms
from perfplan.overlap.offload import WAYS, Host, Update, best
from perfplan.training.estimate import estimate
from perfplan.training.layout import Layout

from .jobs import shipped


def update(groups=10, room=math.inf, host=math.inf, disk=0.0, on_device=1e-12, rate=1e9):
    """Subgroups of 1e6 parameters, 12 MB of state, links of 10 GB/s."""
    return Update(groups * 1e6, 1e6, 12.0, 2.0, on_device, rate, (10e9, 1.0), room, Host(host, disk))


def test_the_best_interval_is_that_of_the_closed_form_or_the_one_below():
    rng = random.Random(1)
    for _ in range(200):
        host, device = rng.uniform(1, 10), rng.uniform(1, 40)
        times = {k: forms.interleaved_update_time(host, device, k) for k in range(1, 50)}
        k = int(forms.best_interval(host, device))
        assert min(times, key=times.get) in (k - 1, k) and (k - 1) * host >= device > (k - 2) * host


def test_lanes_by_hand():
    work = update()
    cpu, copy = 1e6 / 1e9 + 2e6 / 10e9, 12e6 / 10e9
    assert work.choice("", (0, 0, 10, 0, 0)).time == pytest.approx(10 * cpu)
    assert work.choice("", (0, 10, 0, 0, 0)).time == pytest.approx(10 * (copy + 1e-6))
    both = work.choice("", (0, 5, 5, 0, 0))
    assert both.time == pytest.approx(5 * copy + 5 * 2e6 / 10e9)  # the link up carries state and new weights
    assert (both.device, both.host, both.fits) == (2 * 12e6, 10 * 12e6, True)
    assert not work.choice("", (0, 0, 0, 0, 10)).fits  # there is no disk


def test_the_milp_finds_the_best_of_all_choices():
    rng = random.Random(2)
    for _ in range(20):
        groups = rng.randint(1, 7)
        work = update(groups, rng.uniform(0, 8) * 12e6, rng.uniform(2, 8) * 12e6, rng.choice([0.0, 3e9, 20e9]),
                      rng.uniform(0.1, 2) * 1e-9, rng.uniform(0.2, 3) * 1e9)
        every = [work.choice("", counts) for counts in product(range(groups + 1), repeat=len(WAYS))
                 if sum(counts) == groups]
        able = [choice for choice in every if choice.fits]
        if not able:
            with pytest.raises(Infeasible, match="do not fit into"):
                best(work)
            continue
        chosen, certificate = best(work)
        assert chosen.fits and chosen.time == pytest.approx(min(choice.time for choice in able))
        assert certificate.proven


def found(layout="tp8 sp1 dp1 zero1", model="llama-3.1-70b", **more):
    return schedule_offload(model, cluster="dgx-h100", layout=layout, global_batch=16, seq_len=4096,
                            framework="deepspeed", catalog=shipped(), **more)


def test_no_named_way_that_fits_is_faster():
    for more in ({}, {"host_memory": "60GiB", "nvme": "5GB/s"}):
        made = found(**more)
        assert made.rows[-1].name == "best" and made.rows[-1].fits
        assert made.step(made.rows[-1]) <= min(made.step(row) for row in made.rows if row.fits)
        assert not made.rows[0].fits and made.certificate.proven
    plain = found("dp8 zero1", "llama-3-8b")
    assert plain.step(plain.rows[-1]) == pytest.approx(plain.plain.step_time, rel=1e-3)  # it fits as it is


def test_all_on_the_cpu_is_what_the_layout_token_costs():
    made = found()
    cpu = next(row for row in made.rows if row.name == "all on the CPU")
    priced = estimate(made.away.job, Layout.parse("tp8 sp1 dp1 zero1 off=optim"))
    assert made.step(cpu) == pytest.approx(priced.step_time, rel=2e-3)  # whole subgroups
    k = next(row.interval for row in made.rows if row.interval > 1)
    priced = estimate(made.away.job, Layout.parse(f"tp8 sp1 dp1 zero1 off=optim:{k}"))
    assert next(made.step(row) for row in made.rows if row.interval == k) == pytest.approx(priced.step_time, rel=2e-3)


def test_gradients_leave_behind_the_backward_pass_and_activations_where_they_find_room():
    made = found()
    assert 0 <= made.away.breakdown["offload"] <= made.flush
    layers, of, freed = made.activations
    assert 0 <= layers <= of == 80 and (freed > 0) == (layers > 0)
    more = estimate(made.away.job, Layout.parse(f"tp8 sp1 dp1 zero1 off=acts:{layers + 1}"))
    assert more.breakdown["offload"] > 0.01 * more.step_time


def test_what_cannot_be_is_told():
    with pytest.raises(Infeasible, match="give more --host-memory, a disk with --nvme"):
        found(host_memory="1GiB")
    with pytest.raises(BadQuantity, match="3x"):
        found(subgroup="3x")
