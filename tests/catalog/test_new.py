"""New accelerators from their data sheet, and the example that stands for a measured one."""

import csv
import io

from perfplan.calibration.tables import KERNEL_COLUMNS
from perfplan.catalog import Catalog
from perfplan.catalog.files import packaged_root
from perfplan.catalog.new import NewAccelerator, example_measurements, measured_accelerator

FACTS = NewAccelerator(("bf16=800 TFLOP/s", "fp16=800 TFLOP/s"), "4 TB/s", "96 GiB", "h200")


def test_what_the_data_sheet_does_not_say_is_that_of_the_relative():
    chip, entry = measured_accelerator(Catalog(), "mine", FACTS, "2026-02-03")
    assert chip.id == "mine" and chip.peak == {"bf16": 8e14, "fp16": 8e14} and chip.family == "hopper"
    assert chip.default_cluster == "hgx-h200" and entry["borrow"] == "h200-sxm"
    assert {kernel.borrowed for kernel in chip.kernels["gemm"].values()} <= {"h200-sxm", "h100-sxm", "a100-sxm-80gb"}
    assert entry["sources"]["memory"] == "given to perfplan calibrate, 2026-02-03"
    assert entry["sources"]["units"] == "taken to be that of h200-sxm"


def test_the_example_is_rows_of_the_shipped_measurements():
    rows = list(csv.DictReader(io.StringIO(example_measurements())))
    known = {}
    for name in ("ops_gemm.csv", "ops_context_attention.csv"):
        with (packaged_root() / "measurements" / name).open(newline="", encoding="utf-8") as lines:
            known |= {row["id"]: row for row in csv.DictReader(lines)}
    assert len(rows) > 50 and set(rows[0]) <= set(KERNEL_COLUMNS)
    assert all(row["latency_us"] == known[row["id"]]["latency_us"] for row in rows)
    assert {row["hardware_id"] for row in rows} == {"my-chip"}
