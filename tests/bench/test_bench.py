"""Speed of the search and of the main job. Not collected by default:

    python -m pytest tests/bench --benchmark-columns=min,median,rounds

prints the times; the rates and the peak memory stand in `extra_info` (`--benchmark-json`) and are printed with `-s`.
One core is used: no search starts a thread. On a machine that others use, `--benchmark-timer=time.process_time` counts
what the searches took of it, and nothing of those that run as a process of their own.
"""

import json
import os
import subprocess
import sys

from perfplan.api import training_job
from perfplan.catalog import Catalog
from perfplan.training.search import search
from perfplan.training.space import declare

MAIN = {"cluster": "dgx-h100", "gpus": 1024, "global_batch": 1536, "seq_len": 8192, "precision": "fp8"}
LARGE = (
    "deepseek-v3",
    {"cluster": "gb200-nvl72", "gpus": 1152, "global_batch": 2304, "seq_len": 4096, "precision": "fp8"},
)
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
INSTALLED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | ONE_THREAD
"""As users run it: modules are compiled when they are installed, here by the run that warms up."""


def report(benchmark, unit, count):
    """Note and print how many of `unit` there are, and how many per second of the median round."""
    rate = count / benchmark.stats.stats.median
    benchmark.extra_info.update({unit: count, f"{unit}_per_second": rate})
    print(f"\n{benchmark.name}: {count:,} {unit}, {rate:,.0f} {unit}/s")


def test_priced_rows(benchmark):
    """Feasible rows priced in full, memory and step time by part; the time spent on all other rows counts too."""
    mine = training_job(LARGE[0], **LARGE[1])
    found = benchmark.pedantic(search, (mine, declare(mine)), rounds=3, warmup_rounds=1)
    assert found.feasible >= 10**6
    report(benchmark, "priced", found.feasible)


def test_rejected_rows(benchmark):
    """A space in which nothing fits: every row is rejected, by a rule or after its memory is known."""
    found = benchmark.pedantic(search, crowded(), rounds=3, warmup_rounds=1)
    assert found.feasible == 0
    report(benchmark, "rejected", found.size)


def test_rows_rejected_for_memory(benchmark):
    """The dearest way to be rejected: the same search, counting lawful rows alone, whose memory had to be computed."""
    found = benchmark.pedantic(search, crowded(), rounds=3, warmup_rounds=1)
    report(benchmark, "rejected", found.rejected["memory"])


def crowded():
    """A large job on accelerators too small for any layout of it, and its space."""
    tiny = Catalog(settings=("accelerator.memory=1GiB",))
    mine = training_job(LARGE[0], catalog=tiny, **LARGE[1])
    return mine, declare(mine)


SCRIPT = """
import json, resource, sys, time
from perfplan.api import training_job
from perfplan.training.search import search
from perfplan.training.space import declare
name, more = json.loads(sys.argv[1])
mine = training_job(name, **more)
axes = declare(mine)
start = time.perf_counter()
found = search(mine, axes)
print(json.dumps({"layouts": found.size, "feasible": found.feasible, "seconds": time.perf_counter() - start,
                  "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


def test_peak_memory_of_a_large_space(benchmark):
    """The declared space of the largest job named in the documentation, over 10^7 layouts, in a process of its own."""

    def run():
        command = [sys.executable, "-c", SCRIPT, json.dumps(LARGE)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, env=INSTALLED).stdout)

    seen = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(seen)
    print(f"\n{seen}")
    assert seen["layouts"] >= 10**7
    assert seen["peak_bytes"] <= 2**30


def test_main_job_end_to_end(benchmark):
    """The command of the README from start to exit of the interpreter."""
    options = ["--gpus", "1024", "--global-batch", "1536", "--seq-len", "8192", "--precision", "fp8"]
    command = ["perfplan", "plan", "train", "llama-3.1-405b", "--cluster", "dgx-h100", *options]
    command[0] = os.path.join(os.path.dirname(sys.executable), "perfplan")
    benchmark.pedantic(
        lambda: subprocess.run(command, check=True, capture_output=True, env=INSTALLED),
        rounds=5,
        warmup_rounds=1,
    )


def test_main_job_search(benchmark):
    """The search of the main job alone."""
    mine = training_job("llama-3.1-405b", **MAIN)
    axes = declare(mine)
    found = benchmark.pedantic(search, (mine, axes), rounds=5, warmup_rounds=1)
    report(benchmark, "layouts", found.size)


def test_plan_of_a_deployment_end_to_end(benchmark):
    """The search of the issue, 32 accelerators and both kinds, from start to exit of the interpreter."""
    options = ["--gpus", "32", "--workload", "azure-conv", "--rate", "12/s", "--ttft", "1s", "--tpot", "40ms"]
    command = ["perfplan", "plan", "serve", "qwen3-235b-a22b", "--cluster", "hgx-h200", *options]
    command[0] = os.path.join(os.path.dirname(sys.executable), "perfplan")
    benchmark.pedantic(
        lambda: subprocess.run(command, check=True, capture_output=True, env=INSTALLED),
        rounds=3,
        warmup_rounds=1,
    )
