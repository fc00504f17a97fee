"""Write docs/cli.md from the `--help` of every command: `python tools/cli_reference.py [--check]`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TERMINAL_WIDTH"] = "100"
os.environ["COLUMNS"] = "100"

from typer.main import get_command  # noqa: E402 (the width must be set first)

from perfplan.cli.main import app  # noqa: E402

TARGET = Path(__file__).parents[1] / "docs" / "cli.md"
HEAD = """# Command line reference

Written by `python tools/cli_reference.py` from `--help`; do not edit.
"""


def commands(command: Any, context: Any = None, name: str = "perfplan") -> Iterator[tuple[str, str]]:
    """(path, help text) of a command and all commands below it."""
    here = command.make_context(
        name, [], parent=context, resilient_parsing=True, max_content_width=100, terminal_width=100
    )
    yield here.command_path, here.get_help()
    for child, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, here, child)


def reference() -> str:
    """The text of docs/cli.md."""
    blocks = [f"## `{path}`\n\n```text\n{words.rstrip()}\n```\n" for path, words in commands(get_command(app))]
    return "\n".join([HEAD, *blocks])


def main() -> int:
    """Write the reference, or with --check tell whether the committed one is current."""
    if "--check" not in sys.argv:
        TARGET.write_text(reference(), encoding="utf-8")
        return 0
    current = TARGET.read_text(encoding="utf-8") == reference()
    print("docs/cli.md is current" if current else "docs/cli.md is stale: run python tools/cli_reference.py")
    return 0 if current else 1


if __name__ == "__main__":
    sys.exit(main())
