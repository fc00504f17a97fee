"""Whole expert layers fitted: constants come back, routing as defined, odd rows refused."""

import numpy as np
import pandas as pd
import pytest

from perfplan.calibration.calibrate import calibrate_experts
from perfplan.calibration.experts import expert_columns, expert_model
from perfplan.calibration.kernels import Rate
from perfplan.calibration.routing import loads
from perfplan.calibration.tables import EXPERT_COLUMNS
from perfplan.catalog import Catalog

CHIP = Catalog().accelerator("h100-sxm")
TRUE = {"compute": 0.7, "memory": 0.85, "overhead": 2.5e-5, "half": 80.0, "around": 0.4, "each": 2e-7}


def rows():
    shapes = [(t, h, w, e, tp, ep, d) for t in (1, 64, 512, 4096)
              for h, w, e in ((7168, 2048, 256), (4096, 1536, 128))
              for tp, ep in ((1, 1), (1, 8), (4, 1)) for d in ("balanced", "power_law_1.2")]
    names = ["tokens", "hidden_size", "moe_ffn_hidden_size", "experts", "moe_tp", "moe_ep", "distribution"]
    table = pd.DataFrame(shapes, columns=names).assign(experts_per_token=8, hardware_id="h100-sxm", dtype="bf16",
                                                       engine="mine", note="", source="", id="")
    assert set(table) | {"latency_us"} == set(EXPERT_COLUMNS)
    model = expert_model(Rate(CHIP.peak["bf16"], CHIP.memory_bandwidth))
    return table.assign(row=[f"r{i}" for i in range(len(table))], file="mine.csv",
                        latency_us=model(expert_columns(table, "bf16"), TRUE) * 1e6)


def test_constants_come_back():
    found = calibrate_experts(rows(), CHIP)
    whole = {one.kind: one for one in found.fitted}["experts"]
    assert (whole.dtype, whole.software, whole.rows, whole.written) == ("bf16", "mine", 48, True)
    assert whole.mape < 0.01 and whole.left_out < 0.05
    assert {name: whole.constants[name] for name in TRUE} == pytest.approx(TRUE, rel=0.1)


def test_an_unknown_distribution_is_refused():
    table = rows()
    table.loc[0, "distribution"] = "zipf"
    found = calibrate_experts(table, CHIP)
    assert ("r0", "its distribution of tokens is not known") in [(bad.row, bad.reason) for bad in found.rejected]


def test_skew_loads_one_rank_and_spares_weights():
    table = rows()
    columns = {name: pd.Series(column) for name, column in expert_columns(table, "bf16").items()}
    skewed = (table["distribution"] != "balanced") & (table["moe_ep"] == 8)
    even = (table["distribution"] == "balanced") & (table["moe_ep"] == 8)
    many = table["tokens"] == 4096
    assert np.all(columns["flops"][skewed & many].to_numpy() > 1.5 * columns["flops"][even & many].to_numpy())
    one = (table["moe_ep"] == 1) & (table["tokens"] == 64)
    spared = columns["padding"][one & (table["distribution"] != "balanced")].to_numpy()
    assert np.all(spared < 0.95 * columns["padding"][one & (table["distribution"] == "balanced")].to_numpy())


@pytest.mark.parametrize(("tokens", "ranks", "published"), [
    (64, 8, 1.31), (512, 8, 1.50), (4096, 8, 1.74), (64, 16, 1.58), (512, 16, 1.93), (4096, 16, 2.29),
    (64, 32, 1.93), (512, 32, 2.66), (4096, 32, 3.46)])
def test_loads_are_those_of_the_definition(tokens, ranks, published):
    """Mean ratio of the largest to the mean rank load, 256 experts, 8 per token, by simulation of the definition."""
    assert loads(tokens, 8, 256, ranks)[0] / (tokens * 8 / ranks) == pytest.approx(published, rel=0.1)


def test_no_expert_takes_more_than_all_tokens():
    load, touched = loads(64, 2, 8, 8)
    assert 16 < load <= 64 and touched == 1
    assert loads(1, 8, 8, 1) == (8.0, 8.0)
