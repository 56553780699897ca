"""`lrjax plot`: the curve of a schedule."""

import argparse
import sys
import textwrap
from pathlib import Path
from typing import Any

from lrjax.commands.arguments import finish, integer_up_to
from lrjax.commands.shared import Refused, ascii_only, check_writable, columns, write
from lrjax.domains import MAX_STEPS
from lrjax.parse import parse_schedule
from lrjax.report.chart import schedule_page
from lrjax.report.svg import horizon
from lrjax.report.terminal import as_ascii, plot
from lrjax.schedules.base import Schedule


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "plot",
        help="draw a schedule in the terminal, or to a file",
        description="Draws a schedule, for example: lrjax plot 'warmup_cosine_decay_schedule(0, 1e-3, 100, 1000)'",
    )
    parser.add_argument("schedule", help="a call of a schedule, as in Python")
    parser.add_argument("--steps", type=integer_up_to(MAX_STEPS), help="how many steps (default: all of its phases)")
    parser.add_argument("--out", type=Path, help="a .svg file, or a .png file (extra: plot)")
    finish(parser, _run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        schedule = parse_schedule(arguments.schedule)
    except ValueError as error:
        raise Refused(str(error)) from None
    steps, out = arguments.steps or horizon(schedule), arguments.out
    if out is None:
        picture = plot(schedule, steps, columns())
        print(as_ascii(picture) if ascii_only() else picture)
        return 0
    check_writable(out, "--out")
    match out.suffix.lower():
        case ".svg":
            write(out, schedule_page(schedule, steps))
        case ".png":
            _save_png(schedule, steps, out)
        case _:
            raise Refused(f"`--out` must end in .svg or .png, got {str(out)!r}.")
    return 0


def _save_png(schedule: Schedule, steps: int, out: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        raise Refused("a PNG needs matplotlib: pip install 'lrjax[plot]'") from None
    matplotlib.use("agg")
    axes = schedule.plot(steps)
    axes.set_title(textwrap.fill(repr(schedule), 80), fontsize=8)
    try:
        axes.figure.savefig(out, dpi=144, bbox_inches="tight")
    except OSError as error:
        raise Refused(f"could not write {str(out)!r}: {error.strerror}.") from None
    print(f"wrote {out}", file=sys.stderr)
