"""tools/fit_steps.py changes numbers of a catalog file and nothing else."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from fit_steps import replaced, written  # noqa: E402

TEXT = """kernels:
  gemm:
    any:
      memory: 0.5
  stream:
    any:  # in a step
      memory: 0.7
      overhead: 4 us
"""


def test_a_constant_is_written_where_it_stands():
    found = replaced(TEXT, ["kernels", "stream", "any", "memory"], "0.61")
    assert found == TEXT.replace("memory: 0.7", "memory: 0.61")
    assert replaced(TEXT, ["kernels", "scan", "any", "memory"], "0.61") == TEXT
    assert replaced(TEXT, ["kernels", "gemm", "any", "overhead"], "1 us") == TEXT


def test_times_are_written_with_their_unit():
    assert [written("host_gap", 2.5e-3), written("launch", 3.4e-5), written("optimizer_bytes", 38.04)] == [
        "2.5 ms", "34 us", "38.04"]
