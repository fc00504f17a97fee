"""A fit gives back the constants it was fed, and lends them to releases and engines that have no runs."""

from dataclasses import replace

import pytest

from perfplan.catalog import Catalog
from perfplan.validation.serving import Pricer
from perfplan.validation.serving_fit import (
    CONSTANTS,
    WAVES,
    columns_of,
    fit_engines,
    left_out_models,
    of_release,
    with_constants,
)
from perfplan.validation.serving_rows import Run

RUN = Run("a", "g", "llama-3.1-8b", "h100-sxm", "trtllm", "1.0", "bf16", "bf16", "", 1, 1, 1, None, 1, 1, None, 1024,
          128, 4, "concurrency", None, "tpot_ms", 1.0, "A", False, "")
STARTS = {name: one.start for name, one in CONSTANTS.items()}


def runs(values, **fields):
    pricer = Pricer(Catalog(), lambda engine: with_constants(engine, values))
    made = [replace(RUN, id=f"{n} {isl} {tp}", batch=n, isl=isl, tp=tp, **fields)
            for n in (1, 8, 64) for isl in (256, 2048) for tp in (1, 8)]
    return [replace(run, value=pricer.predict(run)) for run in made]


@pytest.mark.parametrize(("name", "factor"), [("overhead", 1.3), ("launch", 2.0)])
def test_a_fit_finds_the_constant_that_made_the_runs(name, factor):
    truth = STARTS | {name: STARTS[name] * factor}
    chips = ("h100-sxm", "h200-sxm", "b200-sxm", "b300-sxm", "gb200", "gb300")  # of each, CROWD runs count in full
    made = [run for chip in chips for run in runs(truth, hardware=chip)]
    columns = columns_of(made * 10, Pricer(Catalog()))
    found = fit_engines(columns)["trtllm", "1.0"]
    assert all(abs(one.predicted(found) / one.measured - 1).max() < 0.05 for one in columns)
    assert (found[name] / STARTS[name] - 1) * (factor - 1) > 0


def test_columns_give_what_runs_give_one_by_one():
    made = runs(STARTS)
    (columns,) = columns_of(made, Pricer(Catalog()))
    assert columns.predicted(STARTS) == pytest.approx([run.value for run in made], rel=1e-9)


def test_runs_that_are_not_closed_loops_of_tpot_take_no_part():
    odd = [replace(RUN, metric="ttft_ms"), replace(RUN, batch_kind="qps"), replace(RUN, suspect=True),
           replace(RUN, osl=1), replace(RUN, hardware="abacus")]
    assert columns_of(odd, Pricer(Catalog())) == []


def test_a_release_without_runs_takes_the_constants_of_its_engine_and_that_those_of_all():
    engine = Catalog().engine("vllm")
    fitted = {("vllm", "1"): {"step": 1.0}, ("vllm",): {"step": 2.0}, (): {"step": 3.0, "together": 0.2}}
    assert of_release(fitted, engine, "vllm", "1") == {"step": 1.0}
    assert of_release(fitted, engine, "vllm", "2") == {"step": 2.0}
    assert of_release(fitted, engine, "other", "2") == {"step": 3.0, "together": 0.2}
    assert of_release(fitted, replace(engine, mixed=False), "other", "2")["together"] == WAVES
    assert of_release({}, engine, "vllm", "1") == STARTS


def test_a_model_left_out_learns_from_the_other_models_alone(tmp_path):
    truth = STARTS | {"overhead": 1.2}
    rows = 4 * runs(truth) + 4 * runs(truth, model="qwen3-32b", group="h")
    names = ["id", "group", "model_id", "hardware_id", "engine", "engine_version", "weight_dtype", "isl", "osl",
             "batch", "tp", "tpot_ms"]
    lines = [",".join(map(str, (one.id, one.group, one.model, one.hardware, one.engine, one.release, one.weights,
                                one.isl, one.osl, one.batch, one.tp, one.value))) for one in rows]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([",".join(names), *lines]))
    found = [one.ratio for one in left_out_models([path]).outcomes]
    untaught = [abs(one.predicted(STARTS) / one.measured - 1).mean() for one in columns_of(rows, Pricer(Catalog()))]
    assert len(found) == len(rows)
    assert sum(abs(one - 1) for one in found) / len(found) < max(untaught) / 2


def test_the_loop_of_a_release_without_runs_is_in_step_where_prompts_go_first(tmp_path):
    def priced(share):
        values = STARTS | {"together": WAVES}
        return Pricer(Catalog(), lambda engine: replace(with_constants(engine, values), burst=share)).predict(loop)

    loop = replace(RUN, id="b", engine="sglang", release="0.5.1", metric="ttft_ms", batch=64)
    names = "id,group,model_id,hardware_id,engine,engine_version,weight_dtype,isl,osl,batch,tp,ttft_ms,tpot_ms"
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([
        names,
        "a,g,qwen3-32b,h100-sxm,vllm,0.12.0,bf16,1024,128,4,1,300,20",
        f"b,g,llama-3.1-8b,h100-sxm,sglang,0.5.1,bf16,1024,128,64,1,{priced(WAVES)},10",
    ]))
    (ratio,) = [one.ratio for one in left_out_models([path]).outcomes if one.id == "b" and "ttft" in one.slice]
    assert ratio == pytest.approx(1, abs=0.1)
    assert priced(0.1) < 0.6 * priced(WAVES)
