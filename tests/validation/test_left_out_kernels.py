"""Kernels predicted from other shapes: which rows, which parts, and that the shipped constants take no part."""

import csv as csv_module

import pytest

from perfplan.catalog import Catalog
from perfplan.cli.main import run
from perfplan.validation.kernels import shipped
from perfplan.validation.left_out_kernels import left_out_experts, left_out_kernels


def part(tmp_path, name, **equal):
    """Rows of a shipped file whose columns have the given values, as a file."""
    (path,) = shipped([name])
    with path.open() as file:
        rows = [row for row in csv_module.DictReader(file) if all(row[k] in v for k, v in equal.items())]
    out = tmp_path / name
    with out.open("w") as file:
        writer = csv_module.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return out, len(rows)


def test_gemm(tmp_path):
    path, count = part(tmp_path, "ops_gemm.csv", hardware_id=["h100-sxm"], dtype=["bf16"])
    whole, one = left_out_kernels([path])
    assert (whole.name, one.name, one.left_out, one.rows) == ("gemm", "gemm/h100-sxm/bf16", "one (n, k)", count)
    assert 0.02 < one.mape < 0.065 < one.null
    again = left_out_kernels([path], catalog=Catalog(settings=["accelerator.kernels.gemm.bf16.compute=0.1"]))
    assert again == (whole, one)


def test_attention(tmp_path):
    wanted = {"hardware_id": ["b200-sxm"], "software": ["trtllm"], "kv_dtype": ["fp8"]}
    prefill, _ = part(tmp_path, "ops_context_attention.csv", **wanted)
    decode, count = part(tmp_path, "ops_generation_attention.csv", **wanted)
    found = {one.name: one for one in left_out_kernels([prefill, decode])}
    assert {one.left_out for one in found.values()} == {"head counts"}
    apart = found["attention decode"].rows, found["attention decode/in cache"].rows
    assert sum(apart) == count and min(apart) > 5
    assert max(found["attention decode"].median, found["attention prefill"].median) < 0.08


def test_experts(tmp_path):
    path, count = part(tmp_path, "ops_moe.csv", hardware_id=["h200-sxm"], dtype=["bf16"])
    found = {(one.name, one.left_out): one for one in left_out_experts([path])}
    for what in ("one matrix", "one model's experts"):
        assert found["experts", what].rows == count and found["experts", what].median < 0.15
        assert found["slowdown by skew", what].median < 0.2
    assert found["experts/balanced", "one matrix"].rows + found["experts/power_law_1.2", "one matrix"].rows == count


@pytest.mark.parametrize(("command", "file"), [("kernels", "ops_gemm.csv"), ("moe", "ops_moe.csv")])
def test_the_command_prints_a_table(tmp_path, capsys, command, file):
    path, _ = part(tmp_path, file, hardware_id=["h100-sxm"], dtype=["bf16"])
    assert run(["validate", command, "--left-out", "--measured", str(path)]) == 0
    out = capsys.readouterr().out
    assert "left out" in out and max(map(len, out.splitlines())) <= 100
    assert run(["validate", command, "--left-out", "--measured", str(path), "--csv"]) == 0
    assert capsys.readouterr().out.startswith("name,left_out,rows")
