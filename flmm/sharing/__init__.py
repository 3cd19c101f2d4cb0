"""Trained heads as folders or hub repositories: saved, described, loaded."""

from flmm.lazy_exports import export_lazily

# Imported when they are asked for.
__all__ = [
    "CardOptions",
    "convert_head",
    "export_checkpoint",
    "load_config_or_head",
    "load_pretrained",
    "save_pretrained",
]
_HOMES = {
    "CardOptions": "flmm.sharing.model_card",
    "convert_head": "flmm.sharing.exporting",
    "export_checkpoint": "flmm.sharing.exporting",
}
__getattr__ = export_lazily(
    "flmm.sharing", {name: _HOMES.get(name, "flmm.sharing.sharing") for name in __all__}
)
