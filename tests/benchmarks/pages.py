"""Puts what was measured into a page of the documentation."""

from pathlib import Path

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def write(page: str, name: str, report: str, folder: Path = NOTEBOOKS) -> None:
    """Replaces what is between the marks of this name.

    Raises:
      ValueError: the page doesn't have the marks once.
    """
    path = folder / page
    text, begin, end = path.read_text(encoding="utf-8"), f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed) or begin in after:
        raise ValueError(f"write: {page} must have {begin} and {end} once.")
    path.write_text(f"{before}{begin}\n{report}\n{end}{after}", encoding="utf-8")
