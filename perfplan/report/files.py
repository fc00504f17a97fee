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


def _mode(target: Path) -> int:
    """Permissions for the file: those it has, else those that a new file would get."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _stage(target: Path, content: str) -> Path:
    """`content` in a temporary file beside `target`."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(content)
        os.chmod(name, _mode(target))
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)


def _is_stream(target: Path) -> bool:
    """Whether the path is a device or a pipe: something to write into, never to put a file in the place of."""
    return target.exists() and not target.is_file() and not target.is_dir()


def write_all(files: Mapping[str, str]) -> None:
    """Write path -> content, every file whole; if one cannot be written, none is. The path `-` is standard output.

    Links are followed; devices and pipes are written into, after every file has been staged.
    """
    staged: list[tuple[Path, Path]] = []
    streams: list[tuple[Path, str]] = []
    target = Path()
    try:
        for path, content in files.items():
            target = Path(path).expanduser()
            if path == STDOUT:
                continue
            if target.is_dir():
                raise IsADirectoryError(0, "it is a folder")
            if _is_stream(target):
                streams.append((target, content))
            else:
                target = target.resolve()
                staged.append((_stage(target, content), target))
        for target, content in streams:
            with target.open("w", encoding="utf-8", newline="") as stream:
                stream.write(content)
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
