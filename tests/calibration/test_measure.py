"""The measuring script: what it writes can be read and fitted; without an accelerator it says so."""

import csv
import io
import subprocess
import sys
from types import SimpleNamespace

import pytest

from perfplan.calibration import measure
from perfplan.calibration.calibrate import calibrate_attention, calibrate_gemm, calibrate_streams
from perfplan.calibration.script import measuring_script
from perfplan.calibration.tables import KERNEL_COLUMNS, read_kernels
from perfplan.catalog.files import packaged_root
from perfplan.errors import PerfplanError

KNOWN = SimpleNamespace(overhead=3e-6)
CHIP = SimpleNamespace(id="mine", peak={"bf16": 1e15, "fp16": 1e15, "fp8": 2e15}, memory_bandwidth=4e12,
                       kernels={"stream": {"any": KNOWN}}, units=100, l2=5e7)


class Event:
    """A clock that the fake matrix products move on."""

    now = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = Event.now

    def elapsed_time(self, later):
        return (later.at - self.at) * 1e3


class Matrix:
    def __init__(self, rows, columns, width=2):
        self.shape, self.width = (rows, columns), width

    def to(self, kind):
        return Matrix(*self.shape, width=kind)

    def t(self):
        return Matrix(*reversed(self.shape), width=self.width)


def matmul(a, b, **scales):
    (m, k), (_, n) = a.shape, b.shape
    peak = 1e15 * 2 / a.width
    moved = a.width * (m * k + k * n) + 2 * m * n
    Event.now += max(2 * m * n * k / (0.7 * peak), moved / (0.8 * 4e12)) + 5e-6


def no_graph():
    raise RuntimeError("graphs are not faked")


CUDA = SimpleNamespace(Event=Event, synchronize=lambda: None, CUDAGraph=no_graph, empty_cache=lambda: None)
TORCH = SimpleNamespace(
    __version__="9.9", version=SimpleNamespace(cuda="13"), cuda=CUDA, bfloat16=2, float16=2, float8_e4m3fn=1,
    randn=lambda rows, columns, **rest: Matrix(rows, columns), matmul=matmul, _scaled_mm=matmul,
    ones=lambda *shape, **rest: None)


@pytest.fixture
def written(tmp_path):
    out = io.StringIO()
    bench = measure.Bench(TORCH, "mine", out)
    bench.gemms()
    (tmp_path / "mine.csv").write_text(out.getvalue())
    return tmp_path / "mine.csv"


def test_the_schema_is_that_of_the_shipped_measurements():
    with (packaged_root() / "measurements" / "kernels_measured.csv").open() as lines:
        assert tuple(next(csv.reader(lines))) == measure.COLUMNS
    assert set(KERNEL_COLUMNS) <= set(measure.COLUMNS)


def test_what_it_writes_calibrates(written):
    table = read_kernels(written)
    assert len(table) == len(measure.MATRICES) * len(measure.ROWS) * 3
    found = {one.dtype: one for one in calibrate_gemm(table, CHIP).fitted}
    assert found["bf16"].constants == pytest.approx({"compute": 0.7, "memory": 0.8, "overhead": 5e-6}, rel=0.02)
    assert found["fp8"].constants["compute"] == pytest.approx(0.7, rel=0.02)
    assert found["bf16"].software == "PyTorch 9.9, CUDA 13"


class Tensor:
    """A shape with a width in bytes, and the few views that the script takes of it."""

    def __init__(self, *shape, width=2):
        self.shape, self.width = shape, width

    def transpose(self, *axes):
        return Tensor(self.shape[0], self.shape[2], self.shape[1])

    def view(self, *shape):
        return Tensor(*shape)


def bmm(a, b):
    (groups, m, k), n = a.shape, b.shape[2]
    flops, moved = 2 * groups * m * n * k, 2 * groups * (m * k + k * n + m * n)
    Event.now += max(flops / (0.6 * m / (m + 100) * 1e15), moved / (0.8 * 4e12)) + 9e-6


def attend(q, k, v, **rest):
    batch, heads, length, width = q.shape
    keys, kv_heads = k.shape[2], k.shape[1]
    moved = 2 * batch * width * (2 * heads * length + 2 * kv_heads * keys)
    flops = 2 * batch * heads * length * keys * width
    compute = flops / (0.6 * length / (length + 500) * 1e15) if length > 1 else 0.0
    Event.now += max(compute, moved / (0.7 * 4e12)) + 8e-6
    return Tensor(*q.shape)


def gradient(result, operands, given, **rest):
    Event.now += 2.5 * 2 * operands[0].shape[0] * operands[0].shape[1] * operands[0].shape[2] ** 2 * 128 / 4e14


class Nothing:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False


ATTENTION = SimpleNamespace(SDPBackend=SimpleNamespace(FLASH_ATTENTION=1), sdpa_kernel=lambda kinds: Nothing())
WHOLE = SimpleNamespace(**{
    **vars(TORCH), "bmm": bmm, "int32": 4, "arange": lambda *a, **k: None, "no_grad": Nothing,
    "randn": lambda *shape, **rest: Tensor(*shape), "randn_like": lambda x: x,
    "autograd": SimpleNamespace(grad=gradient),
    "nn": SimpleNamespace(functional=SimpleNamespace(scaled_dot_product_attention=attend)),
})


def test_grouped_products_and_attention_calibrate(tmp_path, monkeypatch):
    out, real = io.StringIO(), measure.importlib.import_module
    monkeypatch.setattr(measure.importlib, "import_module",
                        lambda name: ATTENTION if name == "torch.nn.attention" else real(name))
    bench = measure.Bench(WHOLE, "mine", out)
    bench.grouped()
    bench.attentions()
    bench.decodes()
    (tmp_path / "mine.csv").write_text(out.getvalue())
    table = read_kernels(tmp_path / "mine.csv")
    counts = {"grouped_gemm": len(measure.GROUPED) * len(measure.GROUP_ROWS),
              "attention_decode": len(measure.HEADS) * len(measure.DECODE)}
    counts |= dict.fromkeys(("attention_fwd", "attention_bwd"), len(measure.HEADS) * len(measure.LENGTHS))
    assert table["kernel"].value_counts().to_dict() == counts and set(table["quality"]) == {"A"}
    (grouped,) = calibrate_gemm(table, CHIP).fitted
    assert grouped.kind == "grouped_gemm" and grouped.constants["compute"] == pytest.approx(0.6, rel=0.05)
    decode = table[table["kernel"] == "attention_decode"]
    assert decode["gb_per_s"].max() == pytest.approx(0.7 * 4e3, rel=0.05) and set(decode["seq_len_q"]) == {1}
    found = {one.kind: one.constants for one in calibrate_attention(table, CHIP).fitted}
    assert found["attention"]["compute"] == pytest.approx(0.6, rel=0.02)
    assert found["attention"]["half"] == pytest.approx(500, rel=0.1)


def test_what_fails_is_left_out_and_said(capsys, monkeypatch):
    out = io.StringIO()
    bench = measure.Bench(SimpleNamespace(**{**vars(TORCH), "matmul": lambda a, b: no_graph()}), "mine", out)
    monkeypatch.setattr(measure, "MATRICES", ((16, 16),))
    bench.gemms()
    assert {row["dtype"] for row in csv.DictReader(io.StringIO(out.getvalue()))} == {"fp8"}
    assert "left out bf16 gemm" in capsys.readouterr().err


def test_quick_keeps_the_last_shape():
    bench = measure.Bench(TORCH, "", io.StringIO(), quick=True)
    assert list(bench.some((1, 2, 3))) == [1, 3] and list(bench.some((1, 2, 3, 4))) == [2, 4]


def test_the_printed_script_runs_by_itself(tmp_path):
    path = tmp_path / "measure.py"
    path.write_text(measuring_script())
    done = subprocess.run([sys.executable, "-I", str(path), "--quick"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert "PyTorch" in done.stderr
    assert "perfplan" not in {line.split()[1].split(".")[0] for line in path.read_text().splitlines()
                              if line.startswith(("import ", "from "))}


def streams(tmp_path, *rows):
    names = ("id", "kernel", "dtype", "bytes", "latency_us", "gb_per_s", "software", "note")
    lines = [",".join(names), *(",".join(map(str, (*row[:2], "fp64", *row[2:]))) for row in rows)]
    (tmp_path / "s.csv").write_text("\n".join(lines) + "\n")
    return read_kernels(tmp_path / "s.csv")


def kernel(size, software="graph launch", overhead=2e-6):
    return ("k", "small_kernel", size, (size / (0.85 * 4e12) + overhead) * 1e6, "", software, "")


def test_streams_and_launches(tmp_path):
    rate = ("r", "stream_scale", "", "", 3400, "", "")
    found = calibrate_streams(streams(tmp_path, rate, kernel(2**16), kernel(2**20), kernel(2**26)), CHIP)
    assert found.fitted[0].constants == pytest.approx({"compute": 1, "memory": 0.85, "overhead": 2e-6}, rel=0.01)


def test_without_small_kernels_the_launch_stays(tmp_path):
    odd = (("a", "stream_scale", "", "", 5000, "", ""), ("b", "stream_scale", "", "", 100, "", "occupancy_pct=3.0"),
           kernel(2**16, "stream launch", 9e-6))
    found = calibrate_streams(streams(tmp_path, ("r", "stream_triad", "", "", 3400, "", ""), *odd), CHIP)
    assert found.fitted[0].constants["overhead"] == 3e-6 and found.fitted[0].rows == 1
    assert [bad.reason.split(":")[0] for bad in found.rejected] == [
        "it beats the memory bandwidth", "it was measured at partial occupancy on purpose",
        "it was launched by the host, one by one"]


def test_no_streams_is_an_error(tmp_path):
    with pytest.raises(PerfplanError, match="no streams of mine"):
        calibrate_streams(streams(tmp_path, kernel(2**16)), CHIP)
