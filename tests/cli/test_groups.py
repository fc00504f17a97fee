"""Options shared by commands: where they stand, and what the command is given."""

from typing import Annotated, Any

import typer
from typer.testing import CliRunner

from perfplan.cli.groups import Group, grouped


def pair(
    one: Annotated[int, typer.Option("--one")] = 1, other: Annotated[int, typer.Option("--other")] = 2
) -> tuple[int, int]:
    return one, other


def run(*words: str) -> str:
    app = typer.Typer()

    @app.command()
    @grouped
    def command(name: str, both: Annotated[Any, Group(pair)] = None, last: bool = False) -> None:
        """Print what was given."""
        print(name, both, last)

    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_group_is_made_of_its_options() -> None:
    assert run("a") == "a (1, 2) False\n"
    assert run("a", "--other", "5", "--last") == "a (1, 5) True\n"


def test_the_options_stand_in_the_place_of_the_group() -> None:
    shown = run("--help")
    assert -1 < shown.index("--one") < shown.index("--other") < shown.index("--last")
    assert "--both" not in shown and "Print what was given" in shown
