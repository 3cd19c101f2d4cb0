r"""``tiny_unet_sam_shapes`` with a reader of any family, such as the second tiny one.

Reader:   docs/tiny_model.md, "A second reader"
Train:    python tools/train.py configs/tiny/tiny_other_reader_unet_sam_shapes.py \
            --cfg-options reader=FOLDER
Test:     python tools/eval_refcoco.py configs/tiny/tiny_other_reader_unet_sam_shapes.py \
            CHECKPOINT --splits val --cfg-options reader=FOLDER data_root=data/shapes_eval
Hardware: one CPU core, about 15 minutes
Expected: see docs/tiny_model.md, "One head for every reader"
"""

_base_ = ["./tiny_unet_sam_shapes.py"]

weights = None
model = dict(type="Grounder", model=dict(type="FrozenVLM"), keyword_selector=None)
selectors = ("brackets",)
pictures = dict(image_processor=dict(_delete_=True, type="ImageProcessorWrapper"))
train_dataloader = dict(dataset=pictures)
val_dataloader = dict(dataset=pictures)
test_dataloader = dict(dataset=pictures)
