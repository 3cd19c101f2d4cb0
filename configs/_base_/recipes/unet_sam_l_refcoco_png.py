"""The same model as unet_sam_l_refcoco.py, trained on F-LMM's mixture of PNG and RefCOCO."""

_base_ = [
    "../models/flmm_qwen_sam.py",
    "../datasets/refcoco_png.py",
    "../datasets/png.py",
    "../schedules/adamw_8e.py",
    "../default_runtime.py",
]
