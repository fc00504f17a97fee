"""Profiler traces: kernels find their operator, shapes and formats are read, what cannot be read is told."""

import gzip
import json
from types import SimpleNamespace

import pytest

from perfplan.calibration.calibrate import calibrate_attention, calibrate_gemm
from perfplan.calibration.readers import read_kernels
from perfplan.cli.main import run
from perfplan.errors import PerfplanError

CHIP = SimpleNamespace(id="mine", peak={"bf16": 1e15, "fp8": 2e15}, memory_bandwidth=4e12, kernels={}, units=100, l2=0)
BF16 = "c10::BFloat16"


class Trace:
    """Writes events as torch.profiler does: operators enclose each other and the launches of their kernels."""

    def __init__(self):
        self.events, self.now, self.id = [], 0.0, 0

    def call(self, names, dims, kernels, types=(BF16,) * 4, values=(), by="correlation"):
        self.id += 1
        end = self.now + 100
        for depth, name in enumerate(names):
            arguments = {"External id": self.id * 100 + depth}
            if depth == len(names) - 1:
                arguments |= {"Input Dims": dims, "Input type": list(types), "Concrete Inputs": list(values)}
            self.add("cpu_op", name, self.now + depth, end - self.now - 2 * depth, arguments)
        for number, (name, time) in enumerate(kernels):
            correlation = self.id * 100 + number
            if by == "correlation":
                self.add("cuda_runtime", "cudaLaunchKernel", self.now + 10 + number, 0.5, {"correlation": correlation})
            self.add("kernel", name, self.now + 5000, time, {
                "correlation": correlation, "External id": self.id * 100 + len(names) - 1}, tid=7)
        self.now = end + 10

    def add(self, category, name, start, duration, arguments, tid=1):
        self.events.append({"ph": "X", "cat": category, "name": name, "pid": 1, "tid": tid, "ts": start,
                            "dur": duration, "args": arguments})

    def write(self, path):
        text = json.dumps({"schemaVersion": 1, "cuda_runtime_version": 12080, "traceEvents": [
            {"ph": "M", "name": "process_name"}, *self.events]})
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
        return path


def linear(trace, m, n, k, times=1):
    moved = 2 * (m * k + k * n + m * n)
    took = max(2 * m * n * k / (0.7 * 1e15), moved / (0.8 * 4e12)) * 1e6 + 5
    for extra in range(times):
        trace.call(["aten::linear", "aten::addmm"], [[n], [m, k], [k, n], [], []],
                   [("nvjet_tst_128x256", took - 2 + 100 * (extra == 0) * (times > 2)), ("splitKreduce", 2.0)])


@pytest.mark.parametrize("name", ["t.json", "t.json.gz"])
def test_gemms_of_a_trace_calibrate(tmp_path, name):
    trace = Trace()
    for n, k in ((4096, 4096), (8192, 2048), (2048, 8192)):
        for m in (1, 64, 1024, 8192):
            linear(trace, m, n, k, times=3)  # the first call is slow: a median of three does not see it
    found = calibrate_gemm(read_kernels(trace.write(tmp_path / name)), CHIP)
    assert found.fitted[0].constants == pytest.approx({"compute": 0.7, "memory": 0.8, "overhead": 5e-6}, rel=0.01)
    assert found.fitted[0].rows == 12 and found.fitted[0].software == "torch.profiler CUDA 12080"


def rows_of(trace, tmp_path):
    return read_kernels(trace.write(tmp_path / "t.json")).to_dict("records")


@pytest.mark.parametrize(("op", "dims", "types", "wanted"), [
    ("aten::mm", [[8, 16], [16, 32]], [BF16] * 2, {"kernel": "gemm", "dtype": "bf16", "m": 8, "n": 32, "k": 16}),
    ("aten::bmm", [[4, 8, 16], [4, 16, 32]], ["c10::Half"] * 2,
     {"kernel": "gemm", "dtype": "fp16", "groups": 4, "m": 8, "n": 32, "k": 16}),
    ("aten::_scaled_mm", [[8, 16], [16, 32], [], []], ["c10::Float8_e4m3fn"] * 2,
     {"kernel": "gemm", "dtype": "fp8", "m": 8, "n": 32, "k": 16}),
    ("aten::_grouped_mm", [[64, 16], [4, 16, 32], [4]], [BF16] * 3,
     {"kernel": "grouped_gemm", "groups": 4, "m": 16, "n": 32, "k": 16}),
])
def test_products(tmp_path, op, dims, types, wanted):
    trace = Trace()
    trace.call([op], dims, [("kernel_x", 3.0)], types)
    row = rows_of(trace, tmp_path)[0]
    assert {name: row[name] for name in wanted} == wanted and row["latency_us"] == 3 and not row["doubt"]


def test_tensor_cores_of_fp32_are_told_by_the_kernel(tmp_path):
    trace = Trace()
    trace.call(["aten::mm"], [[8, 16], [16, 32]], [("cutlass_tf32_gemm", 3.0)], ["float"] * 2)
    assert rows_of(trace, tmp_path)[0]["dtype"] == "tf32"


def attend(trace, length, heads, kv_heads=8, causal="True"):
    flops = 2.0 * length**2 * 128 * heads
    took = flops / (0.6 * length / (length + 500) * 1e15) * 1e6 + 8
    shapes = [[1, heads, length, 128], [1, kv_heads, length, 128], [1, kv_heads, length, 128], [], [], [], []]
    trace.call(["aten::scaled_dot_product_attention", "aten::_scaled_dot_product_flash_attention"], shapes,
               [("flash_fwd_kernel", took)], values=["", "", "", "0.", causal, "False", ""])


def test_attention_of_a_trace_calibrates(tmp_path):
    trace = Trace()
    for heads in (8, 16, 32):
        for length in (512, 1024, 4096, 16384):
            attend(trace, length, heads)
    found = calibrate_attention(read_kernels(trace.write(tmp_path / "t.json")), CHIP)
    assert found.fitted[0].constants["compute"] == pytest.approx(0.6, rel=0.02)
    assert found.fitted[0].constants["half"] == pytest.approx(500, rel=0.05)


def test_inner_operators_do_not_hide_the_outer_one(tmp_path):
    """The flash kernel's own operator has its tensors the other way round."""
    trace = Trace()
    trace.call(["aten::_scaled_dot_product_flash_attention", "aten::_flash_attention_forward"],
               [[2, 512, 32, 128]] * 3 + [[]] * 7, [("flash_fwd", 9.0)], values=[""] * 8 + ["True", "False"])
    trace.events[0]["args"] |= {"Input Dims": [[2, 32, 512, 128], [2, 8, 512, 128], [2, 8, 512, 128]],
                                "Input type": [BF16] * 3, "Concrete Inputs": ["", "", "", "0.", "False", ""]}
    row = rows_of(trace, tmp_path)[0]
    assert (row["batch"], row["heads"], row["kv_heads"], row["seq_len_q"], row["causal"]) == (2, 32, 8, 512, 0)


def test_backward_decode_and_the_flash_package(tmp_path):
    trace, backward = Trace(), [[2, 32, 512, 128]] + [[2, 32, 512, 128]] * 4
    trace.call(["aten::_scaled_dot_product_flash_attention_backward"], backward + [[]] * 9, [("flash_bwd", 9.0)],
               values=[""] * 11 + ["True"])
    trace.call(["flash_attn::_flash_attn_forward"], [[2, 512, 32, 128]] * 3 + [[]] * 3, [("flash3", 4.0)],
               values=[""] * 5 + ["1"])
    trace.call(["aten::_scaled_dot_product_flash_attention"], [[8, 32, 1, 128], [8, 8, 4096, 128], [8, 8, 4096, 128]],
               [("flash_fwd_splitkv", 7.0)], values=["", "", "", "0.", "False", "False"])
    rows = rows_of(trace, tmp_path)
    assert [row["kernel"] for row in rows] == ["attention_bwd", "attention_fwd", "attention_decode"]
    assert [row["seq_len_q"] for row in rows] == [512, 512, 1] and not any(row["doubt"] for row in rows)
    assert [row["software"].split()[-1] for row in rows] == ["flash", "flash_attn", "flash"]


def test_what_cannot_be_read_is_told(tmp_path):
    trace = Trace()
    trace.call(["aten::mm"], [], [("gemm_a", 3.0)], [])
    trace.call(["aten::_scaled_dot_product_flash_attention"], [[1, 8, 64, 64]] * 3, [("flash", 3.0)])
    trace.call(["aten::_scaled_dot_product_efficient_attention"], [[1, 8, 64, 64]] * 3 + [[1, 8, 64, 64]],
               [("fmha", 3.0)], values=["", "", "", "", "", "", "True"])
    trace.call(["aten::add"], [[8]], [("elementwise_kernel", 1.0), ("nvjet_graph", 1.0)])
    doubts = {row["row"]: row["doubt"] for row in rows_of(trace, tmp_path)}
    assert "record_shapes" in doubts["aten::mm"]
    assert [word for text in doubts.values() for word in ("causal", "mask", "launched it") if word in text] == [
        "causal", "mask", "launched it", "launched it"]
    rejected = {"elementwise_kernel": "other", "nvjet_graph": "gemm"}
    kinds = {row["row"]: row["kernel"] for row in rows_of(trace, tmp_path)}
    assert {name: kinds[name] for name in rejected} == rejected


def test_the_external_id_serves_where_launches_are_missing(tmp_path):
    trace = Trace()
    trace.call(["aten::mm"], [[8, 16], [16, 32]], [("k", 3.0)], by="external")
    assert rows_of(trace, tmp_path)[0]["m"] == 8


@pytest.mark.parametrize("text", ["", "[", "{}", '{"traceEvents": 1}', '{"traceEvents": [{"ph": "X"}, 3]}',
                                  '{"traceEvents": [{"ph": "X", "ts": 1, "dur": 1, "name": "k", "args": []}]}'])
def test_other_files_are_one_sentence(tmp_path, text, capsys):
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(PerfplanError, match="odd.json"):
        read_kernels(path)
    assert run(["calibrate", "gemm", "--measured", str(path), "--accelerator", "h100-sxm"]) == 2
    assert capsys.readouterr().err.startswith("perfplan: ")


@pytest.mark.parametrize("value", [None, [], {"a": 1}, "x", -1, float("nan"), True, [[1, 2], [3]], [["x"], [1.5]]])
@pytest.mark.parametrize("name", ["ts", "dur", "pid", "cat", "name", "args", "correlation", "External id", "Input Dims",
                                  "Input type", "Concrete Inputs"])
def test_odd_values_lose_a_call_and_no_more(tmp_path, name, value):
    trace = Trace()
    linear(trace, 64, 512, 256)
    attend(trace, 512, 8)
    first = len(trace.events)
    linear(trace, 32, 512, 256)
    for event in trace.events[:first]:
        (event if name in event else event["args"])[name] = value
    assert "aten::addmm bf16 32x512x256" in set(read_kernels(trace.write(tmp_path / "t.json"))["row"])
