"""Percentiles of requests that are all alike: exact limits, and the seeded event simulation."""

import math
from dataclasses import replace

import numpy
import pytest

from perfplan.catalog import Catalog
from perfplan.catalog.workloads import fixed_workload
from perfplan.errors import Infeasible
from perfplan.formulas.queueing import general_wait
from perfplan.formulas.serving import burst_wait
from perfplan.serving.curves import curve, with_budget
from perfplan.serving.deploy import deployment, serving_job
from perfplan.serving.estimate import at_rate
from perfplan.serving.layout import ServingLayout
from perfplan.serving.plan import clipped
from perfplan.serving.pools import Candidate, Limits, Traffic, aggregated, operating
from perfplan.serving.replay import replay
from perfplan.serving.simulate import Policy, Request, poisson, simulate
from perfplan.serving.spread import closed_first_tokens, closed_tokens, open_first_tokens, open_tokens

SKIP = 0.15


def waits_at_most(time, rate, service):
    """Erlang's distribution of the wait in M/D/1."""
    terms = ((rate * (k * service - time)) ** k / math.factorial(k) * math.exp(rate * (time - k * service))
             for k in range(int(time / service) + 1))
    return (1 - rate * service) * sum(terms)


def test_prompts_without_decodes_wait_as_an_m_d_1_queue():
    mean, at = open_first_tokens(2.0, 0.25, 0.0, 1.0, True, 0.0)
    assert mean == pytest.approx(0.25 + general_wait(0.5, 0.25, 0), rel=0.005)
    assert waits_at_most(at.p99 - 0.25, 2.0, 0.25) == pytest.approx(0.99, abs=0.002)
    assert at.p50 == pytest.approx(0.25, rel=0.05), "half of the requests find the engine idle"


def test_an_empty_engine_answers_within_a_step_and_the_prompt():
    mean, at = open_first_tokens(1e-6, 0.1, 0.02, 4.0, True, 50.0)
    assert mean == pytest.approx(0.1 + 0.02 + 0.01, rel=1e-3), "half of a step is left, the next has decode and prompt"
    assert at.p50 == pytest.approx(mean, rel=0.02) and at.p99 == pytest.approx(0.14, rel=0.01)


def test_prompts_beyond_the_budget_are_refused_in_one_sentence():
    with pytest.raises(Infeasible, match="more than steps take up"):
        open_first_tokens(10.0, 0.05, 0.1, 1.0, True, 20.0)


@pytest.mark.parametrize("isl, osl, own, fixed, slope, budget, mixed", [
    (1000, 200, 0.024, 0.008, 2e-5, 8192, True), (4000, 500, 0.3, 0.017, 1.6e-4, 8192, True),
    (4000, 500, 0.3, 0.017, 1.6e-4, 2048, True), (2000, 100, 0.15, 0.017, 1e-4, 8192, False)])
@pytest.mark.parametrize("load", [0.3, 0.6])
def test_random_arrivals_as_simulated(isl, osl, own, fixed, slope, budget, mixed, load):
    """Steps of `fixed` seconds, `slope` more for each decode, and `own` for a prompt."""
    steps = osl - 1
    rate = load / (own + steps * slope)
    tpot = fixed / (1 - rate * own - rate * steps * slope)
    batch, step, stretch = rate * steps * tpot, fixed + slope * rate * steps * tpot, 1 / (1 - rate * own)
    mean, first = open_first_tokens(rate, own, step, (budget - batch) / isl, mixed, batch)
    each = open_tokens(tpot, batch, own / steps, slope, stretch, step / fixed)
    run = simulate(
        Policy(100_000, budget, 1e12, mixed=mixed),
        lambda decodes, context, prompt, past: (fixed + slope * decodes if decodes else 0.0) + own * prompt / isl,
        poisson([(isl, osl)] * 4000, rate, seed=2))
    assert mean == pytest.approx(run.mean("ttft", SKIP), rel=0.06)
    assert first.p50 == pytest.approx(run.percentile("ttft", 0.5, SKIP), rel=0.12)
    assert first.p99 == pytest.approx(run.percentile("ttft", 0.99, SKIP), rel=0.17)
    assert each.p50 == pytest.approx(run.percentile("tpot", 0.5, SKIP), rel=0.08)
    assert each.p99 == pytest.approx(run.percentile("tpot", 0.99, SKIP), rel=0.17)


def test_a_closed_loop_spreads_uniformly_about_its_mean():
    at = closed_first_tokens(1.0, 0.2, 0.0, 0.0)
    assert (at.p50, at.p99) == pytest.approx((1.0, 0.9 + 0.2 * 0.99))
    assert closed_first_tokens(1.0, 0.0, 1.0, 0.4).p99 == pytest.approx(0.8 + 0.4 * 0.99)
    assert closed_tokens(0.02, 0.01).p50 == 0.02 and closed_tokens(0.02, 0.01).p99 == pytest.approx(0.0249)


@pytest.mark.parametrize("users", [16, 32])
@pytest.mark.parametrize("mixed, burst", [(True, 0.1), (False, 1.0)])
def test_a_closed_loop_of_ten_requests_per_user_as_simulated(users, mixed, burst):
    """Steps that mix see the burst once, in the first tenth; prompts before decodes keep users in step for ever."""
    isl, osl, own, fixed, slope = 8000, 200, 0.1, 0.012, 1e-4
    run = simulate(
        Policy(1000, 8192, 1e12, mixed=mixed),
        lambda decodes, context, prompt, past: (fixed + slope * decodes if decodes else 0.0) + own * prompt / isl,
        [Request(0.0, isl, osl)] * (10 * users), users=users)
    step, wait = fixed + slope * users, (users - 1) * own
    mean = own + step + float(burst_wait(users - 1, own, burst))
    at = closed_first_tokens(mean, step, burst, wait)
    assert mean == pytest.approx(run.mean("ttft"), rel=0.15)
    assert at.p50 == pytest.approx(run.percentile("ttft", 0.5), rel=0.2)
    assert at.p99 == pytest.approx(run.percentile("ttft", 0.99), rel=0.15)


JOB = serving_job("llama-3.1-8b", "dgx-h100", Catalog(), engine="vllm")


@pytest.mark.parametrize("load", [{"rate": 5.0}, {"concurrency": 32}, {"batch": 64}, {}])
def test_percentiles_are_in_order_and_what_they_assume_is_said(load):
    found = deployment(JOB, ServingLayout(), 1000, 200, **load)
    steady = found.steady
    assert 0 < steady.ttft_at.p50 <= steady.ttft_at.p99 and 0 < steady.tpot_at.p50 <= steady.tpot_at.p99
    assert steady.ttft_at.p50 <= 1.1 * steady.ttft and steady.tpot_at.p50 <= 1.001 * steady.tpot
    assert "requests that are all alike" in found.assumed


def test_tails_grow_with_the_rate():
    tails = [at_rate(JOB, ServingLayout(), 1000, 200, rate).ttft_at.p99 for rate in (2.0, 8.0, 16.0)]
    assert tails == sorted(tails) and tails[2] > 1.5 * tails[0]


def test_an_open_loop_obeys_little_s_law():
    found = at_rate(JOB, ServingLayout(), 1000, 200, 8.0)
    assert found.in_flight == pytest.approx(8.0 * 199 * found.tpot, rel=0.06)


@pytest.mark.parametrize("load", [0.3, 0.6])
@pytest.mark.parametrize("share", [0.9, 0.99])
def test_tokens_of_a_workload_are_as_late_as_simulated(load, share):
    """Outputs of different length: short ones meet few prompts, each of which weighs more."""
    workload = clipped(Catalog().workload("azure-conv"), JOB.model.max_position)
    found = curve(JOB, ServingLayout(), workload)
    rate, limits = load * float(found.mixed_rate[-1]), Limits(100.0, 10.0, share)
    one = aggregated([found], 1, limits, Traffic(rate))[0]
    run = replay(one, workload, rate, limits, requests=3000)
    assert operating(one, rate, share).tpot_percentile == pytest.approx(run.tpot, rel=0.1)
    assert found.stays[0] < found.stays[-1] and len(found.stays) == 6


@pytest.mark.parametrize("engine", ["trtllm", "sglang"])
def test_a_higher_rate_is_never_quicker(engine):
    job = serving_job("llama-3.1-8b", "dgx-h100", Catalog(), engine=engine)
    workload = clipped(Catalog().workload("azure-conv"), job.model.max_position)
    one = curve(job, ServingLayout(), workload)
    deployed = aggregated([one], 1, Limits(100.0, 10.0, 0.9), Traffic(1.0))[0]
    points = [operating(deployed, load * float(one.mixed_rate[-1]), 0.9) for load in (0.1, 0.2, 0.4, 0.6, 0.8)]
    for name in ("ttft", "ttft_percentile", "tpot", "tpot_percentile"):
        values = [getattr(point, name) for point in points]
        assert values == sorted(values) and values[0] < values[-1], name


WORKLOADS = {  # largest errors of TTFT and TPOT against the simulation
    "azure-conv": (0.16, 0.16), "azure-code": (0.34, 0.35), "sharegpt": (0.18, 0.5), "2000/200": (0.14, 0.17)}


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("load", [0.5, 0.75])
@pytest.mark.parametrize("share", [0.9, 0.99])
def test_requests_of_a_workload_are_as_late_as_simulated(name, load, share):
    """Outputs of different length: short ones meet few prompts, each of which weighs more, and those of the own step
    most of all. Launches are held at 500 us a layer: the longer they bind, the more the closed form exceeds the
    simulation (at 638 us p90 of azure-code by 28 %, p99 of sharegpt by 41 %). So is the rate of products at 0.9: at
    0.96 p99 of TTFT of azure-conv lies 17 % below the simulation."""
    found = fixed_workload(2000, 200) if name[0] == "2" else Catalog().workload(name)
    job = replace(JOB, engine=replace(JOB.engine, launch=5e-4, compute=0.9, cached=1.0))
    workload = clipped(found, job.model.max_position)
    one = curve(job, ServingLayout(), workload)
    rate, limits = load * float(one.mixed_rate[-1]), Limits(100.0, 10.0, share)
    deployed = aggregated([one], 1, limits, Traffic(rate))[0]
    runs = [replay(deployed, workload, rate, limits, requests=6000, seed=seed) for seed in (0, 1)]
    point = operating(deployed, rate, share)
    first, each = WORKLOADS[name]
    assert point.ttft_percentile == pytest.approx(sum(run.ttft for run in runs) / 2, rel=first)
    assert point.tpot_percentile == pytest.approx(sum(run.tpot for run in runs) / 2, rel=each)
    assert one.stays[0] <= one.stays[-1] * 1.0001 and len(one.stays) == 6


@pytest.mark.parametrize("layout, counts", [("tp1", 4), ("tp2", 2)])
def test_replicas_that_share_arrivals_are_as_late_as_simulated(layout, counts):
    """A request goes to the replica that is free first, so prompts come more evenly than at one replica."""
    workload = clipped(Catalog().workload("azure-conv"), JOB.model.max_position)
    one = curve(JOB, ServingLayout.parse(layout), workload)
    rate, limits = 0.7 * counts * float(one.mixed_rate[-1]), Limits(100.0, 10.0, 0.99)
    deployed = aggregated([one], counts * one.gpus, limits, Traffic(rate))[-1]
    run, point = replay(deployed, workload, rate, limits, requests=8000), operating(deployed, rate, 0.99)
    assert deployed.decodes == counts
    assert point.ttft_percentile == pytest.approx(run.ttft, rel=0.12)
    assert point.tpot_percentile == pytest.approx(run.tpot, rel=0.1)


def test_a_pipeline_that_mixes_is_as_late_as_simulated_while_its_prompts_are_few():
    job = serving_job("llama-3.1-70b", "dgx-h100", Catalog(), engine="vllm")
    workload = clipped(Catalog().workload("azure-conv"), job.model.max_position)
    one = curve(job, ServingLayout.parse("tp2 pp2"), workload)
    rate, limits = 0.35 * float(one.mixed_rate[-1]), Limits(100.0, 10.0, 0.9)
    deployed = aggregated([one], 4, limits, Traffic(rate))[0]
    run, point = replay(deployed, workload, rate, limits, requests=4000), operating(deployed, rate, 0.9)
    assert point.ttft_percentile == pytest.approx(run.ttft, rel=0.15)
    assert point.tpot_percentile == pytest.approx(run.tpot, rel=0.12)


def test_an_engine_that_does_not_mix_as_simulated():
    job = serving_job("llama-3.1-8b", "dgx-h100", Catalog(), engine="sglang")
    assert not job.engine.mixed
    workload = clipped(Catalog().workload("azure-conv"), job.model.max_position)
    one = curve(job, ServingLayout(), workload)
    rate, limits = 0.6 * float(one.mixed_rate[-1]), Limits(100.0, 10.0, 0.9)
    deployed = aggregated([one], 1, limits, Traffic(rate))[0]
    run, point = replay(deployed, workload, rate, limits, requests=8000), operating(deployed, rate, 0.9)
    assert point.ttft_percentile == pytest.approx(run.ttft, rel=0.1)
    assert point.tpot_percentile == pytest.approx(run.tpot, rel=0.1)


@pytest.mark.parametrize("layout, budget, error",
                         [("tp2", 8192, 0.12), ("tp1 pp4", 8192, 0.3), ("tp1 pp4", 2048, 0.2)])
@pytest.mark.parametrize("load", [0.5, 0.7])
def test_prefill_pools_are_as_late_as_simulated(layout, budget, error, load):
    """A pipeline's prompts travel with full steps, which a small budget keeps short."""
    job = with_budget(serving_job("llama-3.1-70b", "dgx-h100", Catalog(), engine="vllm"), budget)
    workload = clipped(Catalog().workload("azure-conv"), job.model.max_position)
    prefill, decode = (curve(job, ServingLayout.parse(text), workload) for text in (layout, "tp4"))
    rates, _ = prefill.prefill_at(numpy.array([load]), 2)
    one = Candidate("disaggregated", prefill, 2, decode, 1, 100.0, 1.0, "", 1.0)
    run = replay(one, workload, float(rates[0]), Limits(100.0, 10.0, 0.9), requests=6000)
    point = operating(one, float(rates[0]), 0.9)
    assert point.ttft_percentile == pytest.approx(run.ttft, rel=error)
