"""The frame of a page that needs nothing else."""

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources


def document(title: str, lead: str, body: str, command: str, script: bool = False) -> str:
    """A whole page. `lead` and `body` are HTML, the others text."""
    files = resources.files("lrjax.report")
    css, js = (files.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{css}</style></head><body>
<header><h1>{escape(title)}</h1>
{lead}</header>
<main>{body}</main>
<footer>Made by <code>{escape(command)}</code></footer>
{f"<script>{js}</script>" if script else ""}</body></html>
"""


def facts(boxes: Iterable[Sequence[str]]) -> str:
    """What a page says, in a few boxes: (what, value, more)."""
    return "<dl class='facts'>" + "".join(_fact(*map(escape, box)) for box in boxes) + "</dl>"


def _fact(what: str, value: str, who: str) -> str:
    return f"<div><dt>{what}</dt><dd><b>{value}</b><span>{who}</span></dd></div>"
