"""Every public name of Optax 0.2.8, and what becomes of it in lrjax: the table of `from_optax.md`.

Writes it there: python -m tests.interop.optax_names
"""

from typing import NamedTuple

from tests.benchmarks.pages import write

PAGE, MARK = "from_optax.md", "optax names"


class Row(NamedTuple):
    verdict: str  # same, better, elsewhere, not about the rate
    note: str  # the family of what is the same; how it differs; where else it is; what it is about
    lacks: tuple[str, ...] = ()  # parameters of Optax's that lrjax's doesn't have


# in lrjax, with the same parameters and values: family -> names
SAME = {
    "schedules": """constant_schedule cosine_decay_schedule cosine_onecycle_schedule
        linear_onecycle_schedule linear_schedule piecewise_constant_schedule piecewise_interpolate_schedule
        polynomial_schedule sgdr_schedule warmup_exponential_decay_schedule""",
    "optimizers": """adabelief adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lion novograd
        optimistic_gradient_descent rmsprop sgd sign_sgd yogi contrib.ademamix contrib.adopt contrib.madgrad
        contrib.muon""",
    "parts of a chain": """add_decayed_weights centralize ema identity keep_params_nonnegative normalize_by_update_norm
        scale scale_by_adadelta scale_by_adam scale_by_adamax scale_by_adan scale_by_amsgrad scale_by_belief
        scale_by_lion scale_by_novograd scale_by_optimistic_gradient scale_by_param_block_norm scale_by_param_block_rms
        scale_by_rms scale_by_rss scale_by_sign scale_by_stddev scale_by_trust_ratio scale_by_yogi set_to_zero stateless
        stateless_with_tree_map trace zero_nans contrib.scale_by_ademamix contrib.scale_by_adopt
        contrib.scale_by_madgrad contrib.hutchinson_estimator_diag_hessian""",
    "others": "safe_increment schedules.StatefulSchedule WrappedSchedule",
    "types, for annotations": "OptState Params Updates TransformInitFn TransformUpdateExtraArgsFn TransformUpdateFn",
    "clipping": """adaptive_grad_clip clip clip_by_block_rms per_example_global_norm_clip
        per_example_layer_norm_clip transforms.unitwise_norm""",
    "around others": """conditionally_mask conditionally_transform flatten freeze masked measure_with_ema
        multi_transform named_chain partition selective_transform skip_not_finite snapshot with_extra_args_support""",
    "states, by their fields": """AdaptiveGradClipState AddDecayedWeightsState AddNoiseState ApplyEvery
        ApplyIfFiniteState ClipByGlobalNormState ClipState ConditionallyMaskState ConditionallyTransformState EmaState
        EmptyState FactoredState InjectStatefulHyperparamsState LookaheadState MaskedNode MaskedState MonitorState
        MultiTransformState NonNegativeParamsState PartitionState ScaleByTrustRatioState ScaleState
        ScaleByAdaDeltaState ScaleByAdamState ScaleByAdanState
        ScaleByAmsgradState ScaleByBeliefState ScaleByLionState ScaleByNovogradState ScaleByRpropState ScaleByRssState
        ScaleBySM3State SnapshotState TraceState ZeroNansState contrib.HutchinsonState contrib.MadgradState
        contrib.MuonDimensionNumbers contrib.MuonState contrib.ScaleByAdemamixState contrib.SophiaState""",
}

# in lrjax, and different on purpose: names -> how
BETTER = {
    "adadelta": "without a rate it goes down, η = 1; Optax's goes up",
    "adafactor scale_by_factored_rms": "finite before their offset; Optax's are nan. No `decay_rate_fn`",
    "add_noise noisy_sgd": "`key` is 0 without a warning; no `seed`, which is deprecated",
    "apply_if_finite": "without `max_consecutive_errors` it never gives up",
    "apply_updates": "other shapes and integer parameters are errors, not broadcast and truncated",
    "chain": "`chain()` leaves the updates as they are; Optax's fails",
    "clip_by_global_norm global_norm skip_large_updates": "float16 is measured in float32: 300 squared is no infinity",
    "exponential_decay": "with `decay_rate` 0 it ends at 0, with 1 it stays",
    "warmup_cosine_decay_schedule": "goes to `end_value` from a peak of 0, too",
    "GradientTransformation GradientTransformationExtraArgs": "a value: compares, hashes, an argument of `jit`",
    "incremental_update periodic_update": "the result has the dtype of the old tensors",
    "inject_hyperparams": "takes `adafactor`; its numbers are float32 where parameters are bfloat16",
    "InjectHyperparamsState": "the same as `InjectStatefulHyperparamsState`",
    "ScaleByScheduleState": "`LearningRateState`, which has the rate beside the `count`",
    "join_schedules": "too few boundaries are an error; Optax's drops the last schedules",
    "lookahead LookaheadParams": "`init_synced` copies, so both may be donated; other parameters are an error",
    "monitor": "one state structure from `init` on",
    "MultiSteps MultiStepsState apply_every": "a nan goes with its update; inner updates only when due, the mean loss",
    "nadam nadamw": "no `nesterov`: without it they are `adam` and `adamw`",
    "optimistic_adam": "`optimism` counts in rates, as in `optimistic_adam_v2`, so schedules work",
    "polyak_sgd": "`scaling=0.5` halves the step; Optax's doubles it",
    "radam scale_by_radam": "the rectification keeps its digits",
    "rprop scale_by_rprop": "the present step, not that of the update before",
    "ScalarOrSchedule": "also a tree of rates, or `by_path`",
    "scale_by_learning_rate scale_by_polyak scale_by_schedule": "the state has the rate, for `get_learning_rate`",
    "contrib.reduce_on_plateau": "works with negative losses; ignores nan; `patience` is PyTorch's: one value later",
    "contrib.ReduceLROnPlateauState": "float32 with bfloat16 parameters; counts reductions and ignored values",
    "contrib.scale_by_muon": "takes a tree without dimension numbers, too",
    "Schedule": "a class: schedules add, multiply, clip, repeat",
    "ScaleByRmsState ScaleByRStdDevState": "always with a `count`",
    "scale_by_sm3 sm3": "take scalars; Optax's fail",
    "contrib.sophia": "prints nothing: no `verbose`, no `print_win_rate_every_n_steps`",
    "warmup_constant_schedule": "0 steps of warmup start at the peak; Optax's never gets there",
}
LACKS = {
    "scale_by_factored_rms": ("decay_rate_fn",),
    "add_noise": ("seed",),
    "noisy_sgd": ("seed",),
    "nadam": ("nesterov",),
    "nadamw": ("nesterov",),
    "contrib.sophia": ("verbose", "print_win_rate_every_n_steps"),
}

# not in lrjax: names -> where to find it
ELSEWHERE = {
    """contrib.cocob contrib.scale_by_cocob contrib.COCOBState contrib.dadapt_adamw contrib.DAdaptAdamWState contrib.dog
    contrib.DoGState contrib.dowg contrib.DoWGState contrib.mechanize contrib.MechanicState contrib.momo
    contrib.MomoState contrib.momo_adam contrib.MomoAdamState contrib.prodigy contrib.ProdigyState
    contrib.schedule_free contrib.schedule_free_adamw contrib.schedule_free_eval_params contrib.schedule_free_sgd
    contrib.ScheduleFreeState
    scale_by_distance_over_gradients lbfgs scale_by_lbfgs ScaleByLBFGSState scale_by_backtracking_linesearch
    ScaleByBacktrackingLinesearchState scale_by_zoom_linesearch ScaleByZoomLinesearchState ZoomLinesearchInfo
    value_and_grad_from_state""": "what sets the rate itself, line searches: a later version; now Optax's",
    "inject_stateful_hyperparams": "`inject_hyperparams`, as in Optax, where it is deprecated",
    "transforms.unitwise_clip": "`adaptive_grad_clip`, which does the same to a tree",
    "optimistic_adam_v2": "`optimistic_adam(learning_rate, beta, alpha=alpha)`",
    "signum": "`chain(ema(beta, debias=False), scale_by_sign(), scale_by_learning_rate(learning_rate))`",
    """contrib.acprop contrib.scale_by_acprop contrib.galore contrib.scale_by_galore contrib.GaLoreDimensionNumbers
    contrib.GaLoreState contrib.sam contrib.SAMState contrib.normalize contrib.NormalizeState
    contrib.simplified_ademamix contrib.scale_by_simplified_ademamix contrib.ScaleBySimplifiedAdEMAMixState
    contrib.split_real_and_imaginary contrib.SplitRealAndImaginaryState""": "Optax's, which go into `lrjax.chain`",
    """contrib.differentially_private_aggregate contrib.DifferentiallyPrivateAggregateState
    contrib.dpsgd""": "Optax's, in `optax.chain`: gradients of single examples",
    """MaskOrFn ShouldSkipUpdateFunction transforms.ConditionFn init_empty_state safe_int32_increment safe_norm
    safe_root_mean_squares matrix_inverse_pth_root nnls power_iteration multi_normal
    scale_gradient""": "Optax's: types, numerical helpers",
    "contrib schedules transforms": "the modules: their names are lrjax's own, `lrjax.muon` for `optax.contrib.muon`",
}

# all names of a module, also where Optax has them at its top
NOT_ABOUT_THE_RATE = {
    "assignment": "matching",
    "experimental": "gradients of single examples",
    "losses": "losses",
    "microbatching": "batches in parts",
    "perturbations": "differentiable approximations",
    "projections": "constraints",
    "second_order": "Hessians",
    "tree": "arithmetic of trees; also on lrjax's states",
    "tree_utils": "arithmetic of trees; also on lrjax's states",
}


def _rows() -> dict[str, Row]:
    rows: dict[str, Row] = {}
    same = {names: family for family, names in SAME.items()}
    groups = {"same": same, "better": BETTER, "elsewhere": ELSEWHERE, "not about the rate": NOT_ABOUT_THE_RATE}
    for verdict, group in groups.items():
        for names, note in group.items():
            for name in names.split():
                assert name not in rows, f"{name} has two rows"
                rows[name] = Row(verdict, note, LACKS.get(name, ()))
    return rows


ROWS = _rows()


def attribute(name: str) -> str:
    """The name without its module: lrjax has all of them at its top."""
    return name.rpartition(".")[2]


def table() -> str:
    """In Markdown: one row for all names with one verdict and one note."""
    together: dict[tuple[str, str], list[str]] = {}
    for name, row in ROWS.items():
        modules = row.verdict == "not about the rate"
        note = "Optax's: " + ", ".join(dict.fromkeys(NOT_ABOUT_THE_RATE.values())) if modules else row.note
        together.setdefault((row.verdict, note), []).append(f"`{name}`")
    lines = [f"| {verdict} | {' '.join(names)} | {note} |" for (verdict, note), names in together.items()]
    return "\n".join(["| | Optax's name | |", "|---|---|---|", *lines])


if __name__ == "__main__":
    write(PAGE, MARK, table())
