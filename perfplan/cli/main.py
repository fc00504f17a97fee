"""The `perfplan` command: registers the commands and turns every failure into one sentence on stderr.

A command is one thin file beside this one: parse, call the library, render. It imports the library inside the command's
body, so that `--help` stays quick, and gets one line below `perfplan`.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from perfplan.cli import calibrate, catalog, estimate, plan, reproduce, schedule, validate, why
from perfplan.cli.diagnose import diagnose
from perfplan.cli.explain import explain
from perfplan.cli.fit import fit
from perfplan.cli.place import place
from perfplan.cli.provision import provision
from perfplan.cli.replicate import replicate
from perfplan.errors import ExportError, PerfplanError

__all__ = ["app", "main", "run"]

PIPE_CLOSED = 141  # what a shell reports for a process that SIGPIPE ended

app = typer.Typer(name="perfplan", add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"perfplan {version('perfplan')}")
        raise typer.Exit


@app.callback()
def perfplan(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of an error; may stand anywhere.")
    ] = False,
) -> None:
    """Predict what a language model costs on a machine (time, memory, money, energy), and find the best way to run it.

    Exit status: 0 done, 1 nothing feasible, 2 an error, told in one sentence on stderr.
    """


app.add_typer(plan.app, name="plan")
app.add_typer(estimate.app, name="estimate")
app.add_typer(why.app, name="why")
app.command()(fit)
app.command()(provision)
app.command()(diagnose)
app.add_typer(schedule.app, name="schedule")
app.command()(explain)
app.add_typer(catalog.app, name="catalog")
app.add_typer(validate.app, name="validate")
app.add_typer(calibrate.app, name="calibrate")
app.command()(reproduce.reproduce)
app.command()(place)
app.command()(replicate)


def _words(arguments: Sequence[str]) -> list[str]:
    """The command line with --debug taken out, and `-` (standard output) given to a --csv that names no file."""
    words = [word for word in arguments if word != "--debug"]
    following = [*words[1:], "--"]
    pairs = (
        [word, "-"] if word == "--csv" and after.startswith("--") else [word]
        for word, after in zip(words, following, strict=False)
    )
    return [word for pair in pairs for word in pair] or ["--help"]


def _sentence(error: Exception) -> str:
    """What went wrong, on one line."""
    if isinstance(error, PerfplanError):
        text = str(error)
    elif hasattr(error, "format_message"):  # the command line itself is wrong
        context = getattr(error, "ctx", None)
        given = [f", not {each['input']!r}" for each in getattr(error.__cause__, "errors", list)()]
        see = f"; see `{context.command_path} --help`" if context else ""
        text = error.format_message().rstrip(".") + "".join(given) + see
    else:
        text = (
            f"this is a defect of perfplan, {type(error).__name__}: {error}".rstrip(": ")
            + "; run with --debug for the traceback"
        )
    return " ".join(text.split())


def _fail(error: Exception, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    print(f"perfplan: {_sentence(error)}", file=sys.stderr)
    return error.exit_code if isinstance(error, PerfplanError) else 2


def _give_up_output() -> None:
    """Keep the interpreter from writing what is left at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _called(arguments: Sequence[str]) -> object:
    """What the command returns; a pipe that closes within it, which click ends with status 1, is raised as such."""
    try:
        return app(_words(arguments), prog_name="perfplan", standalone_mode=False)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            raise end.__context__ from None
        raise


def run(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return its exit status."""
    debug = "--debug" in arguments
    try:
        status = _called(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` perhaps, has what it wants
        _give_up_output()
        return PIPE_CLOSED
    except typer.Abort:
        return 130
    except OSError as error:
        if error.filename is not None:  # a file that the library should have told about
            return _fail(error, debug)
        _give_up_output()
        return _fail(ExportError(f"cannot write the output: {(error.strerror or str(error)).lower()}"), debug)
    except Exception as error:
        return _fail(error, debug)
    return status if isinstance(status, int) else 0


def main() -> None:
    """Entry point of the `perfplan` script."""
    sys.exit(run(sys.argv[1:]))
