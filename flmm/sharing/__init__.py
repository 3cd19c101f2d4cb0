"""Trained heads as folders or hub repositories: saved, described, loaded."""

from flmm.lazy_exports import export_lazily

_NAMES = {
    "exporting": ("convert_head", "export_checkpoint"),
    "model_card": ("CardOptions",),
    "sharing": ("load_config_or_head", "load_pretrained", "save_pretrained"),
}
_HOMES = {name: f"flmm.sharing.{home}" for home, names in _NAMES.items() for name in names}
__all__ = list(_HOMES)
__getattr__ = export_lazily(__name__, _HOMES)
