"""The embedded tiny reader and tiny SAM: a toy for coloured shapes, trained on a CPU."""

_base_ = ["./flmm_qwen_sam.py"]

reader = "tiny"
model = dict(
    model=dict(name_or_path=reader, dtype="float32"),
    mask_head=dict(
        base_channels=32,
        num_stages=3,
        strides=(1, 1, 1),
        enc_num_convs=(2, 2, 2),
        dec_num_convs=(2, 2),
        downsamples=(True, True),
        enc_dilations=(1, 1, 1),
        dec_dilations=(1, 1),
        upsample_input=32,
        normalize_input=False,
        log_input=True,
    ),
    sam=dict(model_name="tiny", checkpoint=None),
    # It learns from captions alone, in configs/tiny/tiny_keywords_shapes.py.
    keyword_selector=dict(type="KeywordSelector", frozen=True),
)
selectors = ("brackets", "keywords")
