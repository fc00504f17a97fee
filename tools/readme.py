"""Run the examples of README.md and docs/ and hold their printed output against the real one.

`python tools/readme.py` checks, `--update` writes the real output in and docs/accuracy.md anew, `--setup N` prints the
N-th set-up command. A `console` block holds commands after `$ ` with their output; a `python` block is a script, a
`text` block right after it its output. `sh` blocks are set-up commands, which .ci/run runs from a clean clone.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)
SCRIPT = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.M | re.S)
SETUP = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)
GENERATED = ("cli.md", "accuracy.md")
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n", re.M)


def run(command: list[str], folder: str) -> str:
    """What a command prints, first on standard output, then on stderr."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": path, "COLUMNS": "100"},
    )
    return done.stdout + done.stderr


def console(block: re.Match[str]) -> str:
    """A console block with the real output of its commands; they share a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        parts = [f"$ {command}\n{run(['bash', '-c', command], folder)}" for command in COMMAND.findall(block[1])]
    return "```console\n" + "".join(parts) + "```"


def script(block: re.Match[str]) -> str:
    """A Python block and its real output."""
    with tempfile.TemporaryDirectory() as folder:
        output = run([sys.executable, "-c", block[1]], folder)
    return f"```python\n{block[1]}```\n\n```text\n{output}```"


def real(text: str) -> str:
    """A document with every example's output replaced by the real one."""
    if text.count("\n```python\n") > len(SCRIPT.findall(text)):
        raise SystemExit("a python block needs a text block with its output right after it")
    return _replaced(SCRIPT, script, _replaced(CONSOLE, console, text))


def _replaced(pattern: re.Pattern[str], make: Callable[[re.Match[str]], str], text: str) -> str:
    """The text with every block made anew; blocks have folders of their own, so that several run at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = pool.map(make, pattern.finditer(text))
        return pattern.sub(lambda _: next(made), text)


def documents() -> list[Path]:
    """README.md and the hand-written pages of docs/."""
    return [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in GENERATED)]


def setup(number: int) -> str:
    """The N-th set-up command of the README, from 1."""
    return str(SETUP.findall((ROOT / "README.md").read_text(encoding="utf-8"))[number - 1])


def main() -> int:
    """Check or update every document; the exit status tells whether all are (now) true."""
    if "--setup" in sys.argv:
        print(setup(int(sys.argv[sys.argv.index("--setup") + 1])))
        return 0
    stale = 0
    for page in documents():
        written = page.read_text(encoding="utf-8")
        truth = real(written)
        if "--update" in sys.argv:
            page.write_text(truth, encoding="utf-8")
        elif truth != written:
            stale = 1
            name = page.name
            print("\n".join(difflib.unified_diff(written.splitlines(), truth.splitlines(), name, "real", lineterm="")))
    if "--update" in sys.argv:
        subprocess.run([sys.executable, str(ROOT / "tools" / "accuracy.py")], check=True)
    return stale


if __name__ == "__main__":
    sys.exit(main())
