"""Plans: objectives, ranges of accelerators, ties, runs, infeasible jobs and what would help, the same answer twice."""

import math
from functools import cache

import pytest

from perfplan.api import plan_train, training_job
from perfplan.catalog import Catalog
from perfplan.errors import BadLayout, Infeasible, OutOfRange, PerfplanError
from perfplan.training.plan import HARDWARE, gpu_counts
from perfplan.training.search import search
from perfplan.training.space import declare, restrict

JOB = {"cluster": "dgx-h100", "global_batch": 64, "seq_len": 4096}
CATALOG = Catalog()


@cache
def planned(model="llama-3-8b", gpus=16, **more):
    """A plan; the tests that ask for the same one share it."""
    return plan_train(model, **({"catalog": CATALOG} | JOB | {"gpus": gpus} | more))


def infeasible(**more):
    with pytest.raises(Infeasible) as caught:
        planned(**more)
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_plan_is_complete():
    plan = planned(tokens="1T")
    times = [e.step_time for e in plan.estimates]
    assert len(plan.estimates) == 10 and times == sorted(times)
    assert plan.tied[0] and len(plan.tied) == 10
    for e in plan.estimates:
        assert e.fits and e.band[0] < e.step_time < e.band[1]
        assert sum(e.breakdown.values()) == pytest.approx(e.step_time)
    assert set(plan.sensitivities) == set(HARDWARE)
    assert plan.sensitivities["peak FLOP/s"] < -0.5
    [(gpus, axes, found)] = plan.searches
    assert gpus == 16 and found.size == axes.size and f"{found.size:,} layouts" in plan.certificate
    assert plan.best.binding in plan.best.breakdown


def test_ties_are_counted_in_all_that_fits_and_broken():
    plan, more = planned(top=3), planned(top=2000)
    limit = plan.best.step_time * math.exp(plan.ties.band.high)
    assert plan.ties.count == more.ties.count == sum(more.tied) == sum(e.step_time <= limit for e in more.estimates)
    assert 3 < plan.ties.count < 2000 and all(plan.tied)
    pick, memory = plan.ties.pick, plan.job.cluster.accelerator.memory
    assert pick.step_time <= limit * (1 + 1e-9) and pick.fits
    roomy = [e for e in plan.estimates if e.headroom >= plan.ties.margin * memory]
    assert not roomy or pick.headroom >= plan.ties.margin * memory

    def dimensions(layout):
        return sum(d > 1 for d in (layout.tp, layout.cp, layout.pp, layout.vpp, layout.ep, layout.etp, layout.dp))

    assert all(dimensions(pick.layout) <= dimensions(e.layout) for e in roomy)


@pytest.mark.parametrize("objective", ["cost", "min-gpus"])
def test_ties_speak_of_the_objective(objective):
    plan = planned(gpus=(4, 32), objective=objective, top=50)
    assert plan.tied[0] and plan.ties.count >= sum(plan.tied)
    if objective == "min-gpus":
        assert {e.layout.world for e, tied in zip(plan.estimates, plan.tied, strict=True) if tied} == {4}


def test_the_same_job_gives_the_same_plan():
    one, two = (planned.__wrapped__("qwen3-30b-a3b", 32, top=20) for _ in range(2))
    assert [str(e.layout) for e in one.estimates] == [str(e.layout) for e in two.estimates]
    assert [e.breakdown for e in one.estimates] == [e.breakdown for e in two.estimates]
    assert one.certificate == two.certificate and one.sensitivities == two.sensitivities
    assert one.layouts().equals(two.layouts()) and one.front().equals(two.front())


def test_layouts_of_a_plan_differ():
    layouts = [str(e.layout) for e in planned(top=50).estimates]
    assert len(set(layouts)) == 50


def test_frames_add_up():
    plan = planned()
    frame = plan.breakdown().drop(columns="layout")
    assert frame.drop(columns="step_time_s").sum(axis=1).to_numpy() == pytest.approx(frame["step_time_s"].to_numpy())
    frame = plan.memory().drop(columns="layout")
    assert frame.drop(columns="memory_bytes").sum(axis=1).to_numpy() == pytest.approx(frame["memory_bytes"].to_numpy())
    rejected, (_, _, found) = plan.rejected(), plan.searches[0]
    assert rejected["layouts"].sum() + found.feasible == found.size
    assert (plan.layouts()["headroom_bytes"] >= 0).all()


def test_the_front_is_not_dominated():
    front = planned(gpus=(4, 16)).front()
    points = front[["step_time_s", "memory_bytes", "gpus"]].to_numpy()
    for point in points:
        assert not ((points <= point).all(axis=1) & (points < point).any(axis=1)).any()
    assert len(set(front["gpus"])) > 1


# ---------------------------------------------------------------- ranges and objectives
def test_counts_of_a_range_double():
    assert gpu_counts(256, 2048) == (256, 512, 1024, 2048)
    assert gpu_counts(16, 16) == (16,)
    assert gpu_counts(3, 20) == (3, 6, 12, 20)


def test_objectives_choose_what_they_say():
    fastest = planned(gpus=(4, 32)).best
    cheapest = planned(gpus=(4, 32), objective="cost", top=50).best
    fewest = planned(gpus=(4, 32), objective="min-gpus", top=50).best
    assert fastest.layout.world == 32
    assert fewest.layout.world == 4
    assert cheapest.step_time * cheapest.layout.world <= fastest.step_time * fastest.layout.world
    assert planned(gpus=(4, 32), objective="days").best.layout == fastest.layout


@pytest.mark.parametrize(("gpus", "batch"), [(48, 64), (16, 24)])
def test_the_cheapest_layout_may_leave_accelerators_idle(gpus, batch):
    mine = training_job("llama-3-8b", **(JOB | {"gpus": gpus, "global_batch": batch}))
    everything = search(mine, restrict(declare(mine), "vpp1 cp1"), 10**6).best
    cheapest = min(p.step_time * p.layout.world for p in everything)
    best = planned(gpus=gpus, global_batch=batch, objective="cost", fix="vpp1 cp1").best
    assert best.step_time * best.layout.world <= cheapest * (1 + 1e-9)


def test_min_gpus_under_a_deadline_takes_no_more_than_it_needs():
    run = planned(gpus=8, tokens="10B").run
    assert run is not None
    plan = planned(gpus=(2, 32), objective="min-gpus", tokens="10B", deadline=run.time * 1.001)
    assert plan.best.layout.world == 8
    for e in plan.estimates:
        assert e.step_time / (64 * 4096) * 10e9 <= run.time * 1.001


def test_a_run_is_accounted_for():
    plan = planned(tokens="1T")
    run, e = plan.run, plan.best
    assert run is not None and run.cost is not None and run.energy is not None
    assert run.time == pytest.approx(1e12 / (64 * 4096) * e.step_time, rel=1e-9)
    assert run.accelerator_hours == pytest.approx(run.time / 3600 * 16)
    assert run.cost > 0 and run.energy > 0
    assert planned().run is None


def test_a_wider_choice_is_never_worse():
    whole, part = planned().best, planned(fix="tp2 sp1").best
    assert whole.step_time <= part.step_time
    assert (part.layout.tp, part.layout.sp) == (2, 1)


def test_more_memory_is_never_slower():
    small, large = (planned(catalog=Catalog(settings=(f"accelerator.memory={size}GiB",))).best for size in (40, 160))
    assert large.step_time <= small.step_time
    assert small.memory_total <= 40 * 2**30


# ---------------------------------------------------------------- infeasible
def test_too_little_memory_names_the_smallest_changes():
    said = infeasible(model="llama-3-70b", gpus=4)
    assert "fits" in said and "GiB per accelerator" in said and "accelerators" in said


@pytest.mark.parametrize(("model", "gpus"), [("llama-3-70b", 4), ("llama-3-8b", 1)])
def test_the_changes_named_do_help_and_less_does_not(model, gpus):
    import re

    said = infeasible(model=model, gpus=gpus)
    need = float(re.search(r"([\d.]+) GiB per accelerator", said)[1])
    more = Catalog(settings=(f"accelerator.memory={need * 1.01:.3f}GiB",))
    assert planned(model, gpus, catalog=more).best.fits
    less = Catalog(settings=(f"accelerator.memory={need * 0.98:.3f}GiB",))
    infeasible(model=model, gpus=gpus, catalog=less)
    count = int(re.search(r"(\d+) accelerators", said)[1])
    assert planned(model, count).best.fits
    infeasible(model=model, gpus=count // 2)


def test_a_deadline_that_cannot_be_met_names_the_fastest_run():
    said = infeasible(tokens="15T", deadline="1 d")
    assert "deadline" in said and "fastest" in said


def test_no_lawful_layout_is_told_apart_from_no_memory():
    said = infeasible(fix="tp3")
    assert "no layout is possible" in said and "attention heads" in said


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"objective": "beauty"}, OutOfRange),
        ({"deadline": "30 d"}, OutOfRange),
        ({"fix": "dp8"}, BadLayout),
        ({"fix": "tq8"}, BadLayout),
        ({"forbid": "sp0 sp1"}, BadLayout),
        ({"gpus": 0}, OutOfRange),
        ({"gpus": 1 << 21}, OutOfRange),
        ({"tokens": "many"}, PerfplanError),
        ({"tokens": -1.0}, PerfplanError),
    ],
)
def test_senseless_wishes_are_one_sentence(more, error):
    with pytest.raises(error) as caught:
        planned(**more)
    assert "\n" not in str(caught.value)


def test_more_accelerators_are_offered_only_if_what_was_fixed_fits_there():
    assert "accelerators" not in infeasible(fix="zero0 tp1 pp1").split("it would fit with")[1].split(" or ")[-1]


@pytest.mark.parametrize("gpus", [(0, 8), (16, 8)])
def test_ranges_that_are_none_are_refused(gpus):
    with pytest.raises(OutOfRange):
        gpu_counts(*gpus)


@pytest.mark.parametrize("top", [0, -1])
def test_no_layouts_cannot_be_asked_for(top):
    with pytest.raises(PerfplanError):
        planned(top=top)
