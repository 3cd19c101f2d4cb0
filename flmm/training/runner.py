"""What the tools share: training or testing a config under mmengine."""

from __future__ import annotations

from mmengine.config import Config

from flmm.checkpoints.checkpoint import find_latest_checkpoint
from flmm.checkpoints.chosen_weights import choose_weights
from flmm.evaluation.grounding_metrics import SkippedRecordsHook
from flmm.files import DiskFullError, is_disk_full, measure_free
from flmm.training.acceleration import compile_mask_head
from flmm.training.feature_caching import FeatureCacheHook, read_settings
from flmm.training.grounding_runner import GroundingRunner


def run_training(
    config: Config, resume: str | None = None, load_from: str | None = None, amp: bool = False
) -> GroundingRunner:
    """Train a config, afresh: its ``weights`` are for inference.

    Args:
        resume: None: do not resume; "auto": from the latest checkpoint of the work folder (or from
            ``load_from``, where given); else the path of a checkpoint.
        load_from: weights to begin with.
        amp: mixed precision (bfloat16), whatever the config says.

    Raises:
        ValueError: two different checkpoints are named.
        DiskFullError: a file finds no room; the latest checkpoint is whole.
    """
    if resume not in (None, "auto"):
        if load_from not in (None, resume):
            raise ValueError(f"--resume names {resume}, --load-from {load_from}: name one of them")
        load_from = resume
    config.resume = resume is not None
    if load_from is not None or config.resume:
        config.load_from = load_from
    if amp:
        config.optim_wrapper.type = "AmpOptimWrapper"
        config.optim_wrapper.setdefault("dtype", "bfloat16")
    try:
        runner = GroundingRunner.from_cfg(config)
        runner.register_hook(SkippedRecordsHook())
        runner.announcements = [f"begins with the weights of {load_from}"] if load_from else []
        compile_mask_head(runner.trained_model, config.get("compile_mask_head", False))
        settings = read_settings(config)
        if settings is not None:
            runner.register_hook(FeatureCacheHook(**settings))
        runner.train()
    except OSError as error:
        if not isinstance(error, DiskFullError) and not is_disk_full(error):
            raise
        raise DiskFullError(_describe_full_disk(error, config.work_dir)) from error
    return runner


def run_test(
    config: Config, checkpoint: str | None = None, out: str | None = None, show: int | None = None
) -> dict[str, float]:
    """Test a config and give its metrics, in percent.

    Args:
        checkpoint: path or embedded weights; None: the config's (see :func:`choose_weights`).
        out: JSON file for metrics, rows per kind of expression, counts, and the expressions that
            were skipped with their reasons.
        show: so many of the worst and of the best expressions are drawn, into ``shown`` in the
            work folder; None: what the config's ``ExampleImagesHook`` does.

    Raises:
        ValueError: no weights are named, ``show`` is negative, or ``out`` is given and the
            evaluator is no single one.
    """
    weights = choose_weights(config, checkpoint)
    config.load_from, config.resume = weights.path and weights.name, False
    if out is not None:
        if not isinstance(config.test_evaluator, dict):
            raise ValueError("--out needs a config with a single test_evaluator, a RefSegMetric")
        config.test_evaluator |= {"out_file": out, "about": weights.to_json()}
    if show is not None:
        hook = {"type": "ExampleImagesHook", "count": show, "folder": f"{config.work_dir}/shown"}
        config.merge_from_dict({"default_hooks": {"examples": hook}})
    runner = GroundingRunner.from_cfg(config)
    if weights.path is None:
        weights.load(runner.trained_model)
    runner.register_hook(SkippedRecordsHook())
    runner.announcements = [weights.describe(), *weights.remarks]
    return runner.test()


def _describe_full_disk(error: OSError, work_dir: str) -> str:
    free = f"{measure_free(work_dir):,}"
    what = f"no room for the logs in {work_dir}, which has {free} bytes free; training has stopped"
    if isinstance(error, DiskFullError):
        what = str(error)
    whole = find_latest_checkpoint(work_dir, warn=lambda message: None)
    kept = f"{whole.name} is whole" if whole else "there is no complete checkpoint yet"
    return f"{what} and {kept}: make room, then go on with --resume"
