r"""Qwen2.5-VL-72B, frozen; U-Net mask head and SAM ViT-L trained on RefCOCO.

Train:    python tools/train.py configs/qwen2_5_vl/qwen2_5_vl_72b_unet_sam_l_refcoco.py
Evaluate: python tools/eval_refcoco.py \
            configs/qwen2_5_vl/qwen2_5_vl_72b_unet_sam_l_refcoco.py CHECKPOINT
Hardware: one process spreads the reader (147 GB in bfloat16) over its GPUs by device_map
          and takes the recipe's 8 images per step; memory and time not measured yet
Expected: not measured yet
"""

_base_ = ["../_base_/recipes/unet_sam_l_refcoco.py"]

reader = "Qwen/Qwen2.5-VL-72B-Instruct"
model = dict(model=dict(device_map="auto"))
