"""Files that are written whole or not at all."""

import os
from os import PathLike
from pathlib import Path


def write_file(path: str | PathLike[str], content: bytes) -> None:
    """Writes a file beside the one that is there, and then puts it in its place: a full disk loses nothing. What is no
    regular file, such as a pipe, is written as it is."""
    path = Path(path)
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve()  # where a link leads
    part = path.with_name(f"{path.name}.part{os.getpid()}")
    try:
        part.write_bytes(content)
        if path.exists():
            part.chmod(path.stat().st_mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
