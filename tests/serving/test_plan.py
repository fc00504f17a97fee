"""Plans of deployments: they meet what they promise, against enumeration and the simulator; what cannot be is said."""

import pytest

from perfplan.api import plan_serve, simulate_serve
from perfplan.catalog import Catalog
from perfplan.errors import Infeasible, OutOfRange, SpecError, UnknownName
from perfplan.serving.plan import front
from perfplan.serving.pools import Limits, Traffic, aggregated, disaggregated, knee, operating
from perfplan.serving.replay import step_times

CATALOG = Catalog()
WANTED = {"cluster": "dgx-h100", "gpus": 8, "workload": "azure-conv", "rate": "8/s", "ttft": "1 s", "tpot": "40 ms"}


def planned(model="llama-3.1-8b", **changes):
    return plan_serve(model, catalog=CATALOG, **{**WANTED, **changes})


@pytest.fixture(scope="module")
def plan():
    return planned()


def test_the_best_serves_the_rate_within_the_limits_on_the_fewest(plan):
    best, point = plan.best, plan.point
    assert best.goodput >= 8 and best.gpus <= 8
    assert point.ttft_percentile <= 1 and point.tpot_percentile <= 0.04 * 1.001
    assert all(best.gpus <= one.gpus for one in plan.candidates if one.feasible)
    assert {one.kind for one in plan.candidates} == {"aggregated", "disaggregated"}


def test_the_best_carries_its_error_bands(plan):
    for band, value in ((plan.ttft_band, plan.point.ttft_percentile), (plan.tpot_band, plan.point.tpot_percentile)):
        assert band[0] < value < band[1]
    assert any("error band of" in note for note in plan.caveats) == (plan.tpot_band[1] > 0.04 or plan.ttft_band[1] > 1)


def test_no_deployment_that_was_counted_does_better(plan):
    """Every aggregated one, and every pair of pools one by one."""
    limits, traffic = plan.limits, plan.traffic
    every = aggregated(plan.curves, 8, limits, traffic)
    assert len(every) == plan.tried["aggregated"]
    own = [c for c in plan.curves if c.job.engine.token_budget == 8192 or c.layout.pp > 1]
    apart, pairs = disaggregated(own, 8, limits, traffic, plan.workload.isl.values)
    assert pairs == plan.tried["disaggregated"]
    assert min(one.gpus for one in [*every, *apart] if one.feasible) == plan.best.gpus


def test_faster_limits_and_higher_rates_need_more(plan):
    assert planned(tpot="9 ms").best.gpus >= plan.best.gpus
    assert planned(rate="30/s").best.gpus > plan.best.gpus


def test_more_traffic_makes_everything_slower(plan):
    low, high = (operating(plan.best, rate, 0.9) for rate in (1.0, 7.0))
    assert low.ttft < high.ttft and low.tpot_percentile < high.tpot_percentile and low.batch < high.batch


@pytest.mark.parametrize("model, rate", [("llama-3.1-8b", "8/s"), ("qwen3-30b-a3b", "12/s")])
def test_the_simulator_agrees(model, rate):
    found = planned(model, rate=rate, sensitivity=False, top=4)
    for point, run in zip(found.points, simulate_serve(found, count=4), strict=True):
        if point.load < 0.85:
            assert run.tpot == pytest.approx(point.tpot_percentile, rel=0.2)
            # prompts that wait are computed together in one step, of which the closed form knows nothing
            assert 0.65 * point.ttft_percentile < run.ttft < 1.2 * point.ttft_percentile


def test_the_simulation_is_the_same_each_time(plan):
    assert simulate_serve(plan, count=1, requests=300) == simulate_serve(plan, count=1, requests=300)
    assert simulate_serve(plan, count=1, requests=300, seed=1) != simulate_serve(plan, count=1, requests=300)


def test_the_simulation_counts_who_meets_the_limits(plan):
    run, tight = simulate_serve(plan, count=1)[0], simulate_serve(planned(tpot="9 ms"), count=1)[0]
    assert run.good <= min(run.quick, run.smooth) <= 1 and run.holds(0.9)
    assert run.good >= run.quick + run.smooth - 1
    assert tight.holds(tight.smooth) == (tight.smooth <= tight.quick) and not run.holds(1.01)


def test_prompts_of_one_step_do_not_attend_to_each_other(plan):
    """A step with several short prompts takes less than one with a single prompt of their tokens."""
    times = step_times(plan.best.prefill, 16384.0)
    assert times(0, 0.0, 8000.0, 500.0) < 0.95 * times(0, 0.0, 8000.0, 4000.0)
    assert times(0, 0.0, 1000.0, 500.0) == pytest.approx(
        float(plan.best.prefill.prompts[plan.best.prefill.lengths.searchsorted(1000.0)]), rel=0.1)


def test_tpot_is_planned_below_its_limit_by_the_error_of_its_kind():
    limits = planned(objective="goodput").limits
    assert limits.margin == CATALOG.bands().excess("serving", moe=False) > 0
    assert limits.planned * (1 + limits.margin) == pytest.approx(0.04)
    careful, bold = (planned(objective="goodput", kinds=("aggregated",), tpot="7.5 ms", margin=margin).best
                     for margin in (0.5, 0.0))
    slow, slower = (operating(one, one.goodput, 0.9).tpot_percentile for one in (careful, bold))
    assert slow <= 0.005 * 1.001 < slower <= 0.0075 * 1.001 and careful.goodput < bold.goodput
    with pytest.raises(OutOfRange, match="margin is -1"):
        planned(margin=-1)


def test_limits_below_the_floor_state_it():
    with pytest.raises(Infeasible, match=r"TTFT of 1.00 ms .* floor of \d"):
        planned(ttft="1 ms")
    with pytest.raises(Infeasible, match=r"TPOT of 100 us .* floor of \d"):
        planned(tpot="100 us")


def test_a_rate_beyond_any_deployment_says_what_is_reached():
    with pytest.raises(Infeasible, match=r"5000 requests/s are beyond .* about \d+ accelerators would do"):
        planned(rate="5000/s")


def test_a_model_that_fits_nowhere():
    with pytest.raises(Infeasible, match="no layout of deepseek-v3"):
        planned("deepseek-v3", gpus=2)


def test_users_in_flight_obey_little(plan):
    found = planned(rate=None, concurrency=40, think="5 s", sensitivity=False)
    point = found.point
    steps = found.best.decode.steps
    assert pytest.approx(point.rate * (5 + point.ttft + steps * point.tpot), rel=0.05) == 40


def test_users_wait_for_each_other_beyond_the_knee(plan):
    """Far below it a request takes about what it takes alone; no point lies below the asymptotes."""
    found = knee(plan.best, Traffic(users=40.0, think=5.0))
    assert found.users == pytest.approx((5 + found.alone) / found.turn) and found.least == found.alone
    for rate in (0.05 / found.turn, 0.5 / found.turn, 0.9 / found.turn):
        point = operating(plan.best, rate, 0.9)
        response = point.ttft + plan.best.decode.steps * point.tpot
        users = rate * (5 + response)
        assert response > knee(plan.best, Traffic(users=users, think=5.0)).least * 0.99
        assert rate < 0.1 / found.turn or response > 1.1 * found.alone


def test_bursts_cost(plan):
    random_, bursty = planned(arrivals=1, sensitivity=False), planned(arrivals=6, sensitivity=False)
    assert bursty.best.goodput / bursty.best.gpus < random_.best.goodput / random_.best.gpus


def test_the_answer_under_other_lengths_is_told(plan):
    assert len(plan.flips) == 5
    half, twice = plan.flips[1].goodput, plan.flips[0].goodput
    assert half > plan.best.goodput > twice


def test_a_narrower_cache_holds_more():
    wide, narrow = (planned("llama-3.1-70b", kv=(kv,), sensitivity=False) for kv in ("bf16", "fp8"))
    rooms = [{str(c.layout): c.room for c in p.curves} for p in (wide, narrow)]
    assert all(rooms[1][name] > room for name, room in rooms[0].items() if room < 1000)


def test_prefixes_found_in_the_cache_save_prefill_but_not_memory(plan):
    found = planned(prefix_hit=0.6, sensitivity=False)
    before, after = (next(c for c in p.curves if str(c.layout) == "tp1") for p in (plan, found))
    assert 1 < before.prompt / after.prompt < 1 / (1 - 0.6)
    point, run = found.point, simulate_serve(found, count=1)[0]
    assert run.tpot == pytest.approx(point.tpot_percentile, rel=0.2)
    assert 0.6 * point.ttft_percentile < run.ttft < 1.25 * point.ttft_percentile
    assert before.room == after.room and any("60 % of the prompt tokens" in note for note in found.caveats)


def test_drafts_that_are_accepted_serve_more(plan):
    found = planned(drafts=2, acceptance=0.8, sensitivity=False)
    before, after = (next(c for c in p.curves if str(c.layout) == "tp1") for p in (plan, found))
    assert after.steps == pytest.approx(before.steps / (1 + 0.8 + 0.64))


def test_the_fullest_attention_rank_sets_the_pace():
    wanted = {"rate": "12/s", "sensitivity": False}
    even, uneven = (planned("qwen3-30b-a3b", imbalance=x, **wanted) for x in (1.0, 1.5))
    before, after = ({str(c.layout): c for c in p.curves if c.job.engine.token_budget == 8192} for p in (even, uneven))
    wide = before["tp1 ep4 adp4"], after["tp1 ep4 adp4"]
    assert wide[1].at(wide[1].step, 20) > wide[0].at(wide[0].step, 20) and wide[1].room < wide[0].room
    assert after["tp4"].step[0] == before["tp4"].step[0]


@pytest.mark.parametrize("text", ["tp1", "tp2", "tp4 pp2"])
@pytest.mark.parametrize("batch", [4.0, 32.0])
def test_curves_say_what_the_estimate_says(text, batch):
    """Requests all alike: the rate at a batch is that of `estimate serve` with as many in flight."""
    from dataclasses import replace

    from perfplan.catalog.workloads import fixed_workload
    from perfplan.serving.curves import curve
    from perfplan.serving.deploy import serving_job
    from perfplan.serving.estimate import steady
    from perfplan.serving.layout import ServingLayout

    job = serving_job("llama-3.1-8b", "dgx-h100", CATALOG, engine="vllm")
    job = replace(job, engine=replace(job.engine, burst=0.0))
    layout = ServingLayout.parse(text)
    one = curve(job, layout, fixed_workload(1000, 200))
    given = steady(job, layout, 1000, 200, batch)
    assert one.at(one.mixed_rate, batch) == pytest.approx(float(given.rate), rel=0.06)
    assert one.at(one.step, batch) == pytest.approx(sum(map(float, given.decode.values())), rel=0.06)


def test_what_a_batch_cannot_meet_a_larger_one_is_not_trusted_with(plan):
    for one in plan.curves:
        values = one.decode_tpot_percentile(0.99)
        assert (values[1:] >= values[:-1]).all()


def test_objective_and_kind():
    most = planned(objective="goodput", kinds=("aggregated",), sensitivity=False)
    assert most.best.gpus == 8 and set(most.tried) == {"aggregated"}
    assert most.best.goodput == max(one.goodput for one in most.candidates)


def test_the_front_trades_throughput_for_latency(plan):
    for kind in plan.tried:
        points = [p for p in front(plan, 6) if p.kind == kind]
        assert points == sorted(points, key=lambda p: p.tokens_per_gpu)
        assert len(points) > 2


def test_pools_need_a_link_and_limits_a_share(plan):
    assert Limits(1, 1, 0.9).share == 0.9 and Traffic(1.0).arrivals == 1.0
    with pytest.raises(OutOfRange, match="percentile is 99999"):
        planned(percentile=99999)


@pytest.mark.parametrize(
    "changes, error, words",
    [
        ({"rate": None}, OutOfRange, "one of the two"),
        ({"concurrency": 5}, OutOfRange, "one of the two"),
        ({"workload": ""}, OutOfRange, "give a workload"),
        ({"isl": 100, "osl": 10}, OutOfRange, "not both"),
        ({"workload": "azure-cod"}, UnknownName, "azure-code"),
        ({"gpus": 0}, OutOfRange, "gpus is 0"),
        ({"objective": "fun"}, OutOfRange, "gpus, goodput"),
        ({"kinds": ("both",)}, OutOfRange, "aggregated"),
        ({"tpot": "0 s"}, OutOfRange, "above 0"),
        ({"weights": "nvfp4"}, SpecError, "does not have"),
        ({"workload": "", "isl": 200000, "osl": 10}, OutOfRange, "more than the 131072"),
        ({"prefix_hit": 1.0}, OutOfRange, "prefix hit of 1"),
        ({"arrivals": -1}, OutOfRange, "coefficient of variation"),
        ({"rate": None, "concurrency": -3}, OutOfRange, "above 0"),
    ],
)
def test_bad_input_is_one_sentence(changes, error, words):
    with pytest.raises(error, match=words):
        planned(**changes)
