"""Measure kernels of one accelerator with PyTorch and write them as CSV for `perfplan calibrate`.

    python measure.py --hardware my-chip > mine.csv      # about half an hour on one GPU, --quick a few minutes
    perfplan calibrate gemm --measured mine.csv --accelerator my-chip --save mine/accelerators/my-chip.yaml
    # a chip new to the catalog: the first time with --peak, --bandwidth, --memory and --like, see README.md

Sweeps of matrix products, plain and grouped, and of attention, forward, backward and decode; streams, launches with and
without graphs, copies, and one long run that shows the clock that lasts. This file needs PyTorch and nothing else.
Operands rotate through more memory than the cache holds, a time is the median of several runs, and rows go out as they
come: an interrupted run is still of use.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

__all__ = ["COLUMNS", "Bench", "main", "repeat"]

COLUMNS = ("id", "kernel", "hardware_id", "dtype", "out_dtype", "kv_dtype", "m", "n", "k", "groups", "batch",
           "seq_len_q", "seq_len_kv", "heads", "kv_heads", "head_dim", "causal", "bytes", "latency_us", "tflops",
           "gb_per_s", "software", "quality", "gold", "source", "confidence", "suspect", "note")  # fmt: skip
MATRICES = ((4096, 4096), (14336, 4096), (4096, 14336), (8192, 8192), (28672, 8192), (8192, 28672), (10240, 5120),
            (2048, 7168))  # (n, k) of common models  # fmt: skip
ROWS = (1, 16, 64, 256, 1024, 4096, 8192, 16384)  # m
HEADS = ((32, 8), (64, 8), (32, 32))  # query heads, key heads
GROUPED = ((32, 2048, 7168), (32, 7168, 2048), (8, 14336, 4096), (128, 768, 2048))  # experts, n, k of common models
GROUP_ROWS = (1, 16, 64, 256, 1024, 4096)  # m of one expert
DECODE = ((1, 16384), (8, 2048), (8, 16384), (32, 4096), (64, 1024), (64, 8192), (256, 2048))  # sequences, length
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
TOKENS = 16384  # per call, batch x length
HEAD_DIM = 128
STREAM_BYTES = 1 << 31  # of one array
SMALL = (1 << 12, 1 << 16, 1 << 20, 1 << 24)  # elements of a small kernel
COPY_BYTES = 1 << 30
CACHE_BYTES = 1 << 29  # operands rotate through at least this much
COPIES = 64  # operand sets at most
TARGET_US = 50_000.0  # one timed run lasts about so long
LONG_S = 30.0  # of the run that shows the lasting clock
LONG_SIZE = 8192

Call = Callable[[int], Any]


def repeat(call: Call, count: int) -> None:
    """Call `count` times with a running number."""
    for i in range(count):
        call(i)


class Bench:
    """Times calls on one device and writes rows of the kernels schema."""

    def __init__(self, torch: Any, hardware: str, out: Any, quick: bool = False, device: str = "cuda") -> None:
        """torch: the module; hardware: id for the rows; out: text stream; quick: every second shape, shorter runs."""
        self.torch, self.hardware, self.quick, self.device, self.count = torch, hardware, quick, device, 0
        self.captured = False  # whether the last time is that of a graph
        self.writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        self.out = out
        self.writer.writeheader()
        cuda = getattr(torch.version, "cuda", None) or getattr(torch.version, "hip", None) or "none"
        self.software = f"PyTorch {torch.__version__}, CUDA {cuda}"

    # ------------------------------------------------------------------ timing
    def _elapsed(self, run: Callable[[], Any]) -> float:
        """Time of one run by the device's own events [us]."""
        cuda = self.torch.cuda
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        cuda.synchronize()
        start.record()
        run()
        end.record()
        cuda.synchronize()
        return float(start.elapsed_time(end)) * 1e3

    def _graph(self, call: Call, count: int) -> Callable[[], Any] | None:
        """`count` calls captured into one graph, or None where they cannot be."""
        cuda = self.torch.cuda
        try:
            graph = cuda.CUDAGraph()
            with cuda.graph(graph):
                repeat(call, count)
        except RuntimeError:
            cuda.synchronize()
            return None
        replay: Callable[[], Any] = graph.replay
        return replay

    def time(self, call: Call, graph: bool = True) -> float:
        """Median time of one call [us]; call: gets a running number by which it picks its operands."""
        repeat(call, 3)
        first = max(self._elapsed(partial(repeat, call, 3)) / 3, 1.0)
        target = TARGET_US / (4 if self.quick else 1)
        count = int(min(max(target / first, 3), 1000))
        captured = self._graph(call, count) if graph else None
        self.captured = captured is not None
        run = captured or partial(repeat, call, count)
        run()
        return statistics.median(self._elapsed(run) for _ in range(5)) / count

    def row(self, kernel: str, dtype: str, latency_us: float, *, software: str = "", note: str = "", quality: str = "A",
            flops: float = 0.0, moved: float = 0.0, **shape: Any) -> None:
        """Write one row. latency_us [us]; flops [FLOP] and moved [B] give the rates."""
        self.count += 1
        rates = {"tflops": f"{flops / latency_us / 1e6:.4g}" if flops else "",
                 "gb_per_s": f"{moved / latency_us / 1e3:.4g}" if moved else ""}
        self.writer.writerow({
            "id": f"own-{self.count:04d}", "kernel": kernel, "hardware_id": self.hardware, "dtype": dtype,
            "latency_us": f"{latency_us:.4f}", "software": software or self.software, "quality": quality, "gold": 0,
            "source": "own measurement", "confidence": "read", "suspect": 0, "note": note,
        } | rates | shape)  # fmt: skip
        self.out.flush()

    def some(self, values: Sequence[Any]) -> Sequence[Any]:
        """All values, or every second one of a quick run, the last included."""
        return values[(len(values) + 1) % 2 :: 2] if self.quick else values

    def copies(self, bytes_each: float) -> int:
        """Sets of operands that together exceed the cache."""
        return int(min(max(CACHE_BYTES // max(bytes_each, 1), 1) + 1, COPIES))

    # ------------------------------------------------------------------ matrix products
    def gemms(self) -> None:
        """Products D[m,n] = A[m,k] B[k,n] in bf16, fp16 and, where the chip has it, fp8 with one scale per tensor."""
        for n, k in self.some(MATRICES):
            for m in self.some(ROWS):
                for dtype in ("bf16", "fp16", "fp8"):
                    self._attempt(f"{dtype} gemm {m}x{n}x{k}", partial(self._gemm, m, n, k, dtype))

    def _attempt(self, what: str, measure: Callable[[], Any]) -> None:
        """Measure, or say on stderr why not, and go on."""
        try:
            measure()
        except (RuntimeError, AttributeError, TypeError, ValueError) as error:
            print(f"left out {what}: {str(error).splitlines()[0]}", file=sys.stderr)
            self.torch.cuda.empty_cache()

    def _gemm(self, m: int, n: int, k: int, dtype: str) -> None:
        width = 1 if dtype == "fp8" else 2
        pairs = [self._operands(m, n, k, dtype) for _ in range(self.copies(width * (m * k + k * n)))]
        if dtype == "fp8":
            one = self.torch.ones((), device=self.device)
            scaled = self.torch._scaled_mm

            def call(i: int) -> Any:
                a, b = pairs[i % len(pairs)]
                return scaled(a, b, scale_a=one, scale_b=one, out_dtype=self.torch.bfloat16)
        else:

            def call(i: int) -> Any:
                a, b = pairs[i % len(pairs)]
                return self.torch.matmul(a, b)

        self.row("gemm", dtype, self.time(call), m=m, n=n, k=k, flops=2.0 * m * n * k, out_dtype="bf16" * (width == 1))

    def _operands(self, m: int, n: int, k: int, dtype: str) -> tuple[Any, Any]:
        kind = self.torch.float16 if dtype == "fp16" else self.torch.bfloat16
        a = self.torch.randn(m, k, device=self.device, dtype=kind)
        b = self.torch.randn(n, k, device=self.device, dtype=kind)  # transposed: both operands lie along k
        if dtype == "fp8":
            return a.to(self.torch.float8_e4m3fn), b.to(self.torch.float8_e4m3fn).t()
        return a, b.t()

    def grouped(self) -> None:
        """Products of experts, each with the same number of rows, in bf16."""
        for groups, n, k in self.some(GROUPED):
            for m in self.some(GROUP_ROWS):
                self._attempt(f"grouped gemm {groups} x {m}x{n}x{k}", partial(self._grouped, groups, m, n, k))

    def _grouped(self, groups: int, m: int, n: int, k: int) -> None:
        """One call of PyTorch's grouped kernel where it has one, else of its batched one."""
        torch, kind = self.torch, self.torch.bfloat16
        many, kernel = self.copies(2.0 * groups * (m * k + k * n)), getattr(self.torch, "_grouped_mm", None)
        weights = [torch.randn(groups, n, k, device=self.device, dtype=kind).transpose(1, 2) for _ in range(many)]
        rows = torch.randn(groups * m, k, device=self.device, dtype=kind)
        ends = torch.arange(m, groups * m + 1, m, device=self.device, dtype=torch.int32)

        def call(i: int) -> Any:
            if kernel:
                return kernel(rows, weights[i % many], offs=ends)
            return torch.bmm(rows.view(groups, m, k), weights[i % many])

        self.row("grouped_gemm", "bf16", self.time(call), m=m, n=n, k=k, groups=groups,
                 flops=2.0 * groups * m * n * k, note="" if kernel else "batched kernel")  # fmt: skip

    # ------------------------------------------------------------------ attention
    def decodes(self) -> None:
        """Fused attention of one new token per sequence over the keys and values before it, in bf16."""
        for heads, kv_heads in self.some(HEADS):
            for batch, length in self.some(DECODE):
                what = f"decode {heads}/{kv_heads} heads, {batch} x {length} tokens"
                self._attempt(what, partial(self._decode, heads, kv_heads, batch, length))

    def _decode(self, heads: int, kv_heads: int, batch: int, length: int) -> None:
        torch, moved = self.torch, 4.0 * batch * length * kv_heads * HEAD_DIM
        attend = torch.nn.functional.scaled_dot_product_attention

        def operand(count: int, tokens: int) -> Any:
            return torch.randn(batch, count, tokens, HEAD_DIM, device=self.device, dtype=torch.bfloat16)

        q = operand(heads, 1)
        caches = [(operand(kv_heads, length), operand(kv_heads, length)) for _ in range(self.copies(moved))]
        grouped = {"enable_gqa": True} if heads != kv_heads else {}
        with self._fused(), torch.no_grad():
            took = self.time(lambda i: attend(q, *caches[i % len(caches)], **grouped))
        self.row("attention_decode", "bf16", took, moved=moved, kv_dtype="bf16", batch=batch, seq_len_q=1, heads=heads,
                 seq_len_kv=length, kv_heads=kv_heads, head_dim=HEAD_DIM, causal=0)  # fmt: skip

    def attentions(self) -> None:
        """Fused causal attention of whole sequences, forward and backward, in bf16."""
        for heads, kv_heads in self.some(HEADS):
            for length in LENGTHS:
                what = f"attention {heads}/{kv_heads} heads, {length} tokens"
                self._attempt(what, partial(self._attention, heads, kv_heads, length))

    def _attention(self, heads: int, kv_heads: int, length: int) -> None:
        torch, batch = self.torch, max(TOKENS // length, 1)
        attend = torch.nn.functional.scaled_dot_product_attention

        def operand(count: int) -> Any:
            shape = (batch, count, length, HEAD_DIM)
            return torch.randn(*shape, device=self.device, dtype=torch.bfloat16, requires_grad=True)

        q, k, v = operand(heads), operand(kv_heads), operand(kv_heads)
        grouped = {"enable_gqa": True} if heads != kv_heads else {}
        flops = 4.0 * length * length * HEAD_DIM * heads * batch / 2
        shape: dict[str, Any] = {"batch": batch, "seq_len_q": length, "seq_len_kv": length, "heads": heads,
                                 "kv_heads": kv_heads, "head_dim": HEAD_DIM, "causal": 1}  # fmt: skip
        with self._fused():
            with torch.no_grad():
                forward = self.time(lambda i: attend(q, k, v, is_causal=True, **grouped))
            self.row("attention_fwd", "bf16", forward, flops=flops, kv_dtype="bf16", **shape)
            result = attend(q, k, v, is_causal=True, **grouped)
            gradient = torch.randn_like(result)
            backward = self.time(
                lambda i: torch.autograd.grad(result, (q, k, v), gradient, retain_graph=True), graph=False
            )
        self.row("attention_bwd", "bf16", backward, flops=2.5 * flops, **shape)

    def _fused(self) -> Any:
        """Only fused kernels: a silent fall-back to unfused attention would be measured as something else."""
        attention = importlib.import_module("torch.nn.attention")
        kinds = [getattr(attention.SDPBackend, name, None) for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION")]
        return attention.sdpa_kernel([kind for kind in kinds if kind is not None])

    # ------------------------------------------------------------------ memory, launches, copies
    def streams(self) -> None:
        """Bandwidth of memory-bound kernels over arrays far beyond the cache, fp64."""
        torch, count = self.torch, STREAM_BYTES // 8
        a, b, c = (torch.ones(count, device=self.device, dtype=torch.float64) for _ in range(3))
        kernels: dict[str, tuple[int, Call]] = {
            "stream_init": (1, lambda i: a.fill_(2.0)),
            "stream_scale": (2, lambda i: torch.mul(a, 0.5, out=b)),
            "stream_triad": (3, lambda i: torch.add(a, b, alpha=0.5, out=c)),
        }
        for name, (arrays, call) in kernels.items():
            moved = float(arrays * STREAM_BYTES)
            self.row(name, "fp64", self.time(call), moved=moved, bytes=int(moved))

    @staticmethod
    def _scale(array: Any, number: int) -> None:
        array.mul_(1.0)

    def launches(self) -> None:
        """Small kernels back to back: time per kernel, launched one by one and from a graph."""
        for count in SMALL:
            a = self.torch.ones(count, device=self.device, dtype=self.torch.float64)
            for graph in (False, True):
                took = self.time(partial(self._scale, a), graph=graph)
                way = "graph launch" if self.captured else "stream launch"
                self.row("small_kernel", "fp64", took, moved=16.0 * count, bytes=16 * count,
                         software=f"{self.software}, {way}")  # fmt: skip

    def transfers(self) -> None:
        """Copies between the host's pinned memory and the device, and inside the device."""
        torch = self.torch
        host = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True)
        here, there = (torch.empty(COPY_BYTES, dtype=torch.uint8, device=self.device) for _ in range(2))
        ways: dict[str, Call] = {
            "host to device": lambda i: here.copy_(host, non_blocking=True),
            "device to host": lambda i: host.copy_(here, non_blocking=True),
            "device to device": lambda i: there.copy_(here),
        }
        for way, call in ways.items():
            self.row("memcpy", "", self.time(call, graph=False), moved=float(COPY_BYTES), bytes=COPY_BYTES, note=way)

    def _product(self, a: Any, b: Any, number: int) -> None:
        self.torch.matmul(a, b)

    def lasting(self) -> None:
        """A long run of one product: its last quarter over its burst tells the clock that lasts under the power cap."""
        size, flops = LONG_SIZE, 2.0 * LONG_SIZE**3
        a, b = self._operands(size, size, size, "bf16")
        self.torch.cuda.synchronize()
        time.sleep(5.0)
        burst = self.time(partial(self._product, a, b))
        times, end = [], time.monotonic() + LONG_S / (4 if self.quick else 1)
        while time.monotonic() < end:
            times.append(self._elapsed(partial(repeat, partial(self._product, a, b), 100)) / 100)
        last = statistics.median(times[-max(len(times) // 4, 1) :])
        self.row("gemm", "bf16", last, m=size, n=size, k=size, flops=flops, quality="B",
                 note=f"sustained over {LONG_S:g} s; burst {burst:.1f} us; ratio {burst / last:.4f}")  # fmt: skip
        print(f"sustained: {min(burst / last, 1.0):.3f}  (burst over lasting time of a bf16 product)", file=sys.stderr)

    def parts(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Name and function of every part, in the order in which they run."""
        yield from (("stream", self.streams), ("launch", self.launches), ("copy", self.transfers),
                    ("gemm", self.gemms), ("grouped", self.grouped), ("attention", self.attentions),
                    ("decode", self.decodes), ("sustained", self.lasting))  # fmt: skip


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure kernels of one accelerator; CSV goes to standard output.")
    parser.add_argument("--hardware", default="", help="id of the accelerator in perfplan's catalog")
    parser.add_argument("--quick", action="store_true", help="every second shape and shorter runs")
    parser.add_argument("--only", default="", help="some of stream,launch,copy,gemm,grouped,attention,decode,sustained")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts asked for; exit status 2 without PyTorch or an accelerator."""
    options = _options(arguments)
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        print("this script needs PyTorch: pip install torch", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print("PyTorch sees no accelerator here", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    bench = Bench(torch, options.hardware, sys.stdout, options.quick)
    wanted = [word for word in options.only.split(",") if word]
    known = [name for name, _ in bench.parts()]
    if unknown := [word for word in wanted if word not in known]:
        print(f"--only {unknown[0]} is not known; write some of {','.join(known)}", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()} on {platform.node()}, {bench.software}", file=sys.stderr)
    for name, part in bench.parts():
        if not wanted or name in wanted:
            bench._attempt(name, part)
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
