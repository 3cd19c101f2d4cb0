r"""A tiny reader of any family without training: its chosen heads, the shared head, tiny SAM.

Heads:    python tools/rank_heads.py configs/tiny/tiny_other_reader_shared_sam_shapes.py \
            --data data/shapes_choose --out HEADS.json --cfg-options reader=FOLDER
Test:     python tools/eval_refcoco.py configs/tiny/tiny_other_reader_shared_sam_shapes.py \
            --splits val --cfg-options reader=FOLDER data_root=data/shapes_eval \
            model.mask_head.choice=HEADS.json
          (the rule in its place: model.mask_head.type=RuleHead)
Hardware: one CPU core
Expected: see docs/tiny_model.md, "One head for every reader"
"""

_base_ = ["./tiny_other_reader_unet_sam_shapes.py", "../_base_/heads/tiny.json"]

weights = "published"
model = dict(
    model=dict(token_merge="last"),
    mask_head=dict(_delete_=True, type="SharedHead", choice={{_base_.choice}}),
    sam=dict(use_text=False),
)
