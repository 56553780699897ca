"""Puts what was measured into the README."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def write(name: str, report: str, readme: Path = README) -> None:
    """Between the marks of this name; at the end, with the marks, if they aren't there."""
    text, begin, end = readme.read_text(), f"<!-- {name} -->", f"<!-- /{name} -->"
    block = f"{begin}\n{report}\n{end}"
    marks = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", flags=re.DOTALL)
    written = marks.sub(lambda _: block, text) if marks.search(text) else f"{text.rstrip()}\n\n{block}\n"
    readme.write_text(written)
