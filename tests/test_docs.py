"""The documents tell the truth: reference current, examples real, every command mentioned."""

import re
import sys
from pathlib import Path

import pytest
from typer.main import get_command

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import cli_reference  # noqa: E402
import readme  # noqa: E402

COMMANDS = [path for path, _ in cli_reference.commands(get_command(cli_reference.app)) if path.count(" ")]


def test_the_command_line_reference_is_current():
    assert cli_reference.TARGET.read_text(encoding="utf-8") == cli_reference.reference()


@pytest.mark.parametrize("page", readme.documents(), ids=lambda page: page.name)
def test_examples_print_what_the_document_says(page):
    written = page.read_text(encoding="utf-8")
    assert readme.real(written) == written


def test_a_wrong_output_is_noticed():
    page = "# Page\n\n```console\n$ echo two\none\n```\n\n```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n"
    assert readme.real(page) == page.replace("one", "two").replace("3", "2")


def test_the_readme_sets_up_with_two_commands():
    assert "plan train" in readme.setup(1) and "pytest" in readme.setup(2)
    assert len(readme.SETUP.findall((ROOT / "README.md").read_text(encoding="utf-8"))) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_documented(command):
    text = dict(cli_reference.commands(get_command(cli_reference.app)))[command]
    options = re.findall(r"^  (-\S+.*)$", text, re.M)
    assert all(re.search(r"\S  +\S", line) or len(line) > 30 for line in options), f"{command}: an option without help"
    assert len(text.split("\n\n")) > 2, f"{command} has no description"
