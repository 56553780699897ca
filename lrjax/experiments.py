"""The public names that train models: tasks, the engine, the search. `lrjax` imports them at their first use."""

from lrjax.search.compare import compare as compare
from lrjax.search.comparison import Comparison as Comparison
from lrjax.search.coordinate_check import CoordinateCheck as CoordinateCheck
from lrjax.search.coordinate_check import coordinate_check as coordinate_check
from lrjax.search.range_test import RangeTest as RangeTest
from lrjax.search.range_test import range_test as range_test
from lrjax.search.result import SweepResult as SweepResult
from lrjax.search.settings import grid as grid
from lrjax.search.sweep import sweep as sweep
from lrjax.search.tune import TuneResult as TuneResult
from lrjax.search.tune import tune as tune
from lrjax.training.objective import Metric as Metric
from lrjax.training.result import Run as Run
from lrjax.training.task import Task as Task
from lrjax.training.train import train as train
