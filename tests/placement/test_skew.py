"""Routing prices skew in training and serving: by width of the expert group, from a file or made up."""

import pytest

from perfplan.api import estimate_train, plan_serve, plan_train
from perfplan.catalog import Catalog
from perfplan.errors import SpecError
from perfplan.placement.skew import routing_of, skewed, skews

JOB = {"cluster": "dgx-h100", "global_batch": 64, "seq_len": 4096}


MADE_UP = "synthetic:tokens=500,zipf=1.5"


def test_skew_grows_with_the_width_of_the_group():
    table = dict(skews(routing_of(Catalog().model("mixtral-8x7b"), "synthetic:tokens=2000")))
    assert table[1] == pytest.approx(1) and 1 < table[2] < table[4] < table[8]


def test_made_up_routing_keeps_to_the_groups_of_the_model():
    model = Catalog().model("deepseek-v3")
    for settings, most in (("tokens=50", 4), ("tokens=50,limit=2", 2)):
        groups = routing_of(model, f"synthetic:{settings}").trace[:, 0] // 32
        assert max(len(set(row)) for row in groups.tolist()) == most


def test_an_estimate_with_routing_is_the_one_with_its_skew():
    layout = "dp8 ep8 zero1"
    routed = estimate_train("mixtral-8x7b", layout=layout, routing="synthetic:tokens=2000", **JOB)
    skew = dict(routed.job.skews)[8]
    plain = estimate_train("mixtral-8x7b", layout=layout, **JOB)
    same = estimate_train("mixtral-8x7b", layout=layout, routing_skew=skew, **JOB)
    assert routed.step_time == pytest.approx(same.step_time) and routed.step_time > plain.step_time


def test_the_search_prices_each_width_by_its_own_skew():
    plan = plan_train("mixtral-8x7b", gpus=16, routing="synthetic:tokens=2000", top=3, **JOB)
    row = plan.layouts().iloc[0]
    again = estimate_train("mixtral-8x7b", layout=row["layout"], routing="synthetic:tokens=2000", **JOB)
    assert row["step_time_s"] == pytest.approx(again.step_time)


@pytest.mark.parametrize("changes, words", [
    ({"routing": "/nowhere.csv"}, "no file"),
    ({"routing": "synthetic", "routing_skew": 1.3}, "give one"),
])  # fmt: skip
def test_bad_routing_is_one_sentence(changes, words):
    with pytest.raises(SpecError, match=words):
        estimate_train("mixtral-8x7b", layout="dp8 ep8 zero1", **JOB, **changes)
    with pytest.raises(SpecError, match="no routed experts"):
        routing_of(Catalog().model("llama-3-8b"), "synthetic")


def test_the_skew_of_served_experts():
    model = Catalog().model("mixtral-8x7b")
    assert skewed(model, "", 1.2) == ((), ())
    table, words = skewed(model, "synthetic:tokens=500")
    assert dict(table)[8] > 1 and "skew by synthetic routing" in words[0]
    with pytest.raises(SpecError, match="give one"):
        skewed(model, "synthetic", 1.2)


def test_a_plan_to_serve_chooses_ep_under_the_skew():
    wanted = {"cluster": "hgx-h200", "gpus": 8, "workload": "azure-conv", "rate": "10/s", "ttft": "2 s",
              "tpot": "50 ms", "kinds": ("aggregated",)}
    even, skew = (plan_serve("qwen3-235b-a22b", routing=text, **wanted) for text in ("", MADE_UP))
    assert even.best.decode.layout.ep == 8 and skew.best.decode.layout.ep == 1, "each rank then has a share of all"
    assert skew.best.goodput < even.best.goodput
    flip = next(flip for flip in skew.flips if flip.change == "experts loaded evenly")
    assert flip.reached == pytest.approx(even.best.goodput, rel=0.01) and " ep8 " in flip.layout
    assert any("skew by synthetic routing" in caveat for caveat in skew.caveats)
