r"""GLM-4.5V, frozen; U-Net mask head and SAM ViT-L trained on PNG and RefCOCO/+/g.

Train:    python tools/train.py configs/glm4v/glm_4_5v_unet_sam_l_refcoco_png.py
Evaluate: python tools/eval_refcoco.py \
            configs/glm4v/glm_4_5v_unet_sam_l_refcoco_png.py CHECKPOINT
Hardware: one process spreads the reader (216 GB in bfloat16) over its GPUs by device_map
          and takes the recipe's 8 images per step; memory and time not measured yet
Expected: not measured yet
"""

_base_ = ["../_base_/recipes/any_reader_unet_sam_l_refcoco_png.py"]

reader = "zai-org/GLM-4.5V"
model = dict(model=dict(device_map="auto"))
