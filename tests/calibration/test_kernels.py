"""Work and traffic of measured rows: hand-worked values, the filter of unusable rows, the dtype widths."""

import numpy as np
import pandas as pd
import pytest

from perfplan.calibration.kernels import (
    Rate,
    attention_columns,
    clean,
    experts_columns,
    fit_kernel,
    gemm_columns,
    kernel_model,
)


def frame(**columns):
    return pd.DataFrame({name: [value] for name, value in columns.items()})


def test_gemm_row():
    found = gemm_columns(frame(m=2, n=3, k=4), "bf16")
    assert (found["flops"][0], found["traffic"][0]) == (48, 2 * 8 + 2 * 12 + 2 * 6)


def test_grouped_row_has_m_rows_per_group():
    one, four = gemm_columns(frame(m=2, n=3, k=4), "bf16"), gemm_columns(frame(m=2, n=3, k=4, groups=4), "bf16")
    assert four["flops"][0] == 4 * one["flops"][0]
    assert four["traffic"][0] == 4 * one["traffic"][0]
    assert four["length"][0] == 2


def test_narrow_formats_still_write_two_bytes():
    assert gemm_columns(frame(m=2, n=3, k=4), "fp8")["traffic"][0] == 8 + 12 + 2 * 6


@pytest.mark.parametrize(("causal", "share"), [(0, 1.0), (1, 0.5)])
def test_attention_row(causal, share):
    row = frame(batch=2, heads=4, kv_heads=2, head_dim=8, seq_len_q=16, seq_len_kv=16, causal=causal)
    found = attention_columns(row, "bf16", 2.5)
    assert found["flops"][0] == 2.5 * share * 4 * 16 * 16 * 8 * 4 * 2
    assert found["traffic"][0] == 2.5 * 2 * 8 * 16 * 2 * (2 * 4 + 2 * 2)  # query and output, key and value


def test_training_attention_rows_have_as_many_key_heads():
    row = frame(batch=1, heads=4, kv_heads=None, head_dim=8, seq_len_q=16, seq_len_kv=16, causal=0)
    assert attention_columns(row, "fp16")["traffic"][0] == 8 * 16 * 2 * 16


def test_experts_of_one_rank():
    row = frame(tokens=64, hidden_size=8, moe_ffn_hidden_size=4, experts_per_token=2, experts=16, moe_tp=1, moe_ep=4)
    found = experts_columns(row, "bf16")
    assert found["flops"][0] == 6 * 32 * 8 * 4
    assert found["length"][0] == 8  # 128 routed rows over 16 experts


def test_weights_of_untouched_experts_are_not_read():
    few = frame(tokens=1, hidden_size=1024, moe_ffn_hidden_size=512, experts_per_token=2, experts=64, moe_tp=1,
                moe_ep=1)
    assert experts_columns(few, "fp8")["traffic"][0] == pytest.approx(3 * 1024 * 512 * 2, rel=0.01)


def test_only_trusted_rows_are_kept():
    table = pd.DataFrame({"latency_us": [1.0, 1.0, 1.0, None], "quality": ["A", "B", "A", "A"], "suspect": [0, 0, 1, 0],
                          "dtype": ["bf16"] * 4})
    assert len(clean(table)) == 1
    assert len(clean(table, dtype="fp8")) == 0
    assert len(clean(table, dtype=["fp8", "bf16"])) == 1


def test_a_product_pays_for_its_loop():
    rate, columns = Rate(1e15, 3e12), gemm_columns(frame(m=1, n=2048, k=8192), "bf16")
    constants = {"compute": 0.8, "memory": 0.9, "overhead": 3e-6, "step": 0.5e-9}
    plain, looped = (kernel_model(rate)(columns | {"depth": np.array([k])}, constants)[0] for k in (0, 8192))
    assert looped - plain == pytest.approx(8192 * 0.5e-9)


def test_few_inner_dimensions_leave_the_latency_of_the_loop_near_the_usual():
    shapes = [(m, n, k) for m in (1, 64, 1024, 8192) for n, k in ((2048, 7168), (8192, 8192))]
    table = pd.DataFrame(shapes, columns=["m", "n", "k"])
    columns = gemm_columns(table, "bf16") | {"depth": table["k"].to_numpy(dtype=float)}
    truth = {"compute": 0.8, "memory": 0.85, "overhead": 3e-6, "step": 0.45e-9}
    rate = Rate(989e12, 3.35e12)
    found, _ = fit_kernel(columns, kernel_model(rate)(columns, truth), rate)
    assert found.constants["step"] == pytest.approx(0.45e-9, rel=0.1)
    assert found.constants["compute"] == pytest.approx(0.8, rel=0.01)
    assert "step" not in fit_kernel(columns, kernel_model(rate)(columns, truth | {"step": 0.0}), rate)[0].constants
