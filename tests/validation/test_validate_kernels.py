"""Kernels and collectives scored: right prices, slices, refusals, and the shipped measurements."""

import json

import pytest

from perfplan.calibration.kernels import Rate, gemm_columns, kernel_model
from perfplan.calibration.routing import loads
from perfplan.calibration.tables import read_kernels
from perfplan.catalog import Catalog
from perfplan.cli.main import run
from perfplan.training.network import Group, Network
from perfplan.validation.collectives import COLLECTIVE_FILES, validate_collectives
from perfplan.validation.kernels import EXPERT_FILES, KERNEL_FILES, shipped, validate_experts, validate_kernels


def csv(path, *rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


GEMM = {"id": "mine-1", "kernel": "gemm", "hardware_id": "h100-sxm", "dtype": "bf16", "m": 4096, "n": 4096, "k": 4096,
        "latency_us": 200, "quality": "A", "suspect": 0}
RING = {"id": "mine-1", "op": "all_gather", "hardware_id": "h100-sxm", "n_ranks": 8, "bytes": 2**26, "latency_us": 300,
        "quality": "A", "suspect": 0}


def test_a_gemm_is_priced_with_the_constants_of_its_chip(tmp_path):
    path = csv(tmp_path / "mine.csv", GEMM)
    chip = Catalog().accelerator("h100-sxm")
    names = ("compute", "memory", "overhead", "half", "step")
    constants = {name: getattr(chip.kernels["gemm"]["bf16"], name) for name in names}
    model = kernel_model(Rate(chip.peak["bf16"], chip.memory_bandwidth))
    (one,) = validate_kernels([path]).outcomes
    columns = gemm_columns(read_kernels(path).fillna(1), "bf16") | {"depth": 4096.0}
    assert one.predicted == pytest.approx(model(columns, constants)[0] * 1e6)
    assert one.ratio == pytest.approx(one.predicted / 200)
    assert (one.slice, one.source, one.null_ratio < one.ratio) == ("mine/h100-sxm/bf16/gemm", "mine", True)


def test_an_engine_quantises_first(tmp_path):
    rows = [GEMM | {"id": f"mine-{i}", "dtype": "fp8", "software": name} for i, name in enumerate(("trtllm", "other"))]
    engine, plain = validate_kernels([csv(tmp_path / "mine.csv", *rows)]).outcomes
    assert engine.predicted > plain.predicted


@pytest.mark.parametrize(("change", "reason"), [
    ({"suspect": 1}, "suspect"),
    ({"quality": "C"}, "quality C"),
    ({"hardware_id": "nobody"}, "no accelerator 'nobody'"),
    ({"hardware_id": ""}, "names no accelerator"),
    ({"dtype": "fp64"}, "no constants"),
    ({"kernel": "conv"}, "not priced"),
    ({"m": ""}, "missing"),
])
def test_rows_that_cannot_be_scored_say_why(tmp_path, change, reason):
    found = validate_kernels([csv(tmp_path / "mine.csv", GEMM | change)])
    assert reason in found.outcomes[0].unsupported
    assert (found.overall.rows, found.overall.scored, found.overall.mape) == (1, 0, None)


def test_an_all_gather_is_priced_on_the_default_cluster(tmp_path):
    (one,) = validate_collectives([csv(tmp_path / "mine.csv", RING)]).outcomes
    path = Network(Catalog().cluster("dgx-h100"), 8).path(Group(8, 1))
    assert one.predicted == pytest.approx(path.all_gather(2.0**26) * 1e6)


@pytest.mark.parametrize(("change", "metric", "predicted"), [
    ({"software": "torch2.9"}, "latency_us", lambda path: path.all_gather(2.0**26) * 1e6 + 19.5),
    ({"software": "nccl-tests 2.29"}, "latency_us", lambda path: path.all_gather(2.0**26) * 1e6),
    ({"op": "p2p", "latency_us": "", "bytes": "", "busbw_gb_per_s": 300}, "busbw_gb_per_s", lambda path: 376),
    ({"op": "all_reduce", "software": "trtllm custom_allreduce", "bytes": 1024}, "latency_us", lambda path: 3.2),
])
def test_who_called_and_whose_kernels_ran_count(tmp_path, change, metric, predicted):
    (one,) = validate_collectives([csv(tmp_path / "mine.csv", RING | change)]).outcomes
    path = Network(Catalog().cluster("dgx-h100"), 8).path(Group(8, 1))
    assert (one.metric, one.unsupported) == (metric, "")
    assert one.predicted == pytest.approx(predicted(path), rel=0.02)


@pytest.mark.parametrize(("change", "reason"), [
    ({"n_ranks": 64}, "links beyond 8"),
    ({"n_ranks": 8, "ranks_per_node": 4}, "8 accelerators in a fast domain"),
    ({"op": "broadcast"}, "not priced"),
    ({"op": "p2p"}, "missing"),
    ({"software": "x custom_allreduce"}, "custom kernels"),
    ({"software": "Baidu"}, "Baidu is not nccl"),
    ({"bytes": ""}, "missing"),
])
def test_collectives_that_cannot_be_scored_say_why(tmp_path, change, reason):
    found = validate_collectives([csv(tmp_path / "mine.csv", RING | change)])
    assert reason in found.outcomes[0].unsupported


def test_skewed_routing_loads_one_rank():
    even, skewed = 4096 * 8 / 8, loads(4096, 8, 256, 8)
    assert 1.5 * even < skewed[0] < 2.0 * even and skewed[1] <= 32
    assert loads(4096, 8, 256, 32)[0] / (4096 * 8 / 32) > skewed[0] / even
    assert loads(4096, 8, 256, 8) == skewed


@pytest.mark.parametrize(("validate", "files"), [
    (validate_kernels, KERNEL_FILES), (validate_experts, EXPERT_FILES), (validate_collectives, COLLECTIVE_FILES)])
def test_shipped_measurements_are_the_default(validate, files):
    rows = sum(len(path.read_text().splitlines()) - 1 for path in shipped(files))
    found = validate()
    assert found.overall.rows == rows == len(found.outcomes)
    assert found.overall.scored > rows / 2
    assert sum(one.rows for one in found.slices) == rows
    assert found.overall.median_ape < found.overall.null_median_ape


@pytest.mark.parametrize("what", ["kernels", "moe", "collectives"])
def test_reports_have_the_shape_of_validate_training(capsys, what):
    assert run(["validate", what, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"overall", "slices"} and "null_median_ape" in report["overall"]
    assert run(["validate", what]) == 0
    out = capsys.readouterr().out
    assert "overall" in out and max(map(len, out.splitlines())) <= 100
    assert run(["validate", what, "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == report["overall"]["rows"] + 1


def test_whole_microseconds_are_too_coarse_for_short_kernels(tmp_path):
    rows = [GEMM | {"id": f"mine-{i}", "latency_us": 10 + i, "software": "old"} for i in range(24)]
    found = validate_kernels([csv(tmp_path / "mine.csv", *rows)])
    assert [bool(one.unsupported) for one in found.outcomes] == [i < 10 for i in range(24)]
    rows[3]["latency_us"] = 13.5
    assert validate_kernels([csv(tmp_path / "mine.csv", *rows)]).overall.scored == 24


def test_a_stream_alone_is_faster_than_one_in_a_step(tmp_path):
    stream = {"id": "mine-1", "kernel": "stream_triad", "hardware_id": "a100-sxm-80gb", "dtype": "fp64",
              "gb_per_s": 1750, "latency_us": "", "quality": "A", "suspect": 0}
    (one,) = validate_kernels([csv(tmp_path / "mine.csv", stream)]).outcomes
    table = Catalog().accelerator("a100-sxm-80gb").kernels["stream"]
    assert one.predicted == pytest.approx(table["any@alone"].memory * 2039) and table["any"].memory < 0.7


def test_formats_on_the_units_of_another_format_have_a_price(tmp_path):
    path = tmp_path / "formats.csv"
    head = "id,engine,dtype,tokens,hidden_size,moe_ffn_hidden_size,experts_per_token,experts,moe_tp,moe_ep,distribution"
    shape = "256,2880,2880,4,128,1,4,balanced"
    rows = [f"{chip}{dtype},trtllm,{dtype},{shape},{chip},90\n" for chip in ("h100-sxm", "b200-sxm", "mi355x")
            for dtype in ("bf16", "mxfp4", "mxfp8", "fp8-block", "int4") if (chip, dtype) != ("h100-sxm", "mxfp8")]
    path.write_text(head + ",hardware_id,latency_us\n" + "".join(rows))
    found = {one.id: one.predicted for one in validate_experts([path]).outcomes if not one.unsupported}
    assert len(found) == len(rows)
    for chip in ("h100-sxm", "b200-sxm", "mi355x"):
        assert found[f"{chip}mxfp4"] < found[f"{chip}bf16"], "a quarter of the weights are read"
