"""Fleets: the programme against trying every count, bounds that bind, and the counts that Splitwise published."""

import itertools

import pytest

from perfplan.api import provision_serve
from perfplan.catalog import Catalog
from perfplan.errors import Infeasible, MissingField, OutOfRange
from perfplan.serving.machines import clock_at, machine_power, machine_price, units
from perfplan.serving.provision import Bounds, Share, _programme, _shares, served

CATALOG = Catalog()
WANTED = {"clusters": ("dgx-h100", "dgx-a100"), "workload": "azure-conv", "rate": "40/s"}


def provisioned(**changes):
    return provision_serve("llama-3.1-70b", catalog=CATALOG, **{**WANTED, **changes})


@pytest.fixture(scope="module")
def cheapest():
    return provisioned()


def test_the_fleet_serves_the_rate_and_its_queues_confirm_it(cheapest):
    fleet = cheapest.fleet
    assert fleet.checked and fleet.rate >= 40 * 0.999
    assert fleet.certificate.proven
    assert fleet.price == pytest.approx(sum(s.count * s.unit.price for s in fleet.shares))


def test_what_the_fleet_serves_under_other_lengths_is_told(cheapest):
    told = dict(cheapest.other_lengths)
    assert told["prompts twice as long"] < told["all requests alike, of mean lengths"]
    assert told["prompts half as long"] > cheapest.fleet.rate > told["outputs twice as long"]


def test_an_accelerator_without_a_stated_power_is_given_one():
    tpu = {"clusters": ("tpu-v6e",), "ttft": "5 s", "rate": "5/s", "caps": (1.0,)}
    with pytest.raises(MissingField, match="--assume-power tpu-v6e=300W"):
        provisioned(**tpu)
    found = provisioned(assume_power=("tpu-v6e=350W",), **tpu)
    assert found.fleet.power == pytest.approx(found.fleet.machines * 4 * 350)
    assert "tpu-v6e is taken to draw 350 W, as given" in found.caveats
    for given, words in (("tpu-v7=1W", "did you mean tpu-v6e"), ("tpu-v6e=0W", "more than 0 W")):
        with pytest.raises(OutOfRange, match=words):
            provisioned(assume_power=(given,), **tpu)


def test_a_limit_below_the_floor_states_it():
    with pytest.raises(Infeasible, match=r"below the floor of .* at the dense peak"):
        provisioned(ttft="10 ms")
    with pytest.raises(Infeasible, match=r"below the floor of .* to read its weights alone"):
        provisioned(tpot="1 ms")


def test_no_smaller_numbers_do(cheapest):
    """Every count of the machines that stand in the fleet, up to those of the fleet."""
    shares = cheapest.fleet.shares
    for counts in itertools.product(*(range(s.count + 1) for s in shares)):
        fewer = [Share(s.unit, n) for s, n in zip(shares, counts, strict=True)]
        if sum(n * s.unit.price for s, n in zip(shares, counts, strict=True)) < cheapest.fleet.price * 0.999:
            assert served(fewer) < 40


def test_the_programme_finds_what_enumeration_finds(cheapest):
    from perfplan.serving.deploy import serving_job

    job = serving_job("llama-3.1-70b", "dgx-a100", CATALOG, engine="vllm")
    found = [u for u in units([job], cheapest.workload, (1.0,), cheapest.limits, cheapest.traffic) if u.machines == 1]
    solution = _programme(found, 25.0, "cost", Bounds())
    best = min(
        sum(n * u.price for n, u in zip(counts, found, strict=True))
        for counts in itertools.product(range(13), repeat=len(found))
        if served(Share(u, n) for n, u in zip(counts, found, strict=True)) >= 25
    )
    assert solution.objective == pytest.approx(best)
    assert served(_shares(solution, found)) >= 25 * (1 - 1e-6)


def test_objectives_differ_and_each_is_least_in_its_own(cheapest):
    others = {name: provisioned(objective=name).fleet for name in ("power", "servers")}
    assert others["power"].power <= cheapest.fleet.power and others["servers"].machines <= cheapest.fleet.machines
    assert cheapest.fleet.price <= min(one.price for one in others.values())


def test_bounds_hold_and_more_power_serves_more():
    small, large = (provisioned(objective="throughput", rate=None, power=power).fleet for power in ("40 kW", "80 kW"))
    assert small.power <= 40e3 and large.power <= 80e3 and small.rate < large.rate


def test_what_cannot_be_says_how_much_can():
    with pytest.raises(Infeasible, match=r"40 requests/s need more than 10.0 kW; the most within them is \d"):
        provisioned(power="10 kW")
    with pytest.raises(Infeasible, match="a TTFT of 1.00 ms at percentile 90 is below the floor"):
        provisioned(clusters=("dgx-h100",), ttft="1 ms")


def test_pairings_stay_within_the_power_and_the_price(cheapest):
    for design in cheapest.designs:
        if design.view == "iso-power":
            assert design.power <= cheapest.fleet.power * (1 + 1e-9)
        else:
            assert design.price <= cheapest.fleet.price * (1 + 1e-9)
    assert {d.view for d in cheapest.designs} == {"iso-power", "iso-cost"}


def test_machines_are_those_of_splitwise():
    h100, a100 = CATALOG.cluster("dgx-h100"), CATALOG.cluster("dgx-a100")
    assert machine_power(h100) == 10200 and machine_power(a100) == pytest.approx(6500, rel=0.001)
    assert machine_price(a100) == pytest.approx(17.7, rel=0.002)
    assert 1 / clock_at(0.7) == pytest.approx(1.3)
    with pytest.raises(OutOfRange, match="power cap of 0.2"):
        clock_at(0.2)


@pytest.mark.parametrize(
    "changes, error, words",
    [
        ({"objective": "fun"}, OutOfRange, "objective 'fun'"),
        ({"objective": "throughput"}, OutOfRange, "bounded"),
        ({"rate": None}, OutOfRange, "needs no machine"),
        ({"clusters": ()}, OutOfRange, "at least one cluster"),
        ({"power": 0.0}, OutOfRange, "power is 0"),
        ({"percentile": 20}, OutOfRange, "percentile is 20"),
        ({"clusters": ("mi300x-platform",), "weights": "bf16"}, MissingField, "states no"),
    ],
)
def test_bad_input_is_one_sentence(changes, error, words):
    with pytest.raises(error, match=words):
        provisioned(**changes)
