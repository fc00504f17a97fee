"""`calibrate` recovers constants from synthetic measurements, refuses impossible rows, and writes loadable entries."""

import json
from types import SimpleNamespace

import pytest
import yaml

from perfplan.calibration.calibrate import calibrate_attention, calibrate_gemm
from perfplan.calibration.collectives import calibrate_collectives
from perfplan.calibration.entry import accelerator_yaml, cluster_yaml
from perfplan.calibration.links import Domain, steps
from perfplan.calibration.tables import read_collectives, read_kernels
from perfplan.errors import PerfplanError

CHIP = SimpleNamespace(id="mine", peak={"bf16": 1e15, "fp8": 2e15}, memory_bandwidth=4e12, kernels={})
SIZES = [2.0**i for i in range(12, 31, 2)]


def csv(path, rows):
    names = list(rows[0])
    path.write_text("\n".join([",".join(names), *(",".join(str(row[name]) for name in names) for row in rows)]) + "\n")
    return path


def gemms(dtype="bf16", compute=0.7, memory=0.8, overhead=5e-6, peak=1e15):
    size = {"bf16": 2, "fp8": 1}[dtype]
    for n, k in ((4096, 4096), (8192, 2048), (2048, 8192)):
        for m in (1, 64, 1024, 8192):
            bytes_ = size * (m * k + k * n) + 2 * m * n
            time = max(2 * m * n * k / (compute * peak), bytes_ / (memory * 4e12)) + overhead
            yield {"kernel": "gemm", "hardware_id": "mine", "dtype": dtype, "m": m, "n": n, "k": k,
                   "latency_us": time * 1e6, "software": "test 1", "quality": "A", "suspect": 0}


def attentions(kernel, factor, compute=0.6, half=500.0, overhead=8e-6):
    for heads in (8, 16, 32):
        for length in (512, 1024, 4096, 16384):
            flops = factor * 4 * length**2 * 128 * heads / 2
            yield {"kernel": kernel, "hardware_id": "", "dtype": "bf16", "batch": 1, "seq_len_q": length,
                   "seq_len_kv": length, "heads": heads, "kv_heads": heads, "head_dim": 128, "causal": 1,
                   "latency_us": (flops / (compute * length / (length + half) * 1e15) + overhead) * 1e6}


def collective_rows(op="all_reduce", bandwidth=400e9):
    for ranks in (2, 4, 8):
        for size in SIZES:
            passes = 2 if op == "all_reduce" else 1
            latency, transfer = 5e-6 + passes * (ranks - 1) * 1e-6, float(steps(op, ranks)) * size / (0.7 * bandwidth)
            time = latency + transfer + 2 * (0.3 * latency * transfer) ** 0.5
            yield {"op": op, "n_ranks": ranks, "bytes": size, "latency_us": time * 1e6, "software": "nccl 2"}


def test_gemm_constants_are_recovered_per_format(tmp_path):
    path = csv(tmp_path / "mine.csv", [*gemms(), *gemms("fp8", 0.6, peak=2e15)])
    found = calibrate_gemm(read_kernels(path), CHIP)
    assert [(one.dtype, one.rows) for one in found.fitted] == [("bf16", 12), ("fp8", 12)] and not found.rejected
    assert found.fitted[0].constants == pytest.approx({"compute": 0.7, "memory": 0.8, "overhead": 5e-6}, rel=0.01)
    assert found.fitted[1].constants["compute"] == pytest.approx(0.6, rel=0.01)
    assert max(found.fitted[0].mape, found.fitted[0].left_out) < 0.01


@pytest.mark.parametrize(("change", "reason"), [
    ({"m": 8192, "latency_us": 1.0}, "dense peak"),
    ({"m": 1, "latency_us": 1.0}, "memory bandwidth"),
    ({"suspect": 1}, "suspect"),
    ({"quality": "C"}, "quality"),
    ({"latency_us": ""}, "no time"),
    ({"n": ""}, "incomplete"),
])
def test_rows_that_cannot_be_are_told_and_not_fitted(tmp_path, change, reason):
    rows = list(gemms())
    odd = rows[0] | {"n": 4096, "k": 4096} | change
    found = calibrate_gemm(read_kernels(csv(tmp_path / "mine.csv", [*rows, odd])), CHIP)
    assert [(bad.row, reason in bad.reason) for bad in found.rejected] == [("line 14", True)]
    assert found.fitted[0].rows == 12 and found.fitted[0].mape < 0.01


def test_quantisation_is_a_kernel_of_its_own(tmp_path):
    rows = [row | {"latency_us": row["latency_us"] + row["m"] * row["k"] * 3 / (0.8 * 4e12) * 1e6}
            for row in gemms("fp8", 0.6, peak=2e15)]
    table = read_kernels(csv(tmp_path / "mine.csv", rows))
    apart, folded = (calibrate_gemm(table, CHIP, quantised=quantised).fitted[0] for quantised in (True, False))
    assert apart.constants["compute"] == pytest.approx(0.6, rel=0.01)
    assert apart.mape < folded.mape


def test_rows_of_another_chip_take_no_part(tmp_path):
    rows = [*gemms(), *({**row, "hardware_id": "other"} for row in gemms(compute=0.3))]
    assert calibrate_gemm(read_kernels(csv(tmp_path / "mine.csv", rows)), CHIP).fitted[0].rows == 12


def test_of_two_softwares_the_one_with_more_rows_is_written(tmp_path):
    rows = [*gemms(), *({**row, "software": "test 2"} for row in list(gemms(compute=0.3))[:8])]
    found = calibrate_gemm(read_kernels(csv(tmp_path / "mine.csv", rows)), CHIP)
    assert [(one.software, one.written) for one in found.fitted] == [("test 1", True), ("test 2", False)]


def test_attention_forward_and_backward(tmp_path):
    rows = [*attentions("attention_fwd", 1.0), *attentions("attention_bwd", 2.5, compute=0.45)]
    found = {one.kind: one for one in calibrate_attention(read_kernels(csv(tmp_path / "a.csv", rows)), CHIP).fitted}
    assert found["attention"].constants["compute"] == pytest.approx(0.6, rel=0.02)
    assert found["attention"].constants["half"] == pytest.approx(500, rel=0.1)
    assert found["attention_backward"].constants["compute"] == pytest.approx(0.45, rel=0.02)


def test_attention_timed_together_gives_both_kinds(tmp_path):
    found = calibrate_attention(read_kernels(csv(tmp_path / "a.csv", list(attentions("attention_fwd_bwd", 3.5)))), CHIP)
    assert [one.kind for one in found.fitted] == ["attention", "attention_backward"]
    assert found.fitted[0].constants == found.fitted[1].constants


def test_collectives_become_a_level(tmp_path):
    rows = [row for op in ("all_reduce", "all_gather", "reduce_scatter") for row in collective_rows(op)]
    found = calibrate_collectives(read_collectives(csv(tmp_path / "c.csv", rows)), "mine", Domain(400e9), 8)
    assert found.levels["launch"] == pytest.approx(5e-6, rel=0.01)
    assert found.levels["latency"] == pytest.approx(1e-6, rel=0.01)
    assert found.levels["fill"] == pytest.approx(0.3, rel=0.01)
    assert found.levels["efficiency"] == pytest.approx({2: 0.7, 4: 0.7, 8: 0.7}, rel=0.01)
    assert all(one.mape < 1e-3 and one.left_out < 1e-3 for one in found.fitted)
    assert found.levels["operations"]["all_gather"] == pytest.approx({2: 0.7, 4: 0.7, 8: 0.7}, rel=0.01)


def test_an_all_reduce_in_the_switches_gets_its_own_fraction(tmp_path):
    table = read_collectives(csv(tmp_path / "c.csv", list(collective_rows())))
    found = calibrate_collectives(table, "mine", Domain(400e9, switched=8), 8)
    assert found.levels["reduction"] == pytest.approx(0.7 * 8 / 14, rel=0.01)
    assert set(found.levels["efficiency"]) == {2, 4}


def test_too_few_sizes_are_no_sweep(tmp_path):
    rows = [row for row in collective_rows() if row["bytes"] in SIZES[:2]]
    with pytest.raises(PerfplanError, match="2 message sizes"):
        calibrate_collectives(read_collectives(csv(tmp_path / "c.csv", rows)), "mine", Domain(400e9), 8)


def test_collectives_beyond_the_links_or_the_domain_are_refused(tmp_path):
    rows = list(collective_rows())
    odd = [rows[-1] | {"latency_us": 10.0}, rows[-1] | {"n_ranks": 16}, rows[-1] | {"op": "broadcast"}]
    found = calibrate_collectives(read_collectives(csv(tmp_path / "c.csv", rows + odd)), "mine", Domain(400e9), 8)
    assert [bad.reason.split(":")[0] for bad in found.rejected] == [
        "it beats the links", "it crosses the fast domain of 8", "broadcast is not fitted"]


def nccl_text(ranks=8, op="all_reduce"):
    head = [f"# Collective test starting: {op}_perf", "# nccl version 2.29.2",
            *(f"#  Rank {r:2d} Group  0 Pid  100 on    node1 device {r:2d} [0000:1b:00] GPU" for r in range(ranks)),
            "#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw"]
    body = []
    for row in collective_rows(op):
        if row["n_ranks"] == ranks:
            size, time = int(row["bytes"]), row["latency_us"]
            body.append(f"{size:12d} {size // 4:12d}     float     sum      -1 {time:9.4f}  1.0  1.0      0"
                        f" {time * 2:9.4f}  1.0  1.0      0")
    return "\n".join([*head, *body, "# Avg bus bandwidth    : 1.0", ""])


def nccl_json(ranks=8, op="all_reduce"):
    results = [{"size": int(row["bytes"]), "count": 1, "type": "float", "out_of_place": {"time": row["latency_us"]},
                "in_place": {"time": 2 * row["latency_us"]}} for row in collective_rows(op) if row["n_ranks"] == ranks]
    devices = [{"rank": r, "hostname": "node1"} for r in range(ranks)]
    return json.dumps({"version": "2.17", "nccl_version": "2.29.2", "args": [f"./build/{op}_perf", "-g", "8"],
                       "config": {"devices": devices}, "results": results})


@pytest.mark.parametrize("written", [nccl_text(), nccl_json()], ids=["text", "json"])
def test_nccl_tests_output_is_read(tmp_path, written):
    (tmp_path / "out").write_text(written)
    table = read_collectives(tmp_path / "out")
    assert (len(table), set(table["op"]), set(table["n_ranks"])) == (len(SIZES), {"all_reduce"}, {8.0})
    assert "2.29.2" in table["software"][0]
    found = calibrate_collectives(table, "mine", Domain(400e9), 8)
    assert found.levels["efficiency"][8] == pytest.approx(0.7, rel=0.01)


@pytest.mark.parametrize(("text", "words"), [
    ("{not json", "JSON"),
    ('{"results": 3}', "JSON"),
    ("kernel,dtype\ngemm,bf16\n", "lacks the columns"),
    ("op,n_ranks,bytes,latency_us\nall_reduce,8,1024,fast\n", "line 2"),
    ("\n".join(line for line in nccl_text().splitlines() if "Rank" not in line), "--ranks"),
    (nccl_text().replace("all_reduce_perf", "x"), "--op"),
])
def test_what_cannot_be_read_is_said_in_one_sentence(tmp_path, text, words):
    (tmp_path / "out").write_text(text)
    with pytest.raises(PerfplanError, match=words):
        read_collectives(tmp_path / "out")


def test_nothing_to_fit_is_an_error(tmp_path):
    with pytest.raises(PerfplanError, match="no GEMM of mine"):
        calibrate_gemm(read_kernels(csv(tmp_path / "a.csv", list(attentions("attention_fwd", 1)))), CHIP)


def test_an_entry_keeps_what_was_not_measured(tmp_path):
    found = calibrate_gemm(read_kernels(csv(tmp_path / "mine.csv", list(gemms()))), CHIP)
    entry = {"name": "Mine", "memory": "80 GiB", "kernels": {"gemm": {"fp8": {"compute": 0.5}}, "stream": {"any": {}}}}
    data = yaml.safe_load(accelerator_yaml("mine", entry, found, "mine.csv", "2026-01-02"))
    assert data["id"] == "mine" and data["memory"] == "80 GiB" and set(data["kernels"]["gemm"]) == {"fp8", "bf16"}
    assert data["kernels"]["gemm"]["bf16"]["overhead"] == "5 us"
    source = data["kernels"]["gemm"]["bf16"]["source"]
    assert all(word in source for word in ("mine.csv", "test 1", "2026-01-02", "12 rows", "left out", "residuals"))


def test_a_cluster_entry_keeps_its_outer_levels(tmp_path):
    table = read_collectives(csv(tmp_path / "c.csv", list(collective_rows())))
    found = calibrate_collectives(table, "mine", Domain(400e9), 8)
    entry = {"levels": [{"name": "in", "operations": {"all_to_all": {8: 0.5}}, "source": "old"}, {"name": "out"}]}
    data = yaml.safe_load(cluster_yaml("box", entry, found, "c.csv", "2026-01-02"))
    assert data["levels"][0]["launch"] == "5 us" and data["levels"][1] == {"name": "out"}
    assert "all_to_all: as before, old" in data["levels"][0]["source"]
