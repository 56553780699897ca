"""The command line: `lrjax compare`, `plot`, `find`, `sweep`, `tune`, `new`. The only file that prints."""

import argparse
import contextlib
import io
import os
import reprlib
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import lrjax
from lrjax.commands import Refused, add_searches, run_search, whole
from lrjax.compare import TASKS, Comparison, compare
from lrjax.domains import MAX_STEPS
from lrjax.parse import parse_schedule
from lrjax.report.chart import schedule_page
from lrjax.report.findings import Findings
from lrjax.report.html import page
from lrjax.report.svg import horizon
from lrjax.report.table import cells, headers, to_csv, to_json
from lrjax.report.terminal import plot
from lrjax.tasks.file import template


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; 0 where all went well. Ends with status 2 and one line on stderr where an argument was bad."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    arguments.typed = shlex.join(["lrjax", *(sys.argv[1:] if argv is None else argv)])
    if arguments.command is None:
        parser.print_help()
        return 0
    for stream in (sys.stdout, sys.stderr):  # a terminal that has no such character shows a question mark
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        arguments.run(arguments)
    except Refused as error:
        arguments.parser.error(" ".join(str(error).split()))
    except BrokenPipeError:  # the reader has seen enough; nothing is left to flush to it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
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
    run.add_argument("--steps", type=whole(100_000), default=400, help="updates of each run (default: 400)")
    run.add_argument("--seeds", type=whole(100), default=5, help="runs of each technique (default: 5)")
    run.add_argument("--out", type=Path, default=Path("lrjax-report.html"), help="the page (lrjax-report.html)")
    run.add_argument("--format", default="table", choices=["table", "json", "csv"], help="what goes to the terminal")
    run.set_defaults(run=_compare, parser=run)
    draw = commands.add_parser(
        "plot",
        help="draw a schedule in the terminal, or to a file",
        description="Draws a schedule, for example: lrjax plot 'warmup_cosine_decay_schedule(0, 1e-3, 100, 1000)'",
    )
    draw.add_argument("schedule", help="a call of a schedule, as in Python")
    draw.add_argument("--steps", type=whole(MAX_STEPS), help="how many steps (default: all of its phases)")
    draw.add_argument("--out", type=Path, help="a .svg file, or a .png file (extra: plot)")
    draw.set_defaults(run=_plot, parser=draw)
    for search in add_searches(commands):
        search.set_defaults(run=_search, parser=search)
    begin = commands.add_parser(
        "new",
        help="write a task to start from",
        description="Writes a short training task as a Python file, which runs as it is.",
    )
    begin.add_argument("file", type=Path, metavar="TASK.py", help="the file, which must not be there yet")
    begin.set_defaults(run=_new, parser=begin)
    return parser


def _writable(path: Path, option: str = "--out") -> Path:
    """The path, where a file can be written there; asked before the work, not after."""
    try:
        if path.is_dir():
            raise Refused(f"`{option}` must be a file, got the directory {str(path)!r}.")
        if not path.parent.is_dir():
            raise Refused(f"`{option}` must be in a directory that exists, got {str(path)!r}.")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise Refused(f"`{option}` must be writable, got {str(path)!r}.")
    except (OSError, ValueError) as error:  # no name for a file
        reason = getattr(error, "strerror", None) or error
        raise Refused(f"`{option}` must be the name of a file, got {reprlib.repr(str(path))}: {reason}.") from None
    return path


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise Refused(f"could not write {str(path)!r}: {error.strerror}.") from None
    print(f"wrote {path}", file=sys.stderr)


def _compare(arguments: argparse.Namespace) -> None:
    out = _writable(arguments.out)
    try:
        task = TASKS[arguments.task]()
    except ImportError as error:
        raise Refused(str(error)) from None
    with _bar() as progress:
        result = compare(task, arguments.steps, arguments.seeds, progress)
    formats: dict[str, Callable[[Comparison], Any]] = {"table": _print_table, "json": _print_json, "csv": _print_csv}
    formats[arguments.format](result)
    _write(out, page(result))


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, quiet where that is no terminal."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TimeElapsedColumn
    except ImportError:
        raise Refused("the progress bar and the table need rich: pip install 'lrjax[demo]'") from None
    console = Console(stderr=True)
    columns = (SpinnerColumn(), "training", BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("training", total=None)
        yield lambda done, total: bar.update(shown, completed=done, total=total)


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


def _search(arguments: argparse.Namespace) -> None:
    """`find`, `sweep` and `tune`: a table with a verdict, a page, and a JSON file."""
    out = _writable(arguments.out)
    numbers = _writable(arguments.json or out.with_suffix(".json"), "--json")
    if numbers == out:
        raise Refused(f"`--json` and `--out` must be two files, got {str(out)!r} for both.")
    if arguments.format == "table":
        try:
            import rich.console  # noqa: F401  (asked before the work, not after)
        except ImportError:
            raise Refused("the table needs rich: pip install 'lrjax[demo]'") from None
    findings, content = run_search(arguments, arguments.typed)
    match arguments.format:
        case "json":
            print(findings.to_json())
        case "csv":
            print(findings.to_csv(), end="")
        case _:
            _print_findings(findings)
    _write(out, content)
    _write(numbers, findings.to_json() + "\n")


def _print_findings(findings: Findings) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in findings.headers:
        words = name in ("rule", "what it reads", "went", "")
        table.add_column(name, justify="left" if words else "right", no_wrap=name != "what it reads")
    for i, row in enumerate(findings.cells):
        style = "bold green" if i == findings.best else "red" if i in findings.bad else None
        table.add_row(*map(Text, row), style=style)
    console = Console()
    console.print(Text(findings.title, style="italic"), table)
    console.print(Text(findings.verdict, style="bold"))
    for note in findings.notes:
        console.print(Text(note))


def _new(arguments: argparse.Namespace) -> None:
    path = arguments.file
    if path.exists():
        raise Refused(f"{str(path)!r} exists already, and stays as it is.")
    _write(_writable(path, "TASK.py"), template(path.name))
    print(f"try: lrjax tune {shlex.quote(str(path))}", file=sys.stderr)


def _plot(arguments: argparse.Namespace) -> None:
    try:
        schedule = parse_schedule(arguments.schedule)
    except ValueError as error:
        raise Refused(str(error)) from None
    steps = arguments.steps or horizon(schedule)
    if arguments.out is None:
        print(plot(schedule, steps, shutil.get_terminal_size((80, 24)).columns))
        return
    out = _writable(arguments.out)
    match out.suffix.lower():
        case ".svg":
            _write(out, schedule_page(schedule, steps))
        case ".png":
            _save_png(schedule, steps, out)
        case _:
            raise Refused(f"`--out` must end in .svg or .png, got {str(out)!r}.")


def _save_png(schedule: lrjax.Schedule, steps: int, out: Path) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
