"""Running under mmengine: checkpoints, the runner, and what the command-line tools share.

Each name is imported when it is first asked for.
"""

from flmm.lazy_exports import export_lazily

_HOMES = {
    "CpuAmpOptimWrapper": "flmm.training.acceleration",
    "DiskFullError": "flmm.files",
    "ExampleImagesHook": "flmm.training.example_images",
    "FeatureCacheHook": "flmm.training.feature_caching",
    "GroundingRunner": "flmm.training.grounding_runner",
    "ResumableEpochLoop": "flmm.training.loops",
    "ResumableIterLoop": "flmm.training.loops",
    "SafeCheckpointHook": "flmm.training.checkpoint_hook",
    "find_latest_checkpoint": "flmm.checkpoints.checkpoint_files",
    "load_checkpoint": "flmm.checkpoints.checkpoint",
    "load_config": "flmm.config",
    "load_weights": "flmm.checkpoints.checkpoint",
    "register_safe_globals": "flmm.checkpoints.checkpoint",
    "resolve_weights": "flmm.checkpoints.checkpoint",
    "run_test": "flmm.training.runner",
    "run_training": "flmm.training.runner",
    "save_trainable": "flmm.checkpoints.checkpoint",
}
__all__ = list(_HOMES)
__getattr__ = export_lazily(__name__, _HOMES)
