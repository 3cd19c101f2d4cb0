"""Configs: read, overridden and checked before anything heavy is imported."""

from flmm.config.reading import load_config, override

__all__ = ["load_config", "override"]
