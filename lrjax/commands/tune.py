"""`lrjax tune`: the best rate, for a part of what a grid costs."""

import argparse
from typing import Any

from lrjax.commands.arguments import (
    add_checkpoint,
    add_diverged_above,
    add_eval_every,
    add_many,
    add_optimizer,
    add_outputs,
    add_range,
    add_steps,
    add_task,
    finish,
)
from lrjax.commands.shared import (
    check_outputs,
    load,
    optimizer_of,
    publish,
    refusals,
    setup_of,
    steps_of,
    use_devices,
)
from lrjax.report.tune_page import tune_findings, tune_page
from lrjax.search.tune import tune


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "tune",
        help="the best learning rate for a task, for a part of what a grid costs",
        description="Finds the best learning rate for whole runs of a task; bad rates are given up early.",
    )
    add_task(parser)
    add_optimizer(parser)
    add_range(parser)
    parser.add_argument("--budget", type=float, default=0.25, help="the most it costs, as a part of the grid (0.25)")
    add_steps(parser)
    add_many(parser, seeds=3)
    add_eval_every(parser)
    add_diverged_above(parser)
    add_checkpoint(parser)
    add_outputs(parser, "tune", saves="the run at the best rate, with its model")
    finish(parser, _run)


def _run(arguments: argparse.Namespace) -> int:
    check_outputs(arguments)
    use_devices(arguments.devices)
    with refusals(arguments.task):
        task_file = load(arguments)
        optimizer, steps = optimizer_of(arguments, task_file), steps_of(arguments, task_file.task)
        result = tune(
            task_file.task,
            optimizer,
            steps=steps,
            low=arguments.low,
            high=arguments.high,
            budget=arguments.budget,
            seeds=arguments.seeds,
            eval_every=arguments.eval_every,
            diverged_above=arguments.diverged_above,
            checkpoint=arguments.checkpoint,
        )
    findings = tune_findings(setup_of(arguments, task_file.task, optimizer, result.losses), result, arguments.budget)
    return publish(arguments, findings, tune_page(findings, result), result.run)
