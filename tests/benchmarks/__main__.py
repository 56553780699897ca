"""Measures lrjax beside Optax, and PyTorch where it is installed, and writes the ratios into `benchmarks.md`."""

import argparse
import importlib.metadata
import os
import sys
import time

import jax

from tests.benchmarks import calls, schedules, sweeps, updates
from tests.benchmarks.pages import write
from tests.benchmarks.table import Table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, no tree of 1,000 arrays, page unchanged")
    quick = parser.parse_args().quick
    start = time.perf_counter()
    tables = [*schedules.measure(quick), *updates.measure(quick), *calls.measure(quick), *sweeps.measure(quick)]
    report = "\n\n".join([_machine(), *(table.markdown() for table in tables)])
    print(f"\n{report}\n\n{time.perf_counter() - start:.0f} s")
    if not quick:
        write("benchmarks.md", "benchmarks", report)
    return _goals(tables)


def _machine() -> str:
    names = ("lrjax", "optax", "jax", "torch")
    versions = ", ".join(f"{n} {v}" for n in names if (v := _version(n)))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = jax.devices()[0]
    where = f"{cores} CPU cores" if device.platform == "cpu" else device.device_kind
    return f"Time (or bytes) of lrjax divided by that of Optax; below 1 is less. {versions}; float32, {where}."


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _goals(tables: list[Table]) -> int:
    missed = [line for table in tables for line in table.missed()]
    print("\n".join(["missed:", *missed]) if missed else "every goal is met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
