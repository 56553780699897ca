"""`lrjax find`: a range test."""

import argparse
import shlex
from typing import Any

from lrjax.commands.arguments import add_many, add_optimizer, add_outputs, add_range, add_steps, add_task, finish
from lrjax.commands.shared import check_outputs, load, optimizer_of, publish, refusals, setup_of, use_devices
from lrjax.report.find_page import find_findings, find_page
from lrjax.search.range_test import range_test


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "find",
        help="one run whose rate climbs: what the rules of a range test suggest",
        description="Trains while the rate climbs, and reads rates off the curve of the losses by several rules.",
    )
    add_task(parser)
    add_optimizer(parser)
    add_range(parser)
    add_steps(parser, "100")
    add_many(parser, seeds=5)
    add_outputs(parser, "find")
    finish(parser, _run)


def _run(arguments: argparse.Namespace) -> int:
    check_outputs(arguments)
    use_devices(arguments.devices)
    with refusals(arguments.task):
        task_file = load(arguments)
        optimizer = optimizer_of(arguments, task_file)
        result = range_test(
            task_file.task,
            optimizer,
            low=arguments.low,
            high=arguments.high,
            steps=arguments.steps,
            seeds=arguments.seeds,
        )
    setup = setup_of(arguments, task_file.task, optimizer, result.losses, "the smoothed training loss")
    again = [arguments.task, *(["--optimizer", arguments.optimizer] if arguments.optimizer else [])]
    findings = find_findings(setup, result, f"lrjax tune {shlex.join(again)}")
    return publish(arguments, findings, find_page(findings, result))
