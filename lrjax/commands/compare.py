"""`lrjax compare`: a task with every technique that sets a learning rate, or with optimizers that are named."""

import argparse
from typing import Any

from lrjax.commands.arguments import (
    add_checkpoint,
    add_eval_every,
    add_many,
    add_outputs,
    add_steps,
    add_task,
    finish,
    finite,
)
from lrjax.commands.shared import check_outputs, load, publish, refusals, steps_of, use_devices
from lrjax.parse import parse_optimizer
from lrjax.report.compare_page import compare_findings, compare_page
from lrjax.report.findings import Setup
from lrjax.search.compare import compare


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="train a model with every technique, print a table and write a page",
        description="Trains a model with every technique that sets a learning rate, at rates that are found for it: "
        "too low, right and too high, decays, cycles, warmups, adaptive methods. Prints a table and writes a page with "
        "the curves.",
    )
    add_task(parser, default="digits")
    words = "compare these instead, with their rates: such as 'adam(1e-3)'; may be given several times"
    parser.add_argument("--optimizer", metavar="CALL", action="append", help=words)
    add_steps(parser)
    add_many(parser, seeds=5, of="technique")
    add_eval_every(parser, "40 evaluations")
    words = "what the metric has to reach to count as learned (default: nine tenths of the way to the best)"
    parser.add_argument("--target", type=finite, metavar="NUMBER", help=words)
    add_checkpoint(parser)
    add_outputs(parser, "compare", saves="the best run, with its model")
    finish(parser, _run)


def _run(arguments: argparse.Namespace) -> int:
    check_outputs(arguments)
    use_devices(arguments.devices)
    with refusals(arguments.task):
        named = {text: parse_optimizer(text) for text in arguments.optimizer or ()} or None
        task = load(arguments).task
        result = compare(
            task,
            named,
            steps=steps_of(arguments, task),
            seeds=arguments.seeds,
            eval_every=arguments.eval_every,
            target=arguments.target,
            checkpoint=arguments.checkpoint,
        )
    _, seeds, steps = result.losses.shape
    setup = Setup(task.name, "", steps, seeds, task.decides, arguments.typed)
    findings = compare_findings(setup, result)
    return publish(arguments, findings, compare_page(findings, result), result.run)
