"""`perfplan calibrate` on the command line: reports, saved entries that load again, the same output every time."""

import json

import pytest

from perfplan.catalog import Catalog
from perfplan.cli.main import run


def gemm_table(path, compute=0.5):
    rows = ["kernel,hardware_id,dtype,m,n,k,latency_us,software"]
    for n, k in ((4096, 4096), (8192, 2048), (2048, 8192)):
        for m in (1, 256, 4096, 16384):
            time = max(2 * m * n * k / (compute * 989.4e12), 2 * (m * k + n * k + m * n) / (0.8 * 3.35e12)) + 6e-6
            rows.append(f"gemm,h100,bf16,{m},{n},{k},{time * 1e6},test")
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def sweep(path):
    rows = ["op,n_ranks,bytes,latency_us,hardware_id"]
    for i in range(10, 30, 2):
        rows.append(f"all_reduce,8,{2**i},{(20e-6 + 1.75 * 2**i / 300e9) * 1e6},h100-sxm")
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def test_a_saved_accelerator_is_ready_for_the_catalog(tmp_path, capsys):
    folder = tmp_path / "mine" / "accelerators"
    folder.mkdir(parents=True)
    words = ["calibrate", "gemm", "--measured", gemm_table(tmp_path / "g.csv"), "--accelerator", "h100-sxm"]
    assert run([*words, "--date", "2026-02-03", "--save", str(folder / "h100-sxm.yaml")]) == 0
    assert "catalog entry written to" in capsys.readouterr().out
    chip = Catalog([tmp_path / "mine"]).accelerator("h100-sxm")
    assert chip.kernels["gemm"]["bf16"].compute == pytest.approx(0.5, rel=0.01)
    assert "2026-02-03" in chip.kernels["gemm"]["bf16"].source
    assert chip.kernels["attention"] == Catalog().accelerator("h100-sxm").kernels["attention"]


def test_a_saved_cluster_is_ready_for_the_catalog(tmp_path, capsys):
    folder = tmp_path / "mine" / "clusters"
    folder.mkdir(parents=True)
    words = ["calibrate", "collectives", "--measured", sweep(tmp_path / "c.csv"), "--accelerator", "h100-sxm"]
    assert run([*words, "--save", str(folder / "dgx-h100.yaml")]) == 0
    capsys.readouterr()
    level = Catalog([tmp_path / "mine"]).cluster("dgx-h100").levels[0]
    assert level.reduction * 14 / 8 == pytest.approx(300 / 450, rel=0.01)


NEW = ["--peak", "bf16=800 TFLOP/s", "--bandwidth", "3.35 TB/s", "--memory", "96 GiB", "--like", "h100-sxm"]


def test_a_new_chip_from_its_data_sheet_and_a_script_to_a_plan(tmp_path, capsys):
    """Peak and bandwidth once, then every kind fitted on top; what is not measured is borrowed and said so."""
    path = tmp_path / "mine.csv"
    gemm_table(path, compute=0.4)
    path.write_text(path.read_text().replace(",h100,", ",my-chip,"))
    folder = tmp_path / "mine" / "accelerators"
    folder.mkdir(parents=True)
    words = ["calibrate", "gemm", "--measured", str(path), "--accelerator", "my-chip"]
    assert run([*words, *NEW, "--save", str(folder / "my-chip.yaml")]) == 0
    chip = Catalog([tmp_path / "mine"]).accelerator("my-chip")
    assert chip.kernels["gemm"]["bf16"].compute == pytest.approx(0.4 * 989.4 / 800, rel=0.01)
    assert chip.kernels["attention"]["bf16"].borrowed == "h100-sxm" and not chip.kernels["gemm"]["bf16"].borrowed
    assert chip.memory == 96 * 2**30 and "fp8" not in chip.peak
    job = ["--cluster", "my-chip", "--gpus", "8", "--global-batch", "32", "--seq-len", "4096", "--catalog",
           str(tmp_path / "mine")]
    capsys.readouterr()
    assert run(["plan", "train", "llama-3-8b", *job]) == 0
    assert "8 x my-chip" in capsys.readouterr().out
    assert run([*words, "--catalog", str(tmp_path / "mine"), "--save", str(folder / "my-chip.yaml")]) == 0
    assert Catalog([tmp_path / "mine"]).accelerator("my-chip").memory == 96 * 2**30


@pytest.mark.parametrize(("words", "said"), [
    ([], "a new one needs its data sheet too: --peak"),
    (NEW[:4], "needs --memory, --like too"),
    ([*NEW[:1], "bf16", *NEW[2:]], "'bf16' is not of the form FORMAT=RATE"),
    ([*NEW[:1], "bf16=fast", *NEW[2:]], "the new accelerator my-chip: peak: 'fast' is not a quantity"),
])
def test_what_a_new_chip_lacks_is_one_sentence(tmp_path, capsys, words, said):
    table = gemm_table(tmp_path / "g.csv")
    assert run(["calibrate", "gemm", "--measured", table, "--accelerator", "my-chip", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("perfplan: ") and said in error and len(error.strip().splitlines()) == 1


def test_facts_of_a_known_chip_are_not_taken(tmp_path, capsys):
    table = gemm_table(tmp_path / "g.csv")
    assert run(["calibrate", "gemm", "--measured", table, "--accelerator", "h100", *NEW]) == 2
    assert "h100-sxm is in the catalog" in capsys.readouterr().err


def test_a_long_run_becomes_the_sustained_clock(tmp_path, capsys):
    path = tmp_path / "g.csv"
    gemm_table(path)
    head, *rows = path.read_text().splitlines()
    long = "gemm,h100,bf16,8192,8192,8192,1800,test,sustained over 30 s; burst 1700.0 us; ratio 0.9021"
    path.write_text("\n".join([f"{head},note", *(f"{row}," for row in rows), long]) + "\n")
    folder = tmp_path / "mine" / "accelerators"
    folder.mkdir(parents=True)
    words = ["calibrate", "gemm", "--measured", str(path), "--accelerator", "h100-sxm"]
    assert run([*words, "--save", str(folder / "h100-sxm.yaml")]) == 0
    chip = Catalog([tmp_path / "mine"]).accelerator("h100-sxm")
    assert chip.sustained["bf16"] == 0.9021
    assert chip.sustained["any"] == Catalog().accelerator("h100-sxm").sustained["any"]
    assert chip.kernels["gemm"]["bf16"].compute == pytest.approx(0.5, rel=0.01)


def test_the_same_file_gives_the_same_bytes(tmp_path, capsys):
    words = ["calibrate", "gemm", "--measured", gemm_table(tmp_path / "g.csv"), "--accelerator", "h100", "--json"]
    outputs = []
    for _ in range(2):
        assert run(words) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    report = json.loads(outputs[0])
    assert report["fitted"][0]["rows"] == 12 and report["rejected"] == [] and "bf16" in report["entry"]


def test_text_and_csv(tmp_path, capsys):
    words = ["calibrate", "gemm", "--measured", gemm_table(tmp_path / "g.csv"), "--accelerator", "h100"]
    assert run(words) == 0
    assert "catalog entry" in capsys.readouterr().out
    assert run([*words, "--csv"]) == 0
    assert capsys.readouterr().out.startswith("kind,dtype,software,rows,mape")


@pytest.mark.parametrize("words", [
    ["--measured", "none.csv", "--accelerator", "h100"],
    ["--measured", "g.csv", "--accelerator", "h1000"],
    ["--measured", "g.csv", "--accelerator", "b200"],
])
def test_faults_are_one_sentence(tmp_path, capsys, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    gemm_table(tmp_path / "g.csv")
    assert run(["calibrate", "gemm", *words]) == 2
    assert capsys.readouterr().err.startswith("perfplan: ")


def test_measured_steps_become_a_catalog_folder(tmp_path, capsys):
    from perfplan.validation.training import dev_measurements

    lines = dev_measurements()[0].read_text(encoding="utf-8").splitlines()
    path = tmp_path / "steps.csv"
    path.write_text("\n".join([lines[0], *(line for line in lines if line.startswith("koro22"))]) + "\n")
    words = ["calibrate", "step", "--measured", str(path), "--accelerator", "a100-sxm-80gb", "--date", "2026-02-03"]
    assert run([*words, "--json", "--save", str(tmp_path / "mine")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 8 and found["mape"] <= found["before"] and found["moved"]
    assert run(["catalog", "check", "--catalog", str(tmp_path / "mine")]) == 0
    capsys.readouterr()
    assert run([*words[:-4], "--accelerator", "gb300"]) == 2
    assert "gb300" in capsys.readouterr().err
