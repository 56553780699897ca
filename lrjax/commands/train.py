"""`lrjax train`: one run, with its curves."""

import argparse
from typing import Any

from lrjax.commands.arguments import (
    add_checkpoint,
    add_eval_every,
    add_optimizer,
    add_outputs,
    add_steps,
    add_task,
    finish,
    positive,
    seed,
)
from lrjax.commands.shared import Refused, check_outputs, load, optimizer_of, publish, refusals, steps_of
from lrjax.report.findings import Setup
from lrjax.report.train_page import train_findings, train_page
from lrjax.search.settings import optimizer_factory
from lrjax.training.train import train
from lrjax.transforms.base import GradientTransformation

_EVALUATIONS = 50


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train a task once, and write a page with its curves",
        description="Trains a task once. Shows loss, rate and metrics while it runs, and writes a page with all three "
        "over the steps.",
    )
    add_task(parser)
    add_optimizer(parser)
    words = "in place of the optimizer's own; a schedule keeps its shape (default: the optimizer's, 0.001 for a name)"
    parser.add_argument("--learning-rate", type=positive, metavar="RATE", help=words)
    add_steps(parser)
    parser.add_argument("--seed", type=seed, default=0, help="of the start and the order of the examples (default: 0)")
    words = "watch the run: where it goes wrong, go back to the last good parameters and on at a lower rate"
    parser.add_argument("--guard", action="store_true", help=words)
    add_eval_every(parser, f"{_EVALUATIONS} evaluations")
    add_checkpoint(parser)
    add_outputs(parser, "train", saves="the run, with its model")
    finish(parser, _run)


def _run(arguments: argparse.Namespace) -> int:
    check_outputs(arguments)
    with refusals(arguments.task):
        task_file = load(arguments)
        optimizer, steps = optimizer_of(arguments, task_file), steps_of(arguments, task_file.task)
        if arguments.learning_rate is not None:
            optimizer = optimizer_factory("train", optimizer, steps)(arguments.learning_rate)
        elif not isinstance(optimizer, GradientTransformation):
            raise Refused(f"{arguments.task}: `optimizer` is a function of a rate: give --learning-rate.")
        run = train(
            task_file.task,
            optimizer,
            steps=steps,
            seed=arguments.seed,
            eval_every=arguments.eval_every or max(1, steps // _EVALUATIONS),
            guard=arguments.guard,
            checkpoint=arguments.checkpoint,
        )
    setup = Setup(task_file.task.name, run.optimizer, steps, 1, task_file.task.decides, arguments.typed)
    findings = train_findings(setup, run)
    return publish(arguments, findings, train_page(findings, run), run)
