r"""Qwen3.5-35B-A3B, frozen; U-Net mask head and SAM ViT-L trained on RefCOCO.

Train:    python tools/train.py configs/qwen3_5/qwen3_5_35b_a3b_unet_sam_l_refcoco.py
Evaluate: python tools/eval_refcoco.py \
            configs/qwen3_5/qwen3_5_35b_a3b_unet_sam_l_refcoco.py CHECKPOINT
Hardware: one process spreads the reader (72 GB in bfloat16) over its GPUs by device_map
          and takes the recipe's 8 images per step; memory and time not measured yet
Expected: not measured yet
"""

_base_ = ["../_base_/recipes/any_reader_unet_sam_l_refcoco.py"]

reader = "Qwen/Qwen3.5-35B-A3B"
model = dict(model=dict(device_map="auto"))
