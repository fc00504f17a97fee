"""A power cap slows what computes, and nothing else."""

import pytest

from perfplan.api import estimate_train, plan_train
from perfplan.catalog import Catalog
from perfplan.cli.main import run
from perfplan.errors import BadQuantity, MissingField, OutOfRange
from perfplan.training.power import capped

JOB = {"cluster": "dgx-h100", "global_batch": 128, "seq_len": 8192}
LAYOUT = "tp2 sp1 dp32 zero1"


def test_compute_slows_as_published_and_links_do_not():
    full, less = (estimate_train("llama-3-8b", layout=LAYOUT, power_cap=cap, **JOB) for cap in ("", "490 W"))
    parts, slower = full.breakdown, less.breakdown
    assert 1.2 < slower["backward"] / parts["backward"] < 1.3  # most of it computes, norms and casts stream
    for same in ("tp", "dp", "optimizer"):
        assert slower[same] == parts[same]
    assert any("power cap" in caveat for caveat in less.caveats) and not any("power cap" in c for c in full.caveats)


def test_the_cap_is_on_top_of_the_clock_that_lasts():
    cluster = Catalog().cluster("dgx-h100")
    chip = capped(cluster, 490.0).accelerator
    assert chip.tdp == 490.0 and chip.peak == cluster.accelerator.peak
    for dtype, share in cluster.accelerator.sustained.items():
        assert chip.sustained[dtype] == pytest.approx(share / 1.3)
    assert capped(cluster, 700.0).accelerator.sustained == cluster.accelerator.sustained


def test_a_plan_under_a_cap_draws_less():
    full, less = (plan_train("llama-3-8b", gpus=8, tokens="1B", power_cap=cap, **JOB) for cap in ("", "490W"))
    assert full.best.step_time < less.best.step_time
    drawn = [plan.run.energy / plan.run.time for plan in (full, less)]
    assert drawn[1] < 0.9 * drawn[0]


@pytest.mark.parametrize(("cap", "error"), [("300W", OutOfRange), ("900W", OutOfRange), ("490", BadQuantity)])
def test_caps_that_will_not_do(cap, error):
    with pytest.raises(error):
        estimate_train("llama-3-8b", layout=LAYOUT, power_cap=cap, **JOB)


def test_a_chip_without_a_known_power_cannot_be_capped():
    catalog = Catalog()
    unknown = next(name for name in catalog.ids("cluster") if catalog.cluster(name).accelerator.tdp is None)
    with pytest.raises(MissingField, match="states no tdp"):
        capped(catalog.cluster(unknown), 400.0)


def test_the_option(capsys):
    arguments = ["llama-3-8b", "--cluster", "dgx-h100", "--global-batch", "128", "--seq-len", "8192"]
    assert run(["estimate", "train", *arguments, "--layout", LAYOUT, "--power-cap", "490W"]) == 0
    assert "power cap" in capsys.readouterr().out
    assert run(["estimate", "train", *arguments, "--layout", LAYOUT, "--power-cap", "10W"]) == 2
    assert "choose from 350 W" in capsys.readouterr().err
