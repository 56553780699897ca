"""Self-contained HTML pages, with fact boxes, charts and tables."""

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from itertools import groupby

from lrjax.report.chart import Chart
from lrjax.report.findings import Column, Findings


def document(title: str, lead: str, body: str, command: str, script: bool = False) -> str:
    """Returns a page. `lead` and `body` are HTML, the others text."""
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


def findings_page(findings: Findings, how: Sequence[str], figures: Iterable[str], heading: str) -> str:
    """Returns the page of findings: verdict, fact boxes, how it was done, charts and table."""
    setup = findings.setup
    lead = f'<p class="verdict">{text(findings.verdict)}</p>' if findings.verdict else ""
    lead += paragraphs(findings.notes)
    body = f"""{facts(findings.facts)}
{paragraphs([" ".join(how)], "how")}
<section class="plain"><div class="panel two">{"".join(figures)}</div></section>
<section><h2>{escape(heading)}</h2>
<p>Optimizer: <code>{escape(setup.optimizer)}</code>.</p>
{table(findings)}</section>"""
    return document(findings.title, lead, body, setup.command)


def facts(boxes: Iterable[Sequence[str]]) -> str:
    """Returns boxes of (name, value, detail)."""
    return "<dl class='facts'>" + "".join(_fact(*map(escape, box)) for box in boxes) + "</dl>"


def _fact(name: str, value: str, detail: str) -> str:
    return f"<div><dt>{name}</dt><dd><b>{value}</b><span>{detail}</span></dd></div>"


def paragraphs(words: Iterable[str], kind: str = "") -> str:
    return "".join(f"<p{f' class={kind}' if kind else ''}>{text(part)}</p>" for part in words)


def text(words: str) -> str:
    """Escapes text, and turns parts in backticks into code."""
    parts = escape(words).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def figure(chart: Chart, ramp: tuple[str, str] | None = None) -> str:
    """Returns a chart with its key; `ramp` names the ends of a colour ramp."""
    entries = []
    if ramp and any(line.is_drawn for line in chart.lines):
        entries.append(f'<span>{escape(ramp[0])}<i class="ramp"></i>{escape(ramp[1])}</span>')
    entries += [f"<span>{picture}{words}</span>" for picture, words in chart.key()]
    caption = f"<figcaption>{''.join(entries)}</figcaption>" if entries else ""
    return f"<figure>{chart.svg()}{caption}</figure>"


def table(findings: Findings) -> str:
    columns, few = findings.columns, "" if findings.groups else " few"
    head = "".join(f'<th scope="col"{_class(column)}>{escape(column.name)}</th>' for column in columns)
    groups = findings.groups or [""] * len(findings.cells)
    body = []
    for group, members in groupby(range(len(findings.cells)), key=lambda i: groups[i]):
        if group:
            heading = f'<th scope="rowgroup" colspan="{len(columns)}">{escape(group)}</th>'
            body.append(f'<tr class="group">{heading}</tr>')
        body += [_row(findings, i) for i in members]
    return (
        f'<div class="scroll"><table class="results{few}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _row(findings: Findings, i: int) -> str:
    first, *others = map(escape, findings.cells[i])
    columns = findings.columns[1:]
    cells = "".join(f"<td{_class(column)}>{_cell(x)}</td>" for column, x in zip(columns, others, strict=True))
    kind = "best" if i == findings.best else "bad" if i in findings.bad else ""
    return f'<tr{f" class={kind}" if kind else ""}><th scope="row">{first}</th>{cells}</tr>'


def _class(column: Column) -> str:
    return ' class="text"' if column.is_text else ""


def _cell(cell: str) -> str:
    value, plus_minus, spread = cell.partition(" ± ")
    return f"{value}<span class='spread'>{plus_minus}{spread}</span>" if plus_minus else value
