"""F-LMM's mixture for training: PNG, RefCOCO, RefCOCO+ and RefCOCOg (umd), one after the other.

Folders as in refcoco.py and png.py. Every image of each is seen once an epoch, in one shuffled
order; PNG gives a caption with its phrases, the others an image's phrases joined. Validation and
test are those of refcoco.py.

Source: F-LMM configs/llava/frozen_llava_1_5_vicuna_7b_unet_sam_l_refcoco_png.py. Deviation: at most
16 phrases of an image are grounded, drawn anew each epoch, to bound memory.
"""

_base_ = ["./refcoco.py"]

data_root = "{{$FLMM_DATA_ROOT:data/coco/}}"
common = dict(
    data_root=data_root,
    image_processor=dict(type="ImageProcessorWrapper"),
    bad_records="skip",
)
refcoco = dict(
    type="RefCocoGroundingDataset",
    data_prefix=dict(img_path="train2014/"),
    split="train",
    text_mode="random",
    joined=True,
    max_expressions=16,
    **common,
)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="ConcatDataset",
        datasets=[
            dict(
                type="PanopticNarrativeDataset",
                data_prefix=dict(
                    img_path="train2017/", panoptic_path="annotations/panoptic_train2017/"
                ),
                ann_file="annotations/png_coco_train2017.json",
                panoptic_json="annotations/panoptic_train2017.json",
                max_phrases=16,
                **common,
            ),
            dict(ann_file="refcoco/instances.json", split_file="refcoco/refs(unc).p", **refcoco),
            dict(ann_file="refcoco+/instances.json", split_file="refcoco+/refs(unc).p", **refcoco),
            dict(ann_file="refcocog/instances.json", split_file="refcocog/refs(umd).p", **refcoco),
        ],
    )
)
