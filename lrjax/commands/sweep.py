"""`lrjax sweep`: the loss over a grid of rates."""

import argparse
from typing import Any

from lrjax.commands.arguments import (
    add_checkpoint,
    add_diverged_above,
    add_eval_every,
    add_many,
    add_optimizer,
    add_outputs,
    add_steps,
    add_task,
    finish,
    rates,
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
from lrjax.report.sweep_page import sweep_findings, sweep_page
from lrjax.search.sweep import sweep

_RATES = "1e-5:1:16"


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "sweep",
        help="train a task with many learning rates",
        description="Trains a task with many learning rates and several seeds: how the loss depends on the rate.",
    )
    add_task(parser)
    add_optimizer(parser)
    words = f"LOW:HIGH:COUNT at equal ratios, or rates with commas (default: {_RATES})"
    parser.add_argument("--learning-rates", type=rates, default=rates(_RATES), metavar="RATES", help=words)
    add_steps(parser)
    add_many(parser, seeds=3)
    add_eval_every(parser)
    add_diverged_above(parser)
    add_checkpoint(parser)
    add_outputs(parser, "sweep", saves="the best run, with its model")
    finish(parser, _run)


def _run(arguments: argparse.Namespace) -> int:
    check_outputs(arguments)
    use_devices(arguments.devices)
    with refusals(arguments.task):
        task_file = load(arguments)
        optimizer, steps = optimizer_of(arguments, task_file), steps_of(arguments, task_file.task)
        result = sweep(
            task_file.task,
            optimizer,
            learning_rates=arguments.learning_rates,
            steps=steps,
            seeds=arguments.seeds,
            eval_every=arguments.eval_every,
            diverged_above=arguments.diverged_above,
            checkpoint=arguments.checkpoint,
        )
    findings = sweep_findings(setup_of(arguments, task_file.task, optimizer, result.losses), result)
    return publish(arguments, findings, sweep_page(findings, result), result.run)
