"""Operator tables of aiconfigurator: a made-up fixture in its columns, as CSV and as parquet."""

from types import SimpleNamespace

import pytest

from perfplan.calibration.calibrate import calibrate_attention, calibrate_experts, calibrate_gemm
from perfplan.calibration.readers import read_collectives, read_experts, read_kernels
from perfplan.errors import CatalogError, PerfplanError

CHIP = SimpleNamespace(id="mine", peak={"bf16": 1e15, "fp8": 2e15}, memory_bandwidth=4e12, kernels={}, units=100, l2=0)
HEAD = "framework,version,device,op_name,kernel_source"
ORIGIN = "TRTLLM,1.0,Some Chip"


def table(path, columns, rows):
    path.write_text("\n".join([f"{HEAD},{columns},latency", *rows]) + "\n")
    return path


def gemms(path):
    rows = []
    for n, k in ((4096, 4096), (8192, 2048), (2048, 8192)):
        for m in (1, 64, 1024, 8192):
            took = max(2 * m * n * k / (0.7 * 1e15), 2 * (m * k + k * n + m * n) / (0.8 * 4e12)) + 5e-6
            rows.append(f"{ORIGIN},gemm,flow,bfloat16,{m},{n},{k},{took * 1e3}")
    return table(path, "gemm_dtype,m,n,k", rows)


def contexts(path, op="context_attention", extra=()):
    rows = []
    for heads in (8, 16, 32):
        for length in (512, 1024, 4096, 16384):
            took = 2 * length**2 * 128 * heads / (0.6 * length / (length + 500) * 1e15) + 8e-6
            rows.append(f"{ORIGIN},{op},flow,1,{length},{heads},{heads},128,0,1,bfloat16,bfloat16,0,{took * 1e3}")
    columns = ("batch_size,isl,num_heads,num_key_value_heads,head_dim,window_size,beam_width,attn_dtype,"
               "kv_cache_dtype,step")
    return table(path, columns, [*rows, *extra])


def test_gemm(tmp_path):
    found = calibrate_gemm(read_kernels(gemms(tmp_path / "gemm_perf.csv")), CHIP)
    assert found.fitted[0].constants == pytest.approx({"compute": 0.7, "memory": 0.8, "overhead": 5e-6}, rel=0.01)
    assert found.fitted[0].software == "trtllm 1.0 flow"


def test_parquet_is_the_same_table(tmp_path):
    pytest.importorskip("pyarrow")
    import pandas as pd

    path = gemms(tmp_path / "gemm_perf.csv")
    pd.read_csv(path).to_parquet(tmp_path / "gemm_perf.parquet")
    one, other = read_kernels(path), read_kernels(tmp_path / "gemm_perf.parquet")
    assert one.drop(columns="file").equals(other.drop(columns="file"))


def test_parquet_without_its_reader_says_what_to_install(tmp_path, monkeypatch):
    import pandas as pd

    def missing(*_, **__):
        raise ImportError("no pyarrow")

    monkeypatch.setattr(pd, "read_parquet", missing)
    with pytest.raises(PerfplanError, match=r"pip install 'perfplan\[operators\]'"):
        read_kernels(tmp_path / "x.parquet")


def test_a_broken_parquet_file_is_one_sentence(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(CatalogError, match=r"x\.parquet cannot be read"):
        read_kernels(tmp_path / "x.parquet")


def test_attention_and_what_is_not_fitted_of_it(tmp_path):
    odd = [f"{ORIGIN},context_attention,flow,1,1024,8,8,128,{window},{beams},bfloat16,bfloat16,{old},1.0"
           for window, beams, old in ((128, 1, 0), (0, 4, 0), (0, 1, 512))]
    rows = read_kernels(contexts(tmp_path / "a.csv", extra=odd))
    found = calibrate_attention(rows, CHIP)
    assert found.fitted[0].rows == 12 and found.fitted[0].constants["half"] == pytest.approx(500, rel=0.05)
    assert [bad.reason for bad in found.rejected] == [
        "it attends to a window of 128 tokens", "it was measured with 4 beams", "it continues after 512 tokens"]


def test_generation_rows_read_the_whole_cache(tmp_path):
    row = f"{ORIGIN},generation_attention,flow,8,1,32,0,128,0,1,bfloat16,fp8,2047,0.05"
    read = read_kernels(contexts(tmp_path / "a.csv", extra=[row])).iloc[-1]
    assert read["kernel"] == "attention_decode" and (read["seq_len_q"], read["seq_len_kv"]) == (1, 2048)
    assert (read["kv_dtype"], read["kv_heads"], read["latency_us"]) == ("fp8", 32, pytest.approx(50))


def experts(path):
    rows = []
    for hidden, width, count in ((4096, 1024, 64), (2048, 768, 128), (7168, 2048, 32)):
        for tokens in (16, 256, 4096, 32768):
            each = tokens * 8 / min(count, tokens * 8)
            flops, share = 6 * tokens * 8 * hidden * width, each / (each + 100)
            weights = 6 * hidden * width * min(count, tokens * 8) + tokens * 8 * 2 * (3 * hidden + 3 * width)
            serial = tokens * 8 * (6 * hidden + 6 * width) + 2 * tokens * hidden
            took = max(flops / (0.7 * share * 1e15), weights / (0.8 * 4e12)) + serial / (0.8 * 4e12) + 2e-5
            rows.append(f"{ORIGIN},moe,flow,bfloat16,{tokens},{hidden},{width},8,{count},1,1,balanced,{took * 1e3}")
    rows.append(f"{ORIGIN},moe,flow,bfloat16,16,4096,1024,8,64,1,1,power_law_1.2,1.0")
    return table(path, "moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,moe_tp_size,moe_ep_size,"
                       "distribution", rows)


def test_experts(tmp_path):
    found = calibrate_experts(read_experts(experts(tmp_path / "moe_perf.csv")), CHIP)
    one, whole = found.fitted
    assert (whole.kind, whole.rows) == ("experts", 13)
    assert (one.kind, one.dtype, one.rows) == ("grouped_gemm", "bf16", 12) and one.mape < 0.03
    assert one.constants["compute"] == pytest.approx(0.7, rel=0.05)
    assert not found.rejected


def test_collectives_are_in_bytes(tmp_path):
    path = table(tmp_path / "nccl.csv", "nccl_dtype,num_gpus,message_size", [
        f"{ORIGIN},alltoall,NCCL,half,8,1024,0.02", f"{ORIGIN},all_reduce,NCCL,int8,4,1024,0.01"])
    rows = read_collectives(path)
    assert list(rows["op"]) == ["all_to_all", "all_reduce"] and list(rows["bytes"]) == [2048, 1024]
    assert list(rows["latency_us"]) == pytest.approx([20, 10]) and list(rows["n_ranks"]) == [8, 4]
    custom = read_collectives(table(tmp_path / "c.csv", "allreduce_dtype,num_gpus,message_size", [
        f"{ORIGIN},all_reduce,flow,bfloat16,8,1024,0.02"]))
    assert list(custom["algo"]) == ["custom"]


@pytest.mark.parametrize(("rows", "words"), [
    ([f"{ORIGIN},mla,flow,bfloat16,1,2,3,0.1"], "holds mla and no GEMM"),
    ([f"{ORIGIN},gemm,flow,bfloat16,1,2,3,fast"], "latency holds 'fast'"),
    ([f"{ORIGIN},gemm,flow,bfloat16,x,2,3,0.1"], "column m holds 'x'"),
])
def test_faults_are_told(tmp_path, rows, words):
    with pytest.raises(PerfplanError, match=words):
        read_kernels(table(tmp_path / "t.csv", "gemm_dtype,m,n,k", rows))


def test_formats_without_a_peak_are_told(tmp_path):
    path = table(tmp_path / "t.csv", "gemm_dtype,m,n,k", [f"{ORIGIN},gemm,flow,int8_wo,8,8,8,0.1"])
    with pytest.raises(PerfplanError, match="no dense peak in int8_wo"):
        calibrate_gemm(read_kernels(path), CHIP)
