r"""InternVL3-38B, frozen; U-Net mask head and SAM ViT-L trained on PNG and RefCOCO/+/g.

Train:    python tools/train.py configs/internvl/internvl3_38b_unet_sam_l_refcoco_png.py
Evaluate: python tools/eval_refcoco.py \
            configs/internvl/internvl3_38b_unet_sam_l_refcoco_png.py CHECKPOINT
Hardware: one process spreads the reader (77 GB in bfloat16) over its GPUs by device_map
          and takes the recipe's 8 images per step; memory and time not measured yet
Expected: not measured yet
"""

_base_ = ["../_base_/recipes/any_reader_unet_sam_l_refcoco_png.py"]

reader = "OpenGVLab/InternVL3-38B-hf"
model = dict(model=dict(device_map="auto"))
