"""Panoptic Narrative Grounding in F-LMM's folders.

Under data/coco: val2017/ (images), annotations/png_coco_val2017.json,
annotations/panoptic_val2017.json and annotations/panoptic_val2017/ (PNGs).

Adds what tools/eval_png.py evaluates to a config of any data set. The image processor is that of
the config's test data.
"""

eval_png_datasets = dict(
    png=dict(
        val=dict(
            type="PanopticNarrativeDataset",
            data_root="{{$FLMM_DATA_ROOT:data/coco/}}",
            data_prefix=dict(img_path="val2017/", panoptic_path="annotations/panoptic_val2017/"),
            ann_file="annotations/png_coco_val2017.json",
            panoptic_json="annotations/panoptic_val2017.json",
            test_mode=True,
        )
    )
)
