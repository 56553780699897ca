"""Writes files atomically."""

import os
from os import PathLike
from pathlib import Path


def write_file(path: str | PathLike[str], content: bytes) -> None:
    """Writes a temporary file beside the path and then renames it, so that a full disk leaves the old file intact.
    Writes directly to what is no regular file, such as a pipe."""
    path = Path(path)
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve()  # replaces the target of a link, not the link
    part = path.with_name(f"{path.name}.part{os.getpid()}")
    try:
        part.write_bytes(content)
        if path.exists():
            part.chmod(path.stat().st_mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
