"""Shares of requests that meet a limit, against a simulated queue and the search of DistServe."""

import random

import numpy
import pytest

from perfplan.serving.mixing import quantile
from perfplan.serving.queues import FULL, Service, attained, mean_wait
from perfplan.serving.simulate import poisson
from perfplan.validation.distserve import instances, pairs, placements

TWO = Service(numpy.array([0.1, 0.7]), numpy.array([0.5, 0.5]), numpy.array([0.1, 0.7]))


def waits(rate, count=60_000):
    chance, now, free, found = random.Random(1), 0.0, 0.0, []
    for _ in range(count):
        now += chance.expovariate(rate)
        begin = max(now, free)
        service = chance.choice((0.1, 0.7))
        free = begin + service
        found.append(free - now)
    return numpy.array(found)


@pytest.mark.parametrize("limit", [0.8, 1.5, 3.0])
def test_the_share_that_meets_a_limit(limit):
    assert float(attained(TWO, 1.75, limit)) == pytest.approx((waits(1.75) <= limit).mean(), abs=0.06)


def test_percentile_and_share_are_inverse():
    time = quantile(lambda limit: attained(TWO, 1.75, limit), 0.9)
    assert float(attained(TWO, 1.75, time)) == pytest.approx(0.9, abs=1e-3)
    assert quantile(lambda limit: attained(TWO, 2.6, limit), 0.9) == float("inf") == float(mean_wait(TWO, 2.6, 1))


def test_columns_agree_with_numbers_and_full_queues_meet_nothing():
    rates = numpy.array([0.5, 1.0, 1.01 * FULL / TWO.mean])
    found = attained(TWO, rates, 1.0)
    assert found.tolist() == [pytest.approx(float(attained(TWO, r, 1.0))) for r in rates]
    assert found[0] > found[1] > found[2] == 0


@pytest.mark.parametrize("variation, load", [(0.25, 0.6), (1.0, 0.3), (4.0, 0.3), (4.0, 0.6), (169.0, 0.3), (169, 0.6)])
def test_irregular_arrivals_wait_as_simulated(variation, load):
    """Bursts of two phases: GI/M/1, whose wait the formula for many servers gets right with the variation found."""
    chance, free, found = random.Random(4), 0.0, []
    for request in poisson([(1, 1)] * 200_000, load, variation, seed=7):
        begin = max(request.arrival, free)
        free = begin + chance.expovariate(1.0)
        found.append(begin - request.arrival)
    served = Service(exponential := -numpy.log1p(-(numpy.arange(2000) + 0.5) / 2000), numpy.full(2000, 1 / 2000),
                     exponential)
    assert float(mean_wait(served, load, 1, variation)) == pytest.approx(sum(found) / len(found), rel=0.12)


def test_percentile_of_a_service_alone():
    assert TWO.percentile(0.5) == 0.1 and TWO.percentile(0.51) == 0.7


def test_nine_configurations_of_four_accelerators():
    assert sorted(instances(40, 40, 3)) == [(1, 1), (1, 2), (2, 1)]
    assert len(pairs(40, 40, 4)) == 9


def test_other_lengths_change_the_winner():
    """The trap of the reference: single-turn lengths double the rate and change the layout."""
    fit = {
        "prefill": {
            "1": ["18.10 ms", "0.10191 ms", "7.12 ns"],
            "2": ["14.74 ms", "0.06858 ms", "2.45 ns"],
        },
        "decode": {"1": ["19.93 ms", "0.000627 ms", "0.03851 ms"], "2": ["13.29 ms", "0.000341 ms", "0.06296 ms"]},
    }
    job = {"heads": 40, "layers": 40, "hidden": 5120, "gpus": 4, "usable": "73.905 GiB", "share": 0.9, **fit}
    limits = {"ttft": "200 ms", "tpot": "100 ms"}
    multi = placements({**job, **limits, "isl": 674, "osl": 199})[0]
    single = placements({**job, **limits, "isl": 156, "osl": 326})[0]
    assert (multi.prefill, multi.decode) == ((2, 1), (1, 1)) != (single.prefill, single.decode)
    assert single.rate > 2 * multi.rate
