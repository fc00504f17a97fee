"""Writing reports: whole files or none."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from perfplan.errors import ExportError

__all__ = ["STDOUT", "write", "write_all"]

STDOUT = "-"


def _stage(target: Path, content: str) -> Path:
    """`content` in a temporary file beside `target`, with the permissions that a new file would get."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(content)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)


def write_all(files: Mapping[str, str]) -> None:
    """Write path -> content, every file whole; if one cannot be written, none is. The path `-` is standard output."""
    staged: list[tuple[Path, Path]] = []
    target = Path()
    try:
        for path in files:
            target = Path(path).expanduser()
            if path == STDOUT:
                continue
            if target.is_dir():
                raise IsADirectoryError(0, "it is a folder")
            staged.append((_stage(target, files[path]), target))
        for source, target in staged:
            os.replace(source, target)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ExportError(f"cannot write {target}: {reason}; choose another path") from error
    finally:
        for source, _ in staged:
            with suppress(FileNotFoundError):
                source.unlink()
    sys.stdout.write(files.get(STDOUT, ""))


def write(path: str, content: str) -> None:
    """Write one file whole, or standard output if `path` is `-`."""
    write_all({path: content})
