"""Decode attention fitted: constants come back, kernels that do not split are told, entries are written per engine."""

import numpy as np
import pandas as pd
import pytest

from perfplan.calibration.calibrate import calibrate_attention
from perfplan.calibration.decode import PRODUCTS, Device, decode_columns, decode_model, fit_decode
from perfplan.calibration.entry import accelerator_yaml
from perfplan.calibration.tables import KERNEL_COLUMNS
from perfplan.catalog import Catalog

DEVICE = Device(989e12, 3.35e12, 132)
TRUE = {"memory": 0.9, "overhead": 9e-6, "start": 2.0, "ramp": 12e-6, "compute": PRODUCTS}


def sweep(kv_dtype="bf16", software="mine"):
    shapes = [(b, s, h) for b in (1, 8, 32, 128) for s in (512, 2048, 8192, 16384) for h in (32, 64)]
    table = pd.DataFrame(shapes, columns=["batch", "seq_len_kv", "heads"])
    empty = pd.DataFrame({name: [kind if isinstance(kind, str) else np.nan] * len(table)
                          for name, kind in KERNEL_COLUMNS.items() if name not in table})
    fixed = {"kernel": "attention_decode", "hardware_id": "h100-sxm", "dtype": "bf16", "kv_dtype": kv_dtype,
             "kv_heads": 8.0, "head_dim": 128.0, "seq_len_q": 1.0, "software": software, "quality": "A", "suspect": 0.0}
    return pd.concat([table, empty], axis=1).assign(row=[f"r{i}" for i in range(len(table))], **fixed)


def timed(table, constants, kv_dtype="bf16"):
    seconds = decode_model(DEVICE)(decode_columns(table, kv_dtype), constants)
    return table.assign(latency_us=seconds * 1e6)


@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_constants_come_back(spread):
    truth = TRUE | ({"spread": spread} if spread else {})
    table = timed(sweep(), truth)
    found, held = fit_decode(DEVICE, decode_columns(table, "bf16"), table["latency_us"].to_numpy() / 1e6,
                             list(table["heads"]))
    assert ("spread" in found.constants) == bool(spread)
    assert held < 0.02
    for name in ("memory", "overhead", *(["spread"] if spread else [])):
        assert found.constants[name] == pytest.approx(truth[name], rel=0.05)


def test_each_engine_gets_a_key_of_its_own():
    tables = [timed(sweep(software="one"), TRUE), timed(sweep(software="two").iloc[:20], TRUE | {"overhead": 5e-6})]
    catalog = Catalog()
    chip = catalog.accelerator("h100-sxm")
    found = calibrate_attention(pd.concat(tables, ignore_index=True), chip)
    assert [(one.dtype, one.written) for one in found.fitted] == [("bf16", True), ("bf16@two", True)]
    entry = accelerator_yaml(chip.id, catalog.raw("accelerator", chip.id)[0], found, "mine.csv", "2026-01-01")
    assert "bf16@two" in entry and "ramp: 12 us" in entry


def test_rows_that_beat_the_memory_are_refused():
    table = timed(sweep(), TRUE)
    table.loc[3, "latency_us"] /= 100
    found = calibrate_attention(table, Catalog().accelerator("h100-sxm"))
    assert [(bad.row, bad.reason.split(":")[0]) for bad in found.rejected] == [("r3", "it beats the memory bandwidth")]
