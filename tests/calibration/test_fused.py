"""Training attention, both passes together: constants come back, unfused attention moves its scores."""

import numpy as np
import pandas as pd
import pytest

from perfplan.calibration.calibrate import calibrate_attention
from perfplan.calibration.fused import fit_pair, pair_columns, pair_model
from perfplan.calibration.kernels import Rate
from perfplan.calibration.tables import KERNEL_COLUMNS
from perfplan.catalog import Catalog

CHIP = Catalog().accelerator("a100-sxm-80gb")
RATE = Rate(CHIP.peak["fp16"], CHIP.memory_bandwidth)
TRUE = {"compute": 0.6, "memory": 0.9, "overhead": 5e-6, "half": 150.0, "narrow": 0.85}


def sweep(software="FlashAttention-2"):
    shapes = [(s, d, c) for s in (512, 1024, 4096, 16384) for d in (64, 128) for c in (0, 1)]
    table = pd.DataFrame(shapes, columns=["seq_len_q", "head_dim", "causal"])
    table = table.assign(batch=16384 / table["seq_len_q"], heads=2048 / table["head_dim"],
                         seq_len_kv=table["seq_len_q"])
    empty = {name: "" if isinstance(kind, str) else np.nan for name, kind in KERNEL_COLUMNS.items()
             if name not in table}
    fixed = {"kernel": "attention_fwd_bwd", "hardware_id": "a100-sxm-80gb", "dtype": "fp16", "software": software,
             "quality": "A", "suspect": 0.0, "row": [f"r{i}" for i in range(len(table))]}
    return table.assign(**(empty | fixed))


def test_constants_come_back():
    table = sweep()
    columns = pair_columns(table, "fp16", "FlashAttention-2")
    found, held = fit_pair(RATE, columns, pair_model(RATE)(columns, TRUE), list(table["head_dim"]), True)
    shown = [name for name in TRUE if name != "overhead"]  # microseconds of milliseconds
    assert [found.constants[name] for name in shown] == pytest.approx([TRUE[name] for name in shown], rel=0.05)
    assert held > found.mape  # heads of 64 cannot be told from those of 128


def test_calibrate_keys_them_by_software():
    table = sweep()
    seconds = pair_model(RATE)(pair_columns(table, "fp16", "FlashAttention-2"), TRUE)
    found = calibrate_attention(table.assign(latency_us=seconds * 1e6), CHIP)
    (pair,) = [one for one in found.fitted if one.kind == "attention_fwd_bwd"]
    assert (pair.dtype, pair.rows, pair.written) == ("fp16@FlashAttention-2", 16, True) and pair.mape < 0.01


def test_unfused_attention_gains_nothing_from_a_mask():
    table = sweep("PyTorch")
    columns = pair_columns(table, "fp16", "PyTorch")
    assert np.all(columns["causal"] == 0)
    causal = table["causal"].to_numpy() == 1
    assert np.all(columns["traffic"][causal] > columns["traffic"][~causal])
    assert np.all(columns["flops"][causal] == columns["flops"][~causal])
