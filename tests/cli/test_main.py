"""The command line as a whole: what it loads, how it fails, how it ends."""

import json
import subprocess
import sys

import pytest

from perfplan.cli import main as cli
from perfplan.errors import Infeasible, UnknownName

HEAVY = {"numpy", "pandas", "scipy", "sympy", "pulp", "highspy", "rich", "pydantic"}


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_loads_nothing_heavy(arguments):
    code = (
        f"import json, sys\nfrom perfplan.cli.main import run\nstatus = run({arguments!r})\n"
        "print(json.dumps([status, sorted({name.split('.')[0] for name in sys.modules})]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, loaded = json.loads(done.stderr)
    assert status == 0 and "Usage: perfplan" in done.stdout
    assert not HEAVY & set(loaded)


@pytest.fixture
def failing(monkeypatch):
    def fail_with(error):
        def app(words, **_):
            raise error

        monkeypatch.setattr(cli, "app", app)

    return fail_with


@pytest.mark.parametrize(
    "error, status, words",
    [
        (UnknownName("no model\n 'x'"), 2, "perfplan: no model 'x'\n"),
        (Infeasible("nothing fits"), 1, "perfplan: nothing fits\n"),
        (
            KeyError("b"),
            2,
            "perfplan: this is a defect of perfplan, KeyError: 'b'; run with --debug for the traceback\n",
        ),
    ],
)
def test_a_failure_is_one_sentence_on_stderr(failing, capsys, error, status, words):
    failing(error)
    assert cli.run(["plan"]) == status
    assert capsys.readouterr() == ("", words)


def test_debug_prints_the_traceback(failing, capsys):
    failing(KeyError("b"))
    assert cli.run(["plan", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--nonsense"], ["nonsense"], ["plan", "nonsense"]])
def test_a_wrong_command_line_is_one_sentence(capsys, arguments):
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "nonsense" in err and "--help" in err


def test_version(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("perfplan ")


@pytest.mark.parametrize(
    "given, meant",
    [
        (["x", "--csv"], ["x", "--csv", "-"]),
        (["--csv", "--json"], ["--csv", "-", "--json"]),
        (["--csv", "f.csv"], ["--csv", "f.csv"]),
        (["--csv", "-", "x"], ["--csv", "-", "x"]),
        (["a", "--debug"], ["a"]),
    ],
)
def test_csv_without_a_file_means_standard_output(given, meant):
    assert cli._words(given) == meant


def test_a_closed_pipe_is_quiet():
    code = (
        "import sys\nfrom perfplan.cli import main as cli\n"
        "cli.app = lambda *a, **k: print('x' * 1000000)\nsys.exit(cli.run(['x']))"
    )
    pipe = f'{sys.executable} -c "{code}" | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(cli.PIPE_CLOSED) and done.stderr == ""


def test_a_pipe_closed_within_a_command_is_quiet_too(monkeypatch):
    def closed(*_, **__):
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            sys.exit(1)  # as click does

    monkeypatch.setattr(cli, "app", closed)
    monkeypatch.setattr(cli, "_give_up_output", lambda: None)
    assert cli.run(["x"]) == cli.PIPE_CLOSED


@pytest.mark.parametrize("group", ["plan", "estimate", "why", "catalog", "validate"])
def test_a_group_without_a_command_is_one_sentence(capsys, group):
    assert cli.run([group]) == 2
    assert capsys.readouterr() == ("", f"perfplan: Missing command; see `perfplan {group} --help`\n")


def test_a_full_disk_is_one_sentence():
    code = "import sys; from perfplan.cli.main import run; sys.exit(run(['explain', '--list']))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2 and done.stderr == "perfplan: cannot write the output: no space left on device\n"
