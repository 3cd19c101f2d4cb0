"""Running under mmengine: checkpoints, the runner, and what the command-line tools share."""

from flmm.engine.checkpoint import (
    load_checkpoint,
    load_weights,
    register_safe_globals,
    resolve_weights,
    save_trainable,
)
from flmm.engine.checkpoint_files import DiskFullError, find_latest_checkpoint
from flmm.engine.checkpoint_hook import SafeCheckpointHook
from flmm.engine.command_line import add_common_arguments, run_tool
from flmm.engine.example_images import ExampleImagesHook
from flmm.engine.feature_caching import FeatureCacheHook
from flmm.engine.grounding_runner import GroundingRunner
from flmm.engine.loops import ResumableEpochLoop, ResumableIterLoop
from flmm.engine.optim import CpuAmpOptimWrapper
from flmm.engine.runner import load_config, run_test, run_training

__all__ = [
    "CpuAmpOptimWrapper",
    "DiskFullError",
    "ExampleImagesHook",
    "FeatureCacheHook",
    "GroundingRunner",
    "ResumableEpochLoop",
    "ResumableIterLoop",
    "SafeCheckpointHook",
    "add_common_arguments",
    "find_latest_checkpoint",
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
