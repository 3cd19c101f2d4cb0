r"""The tiny model on captions of the synthetic scenes, in Panoptic Narrative Grounding's layout.

Data:     python tools/make_shapes.py data/shapes_eval --images 4000 --seed 7
Test:     python tools/test.py configs/tiny/tiny_png_shapes.py \
            --cfg-options data_root=data/shapes_eval   (or tools/eval_png.py)
Hardware: two CPU cores
Expected: val (200 scenes, 668 phrases) average recall 41.0, singulars 43.6, plurals 32.1, things
          58.5, stuff 0.1, accuracy@0.5 43.9; coarse average recall 27.3. The head was trained on
          single objects, never on a group or the background.
"""

_base_ = ["./tiny_unet_sam_shapes.py"]

captions = dict(
    type="PanopticNarrativeDataset",
    data_root="{{$FLMM_DATA_ROOT:data/shapes}}",
    data_prefix=dict(img_path="images/", panoptic_path="panoptic_val/"),
    ann_file="png_val.json",
    panoptic_json="panoptic_val.json",
    test_mode=True,
)
test_dataloader = dict(
    dataset=dict(_delete_=True, image_processor={{_base_.dataset.image_processor}}, **captions)
)
test_evaluator = dict(type="PngMetric")
eval_png_datasets = dict(shapes=dict(val=captions))
