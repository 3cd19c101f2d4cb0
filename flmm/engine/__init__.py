"""Running under mmengine: checkpoints, the runner, and what the command-line tools share.

Each name is imported when it is first asked for.
"""

from flmm.lazy_exports import export_lazily

_HOMES = {
    "CpuAmpOptimWrapper": "flmm.engine.optim",
    "DiskFullError": "flmm.engine.checkpoint_files",
    "ExampleImagesHook": "flmm.engine.example_images",
    "FeatureCacheHook": "flmm.engine.feature_caching",
    "GroundingRunner": "flmm.engine.grounding_runner",
    "ResumableEpochLoop": "flmm.engine.loops",
    "ResumableIterLoop": "flmm.engine.loops",
    "SafeCheckpointHook": "flmm.engine.checkpoint_hook",
    "find_latest_checkpoint": "flmm.engine.checkpoint_files",
    "load_checkpoint": "flmm.engine.checkpoint",
    "load_config": "flmm.config",
    "load_weights": "flmm.engine.checkpoint",
    "register_safe_globals": "flmm.engine.checkpoint",
    "resolve_weights": "flmm.engine.checkpoint",
    "run_test": "flmm.engine.runner",
    "run_training": "flmm.engine.runner",
    "save_trainable": "flmm.engine.checkpoint",
}
__all__ = list(_HOMES)
__getattr__ = export_lazily(__name__, _HOMES)
