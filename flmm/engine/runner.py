"""What the tools share: reading a config, and training or testing it under mmengine.

Data in: the path of a config and what was said on the command line. Data out: a finished run, its
logs and checkpoints in ``work_dir``. Parsing the command line is the tools' part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import (
    DATA_SAMPLERS,
    LOG_PROCESSORS,
    LOOPS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    VISBACKENDS,
    VISUALIZERS,
    Registry,
)
from mmengine.runner import Runner

from flmm.engine.checkpoint import load_checkpoint, load_trainable
from flmm.engine.optim import adapt_amp_to_cpu

# Kinds of which flmm registers none: without a child of its scope mmengine warns at every look-up.
_PARENTS = (
    DATA_SAMPLERS,
    LOG_PROCESSORS,
    LOOPS,
    OPTIM_WRAPPERS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    VISBACKENDS,
    VISUALIZERS,
)
_CHILDREN = [Registry(parent.name, parent=parent, scope="flmm") for parent in _PARENTS]


class GroundingRunner(Runner):
    """mmengine's runner with safe, strict checkpoints, and mixed precision on CPU too."""

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = "cpu",
        strict: bool = True,
        revise_keys: Any = (),
    ) -> dict[str, Any]:
        """Load a checkpoint's weights, all of them, and return its content.

        Args:
            filename: path, or the name of embedded weights.
            map_location: device that the content is read to.
            strict, revise_keys: of mmengine's signature; loading is always strict, and a leading
                ``module.`` is always removed.

        Raises:
            FileNotFoundError, ValueError: see :mod:`flmm.engine.checkpoint`.
        """
        checkpoint = load_checkpoint(filename, map_location)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        load_trainable(model, checkpoint["state_dict"], f"checkpoint {filename}")
        # mmengine's resume would run this text as Python to compare the number of GPUs.
        checkpoint.get("meta", {}).pop("config", None)
        self._has_loaded = True
        self.logger.info(f"Loaded {len(checkpoint['state_dict'])} tensors from {filename}")
        return checkpoint

    def build_optim_wrapper(self, optim_wrapper: Any) -> OptimWrapper:
        """Build the optimiser; where there is no GPU, mixed precision becomes CPU autocast."""
        wants_amp = isinstance(optim_wrapper, dict) and optim_wrapper.get("type") in (
            "AmpOptimWrapper",
            "mmengine.AmpOptimWrapper",
        )
        if wants_amp and get_device() == "cpu":
            print_log("No GPU: AmpOptimWrapper becomes bfloat16 autocast on CPU", logger="current")
            optim_wrapper = adapt_amp_to_cpu(optim_wrapper)
        return super().build_optim_wrapper(optim_wrapper)


def load_config(
    path: str | Path,
    cfg_options: dict[str, Any] | None = None,
    work_dir: str | None = None,
    launcher: str = "none",
) -> Config:
    """Read a config and apply what the command line says.

    Args:
        path: of the config.
        cfg_options: dotted keys and values that are merged into the config; ``data_root`` also
            replaces the config's data root wherever a data set has it.
        work_dir: for logs and checkpoints; None: the config's own, else ``./work_dirs/<name>``.
        launcher: "none", "pytorch", "slurm" or "mpi".

    Raises:
        FileNotFoundError: there is no such config.
    """
    config = Config.fromfile(path)
    configured_root = config.get("data_root")
    config.merge_from_dict(cfg_options or {})
    if config.get("data_root") != configured_root:
        _replace_data_root(config._cfg_dict, configured_root, config.data_root)
    config.launcher = launcher
    config.work_dir = work_dir or config.get("work_dir") or f"./work_dirs/{Path(path).stem}"
    return config


def run_training(
    config: Config, resume: str | None = None, load_from: str | None = None, amp: bool = False
) -> GroundingRunner:
    """Train a config.

    Args:
        config: as :func:`load_config` gives it; its key ``weights`` (what inference uses) is not
            read: training starts afresh.
        resume: None: do not resume; "auto": from the latest checkpoint of the work folder (or from
            ``load_from``, where given); else the path of a checkpoint.
        load_from: weights to begin with.
        amp: mixed precision (bfloat16), whatever the config says.

    Raises:
        ValueError: two different checkpoints are named.
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
    runner = GroundingRunner.from_cfg(config)
    runner.train()
    return runner


def run_test(
    config: Config, checkpoint: str | None = None, out: str | None = None
) -> dict[str, float]:
    """Test a config and give its metrics, in percent.

    Args:
        config: as :func:`load_config` gives it.
        checkpoint: path or name of embedded weights; None: the config's ``load_from`` or
            ``weights``.
        out: JSON file for metrics, rows per kind of expression, and counts.

    Raises:
        ValueError: no weights are named, or ``out`` is given and the evaluator is no single one.
    """
    config.load_from = checkpoint or config.get("load_from") or config.get("weights")
    config.resume = False
    if config.load_from is None:
        raise ValueError("no weights to test: give CHECKPOINT (the config names none of its own)")
    if out is not None:
        if not isinstance(config.test_evaluator, dict):
            raise ValueError("--out needs a config with a single test_evaluator, a RefSegMetric")
        config.test_evaluator["out_file"] = out
    return GroundingRunner.from_cfg(config).test()


def _replace_data_root(node: Any, old: str | None, new: str) -> None:
    """Set every ``data_root`` that is ``old`` to ``new``, however deep it lies."""
    if isinstance(node, dict):
        if node.get("data_root") == old and "data_root" in node:
            node["data_root"] = new
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for item in node:
            _replace_data_root(item, old, new)


__all__ = ["GroundingRunner", "load_config", "run_test", "run_training"]
