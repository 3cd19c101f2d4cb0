"""Running under mmengine: checkpoints, the runner, and what the command-line tools share."""

from flmm.engine.checkpoint import (
    load_checkpoint,
    load_weights,
    register_safe_globals,
    resolve_weights,
    save_trainable,
)
from flmm.engine.command_line import add_common_arguments, run_tool
from flmm.engine.optim import CpuAmpOptimWrapper
from flmm.engine.runner import GroundingRunner, load_config, run_test, run_training

__all__ = [
    "CpuAmpOptimWrapper",
    "GroundingRunner",
    "add_common_arguments",
    "load_checkpoint",
    "load_config",
    "load_weights",
    "register_safe_globals",
    "resolve_weights",
    "run_test",
    "run_tool",
    "run_training",
    "save_trainable",
]
