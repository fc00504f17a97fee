"""Rows of the shipped files with cells blanked, swapped and made odd: each is scored or listed with a reason."""

import csv
import random
import re
from functools import partial

import pytest

from perfplan.catalog.files import packaged_root
from perfplan.errors import CatalogError
from perfplan.report.delta import delta_text
from perfplan.report.measured import measured_text
from perfplan.report.validation import outcome_rows, validation_text
from perfplan.validation.collectives import validate_collectives
from perfplan.validation.kernels import validate_experts, validate_kernels
from perfplan.validation.runs import validate_training

KEPT = {"id", "group", "note", "source", "confidence"}
ODD = {
    "hardware_id": ["", "nobody-chip", "xeon-phi-7250", "mi300x", "tpu-v7-core", "h100-500w", "m1"],
    "model_id": ["", "nobody", "gemma-4-e2b", "vtrain-h3072-l30", "nemotron-3-nano-30b-a3b"],
    "dtype": ["", "odd8", "fp64", "int4", "mxfp4"], "kv_dtype": ["", "odd", "fp8"],
    "precision": ["", "odd8", "nvfp4", "int8"], "kernel": ["", "new_op", "moe_fused", "attention_decode", "gemm"],
    "op": ["", "new_op", "broadcast", "moe_dispatch", "p2p"], "algo": ["", "new", "low_latency", "one_sided", "normal"],
    "software": ["", "new 1.0", "PyTorch", "DeepEP V2", "graph launch"], "engine": ["", "new"],
    "distribution": ["", "uniform", "power_law_1.01", "power_law_1"], "quality": ["", "C"], "suspect": ["", "1"],
    "metric": ["", "furlongs", "oom", "memory_gib_per_accel", "mfu_pct"], "method": ["", "sft", "dpo"],
    "sharding": ["", "new", "hsdp", "zero3"], "recompute": ["", "new", "full"], "offload": ["", "new", "activations"],
    "attention_kind": ["", "new", "swa"], "flop_convention": ["", "x"], "overlap": ["x", "tp_overlap=1"],
    "recompute_modules": ["x", "core_attn"],
}
NUMBERS = ["", "0", "1", "3", "8", "4096", "1000000000"]
FILES = {"kernels": ("ops_gemm.csv", "ops_context_attention.csv", "ops_generation_attention.csv",
                     "kernels_measured.csv"), "moe": ("ops_moe.csv",),
         "collectives": ("ops_collectives.csv", "collectives_measured.csv"), "training": ("training_measured.csv",)}
SCORED = {"kernels": validate_kernels, "moe": validate_experts, "collectives": validate_collectives,
          "training": validate_training}


def odd(row, draws):
    """A row with one to six cells changed."""
    row = dict(row)
    for name in draws.sample([name for name in row if name not in KEPT], draws.choice((1, 1, 2, 3, 6))):
        if name in ODD:
            row[name] = draws.choice(ODD[name])
        elif re.fullmatch(r"[\d.e+-]*", row[name]):
            row[name] = draws.choice(NUMBERS if name != "value" else ["", "1", "1000"])
    return row


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("what", SCORED)
def test_odd_rows_are_scored_or_listed(tmp_path, what):
    draws = random.Random(7)
    for name in FILES[what]:
        with (packaged_root() / "measurements" / name).open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        some = [odd(draws.choice(rows), draws) | {"id": f"s{i % 3}-{i}"} for i in range(80)]
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, list(some[0]))
            writer.writeheader()
            writer.writerows(some)
        found = SCORED[what]([tmp_path / name])
        assert [one.id for one in found.outcomes] == [row["id"] for row in some]
        for one in found.outcomes:
            assert one.unsupported or one.metric in ("oom", "memory_gib_per_accel") or 0 < one.ratio < float("inf"), one
        assert sum(bool(one.unsupported) for one in found.outcomes) > 5
        assert len(outcome_rows(found.outcomes)) == 80
        for show in (partial(validation_text, found), partial(measured_text, found)):
            assert "not scored" in show() or what != "training"
        delta_text(found.outcomes)


def test_words_where_numbers_belong_end_the_run_with_one_sentence(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("kernel,dtype,latency_us,m\ngemm,bf16,1.0,many\n")
    with pytest.raises(CatalogError, match="line 2: column m holds 'many'"):
        validate_kernels([path])
