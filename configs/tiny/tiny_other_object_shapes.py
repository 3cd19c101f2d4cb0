"""Control: each mask is asked with a phrase about another object of its image; it must fail.

Test:     python tools/test.py configs/tiny/tiny_other_object_shapes.py [CHECKPOINT]
          (for any config: --cfg-options test_dataloader.dataset.phrase_control=other_object)
Hardware: two CPU cores
Expected: cIoU below 1 (see docs/tiny_model.md)
"""

_base_ = ["./tiny_unet_sam_shapes.py"]

val_dataloader = dict(dataset=dict(phrase_control="other_object"))
test_dataloader = dict(dataset=dict(phrase_control="other_object"))
