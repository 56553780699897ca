"""The command line: `lrjax compare`, `lrjax plot`. The only file that prints."""

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import lrjax
from lrjax.compare import TASKS, Comparison, compare
from lrjax.parse import parse_schedule
from lrjax.report.html import page
from lrjax.report.svg import horizon, schedule_svg
from lrjax.report.table import cells, headers, to_csv, to_json
from lrjax.report.terminal import plot


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; 0 where all went well, 2 where an argument was bad."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 0
    try:
        arguments.run(arguments)
    except (ValueError, ImportError, OSError) as error:
        print(f"lrjax {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:  # one line, without the usage
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lrjax", description="Everything people do with a learning rate.")
    parser.add_argument("--version", action="version", version=f"lrjax {lrjax.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", parser_class=_Parser)
    run = commands.add_parser(
        "compare",
        help="train a model with every technique, print a table and write a page",
        description="Trains a model on real data with every technique that sets a learning rate: too low, right and "
        "too high, decays, cycles, warmups, adaptive methods. Prints a table and writes a page with the curves.",
    )
    run.add_argument("--task", default="digits", choices=list(TASKS), help="the problem (default: digits)")
    run.add_argument("--steps", type=_count, default=400, help="updates of each run (default: 400)")
    run.add_argument("--seeds", type=_count, default=5, help="runs of each technique (default: 5)")
    run.add_argument("--out", type=Path, default=Path("lrjax-report.html"), help="the page (lrjax-report.html)")
    run.add_argument("--format", default="table", choices=["table", "json", "csv"], help="what goes to the terminal")
    run.set_defaults(run=_compare)
    draw = commands.add_parser(
        "plot",
        help="draw a schedule in the terminal, or to a file",
        description="Draws a schedule, for example: lrjax plot 'warmup_cosine_decay_schedule(0, 1e-3, 100, 1000)'",
    )
    draw.add_argument("schedule", help="a call of a schedule, as in Python")
    draw.add_argument("--steps", type=_count, help="how many steps (default: all of its phases)")
    draw.add_argument("--out", type=Path, help="a .svg file, or a .png file (extra: plot)")
    draw.set_defaults(run=_plot)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10**7:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 10,000,000, got {text!r}")
    return int(text)


def _writable(path: Path) -> Path:
    """The path, where a file can be written there; asked before the work, not after."""
    if path.is_dir():
        raise ValueError(f"`--out` must be a file, got the directory {str(path)!r}.")
    if not path.parent.is_dir():
        raise ValueError(f"`--out` must be in a directory that exists, got {str(path)!r}.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"`--out` must be writable, got {str(path)!r}.")
    return path


def _compare(arguments: argparse.Namespace) -> None:
    try:
        import rich.console
        import rich.progress
    except ImportError:
        raise ImportError("needs rich: pip install 'lrjax[demo]'.") from None
    out = _writable(arguments.out)
    task = TASKS[arguments.task]()
    console = rich.console.Console(stderr=True)
    columns = [
        rich.progress.TextColumn("training"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeElapsedColumn(),
    ]
    with rich.progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("training", total=None)
        result = compare(
            task,
            arguments.steps,
            arguments.seeds,
            lambda done, total: bar.update(shown, completed=done, total=total),
        )
    out.write_text(page(result), encoding="utf-8")
    formats: dict[str, Callable[[Comparison], Any]] = {"table": _print_table, "json": _print_json, "csv": _print_csv}
    formats[arguments.format](result)
    print(f"wrote {out}", file=sys.stderr)


def _print_json(result: Comparison) -> None:
    print(to_json(result))


def _print_csv(result: Comparison) -> None:
    print(to_csv(result), end="")


def _print_table(result: Comparison) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    _, seeds, steps = result.losses.shape
    title = f"{result.task.name}: {steps} steps, {seeds} seeds"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in headers(result):
        table.add_column(name.replace(" ", "\n", 1), justify="left" if name == "technique" else "right", no_wrap=True)
    group = None
    for row in result.rows():
        if group not in (None, row["group"]):
            table.add_section()
        group = row["group"]
        table.add_row(*cells(row, result.task.percent), style="red" if row["diverged"] else None)
    Console().print(table)


def _plot(arguments: argparse.Namespace) -> None:
    schedule = parse_schedule(arguments.schedule)
    steps = arguments.steps or horizon(schedule)
    if arguments.out is None:
        print(plot(schedule, steps, shutil.get_terminal_size((80, 24)).columns))
        return
    out = _writable(arguments.out)
    if out.suffix == ".svg":
        out.write_text(schedule_svg(schedule, steps, width=640, height=240), encoding="utf-8")
    elif out.suffix == ".png":
        figure = schedule.plot(steps).figure
        figure.axes[0].set_title(arguments.schedule, fontsize=9)
        figure.savefig(out, dpi=144, bbox_inches="tight")
    else:
        raise ValueError(f"`--out` must end in .svg or .png, got {str(out)!r}.")
    print(f"wrote {out}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
