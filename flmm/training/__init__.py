"""Training and testing under mmengine; each name is imported when it is first asked for."""

from flmm.lazy_exports import export_lazily

_NAMES = {
    "flmm.checkpoints.checkpoint": (
        *("load_checkpoint", "load_weights", "register_safe_globals", "resolve_weights"),
        *("save_trainable", "find_latest_checkpoint"),
    ),
    "flmm.config": ("load_config",),
    "flmm.files": ("DiskFullError",),
    "flmm.training.acceleration": ("CpuAmpOptimWrapper",),
    "flmm.training.checkpoint_hook": ("SafeCheckpointHook",),
    "flmm.training.example_images": ("ExampleImagesHook",),
    "flmm.training.feature_caching": ("FeatureCacheHook",),
    "flmm.training.grounding_runner": ("GroundingRunner",),
    "flmm.training.loops": ("ResumableEpochLoop", "ResumableIterLoop"),
    "flmm.training.runner": ("run_test", "run_training"),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}
__all__ = list(_HOMES)
__getattr__ = export_lazily(__name__, _HOMES)
