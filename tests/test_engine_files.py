"""Fitted constants in engine files."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from engine_files import rewritten

TEXT = """\
name: E  # comment
step: 500 us
compute: 0.9
releases:
  "1.2":
    source: 'python tools/fit.py, 1.2.0rc1, 9 runs; else by hand'
  "1.3":
    compute: 0.7
    source: 'as the engine'
source: 'python tools/fit.py'
"""


def test_a_release_states_what_differs_and_only_where_its_source_names_the_fit():
    general = {"step": 4e-4, "compute": 0.88}
    own = {"step": 4.001e-4, "compute": 0.91}
    text = rewritten(TEXT, "python tools/fit.py", general, {"1.2.0rc1": own, "1.3": own},
                     {"1.2.0rc1": "1.2.0rc1, 12 runs", "1.3": "1.3, 1 runs"})  # fmt: skip
    assert text == """\
name: E  # comment
step: 400 us
compute: 0.88
releases:
  "1.2":
    compute: 0.91
    source: 'python tools/fit.py, 1.2.0rc1, 12 runs; else by hand'
  "1.3":
    compute: 0.7
    source: 'as the engine'
source: 'python tools/fit.py'
"""
    assert rewritten(text, "python tools/fit.py", general, {"1.2.0rc1": own}, {"1.2.0rc1": "1.2.0rc1, 12 runs"}) == text
