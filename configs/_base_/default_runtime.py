"""Hooks, logs and processes, the same for every config."""

default_scope = "flmm"
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),  # without a GPU, flmm's runner takes gloo
)
# True, or arguments of torch.compile (dict(mode="reduce-overhead")): the mask head's blocks are
# compiled when a training first runs them. Minutes, once; what it saves on a GPU is not measured.
compile_mask_head = False
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=20, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(
        type="CheckpointHook",
        by_epoch=False,
        interval=1000,
        max_keep_ckpts=2,
        save_best="cIoU",
        rule="greater",
    ),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    # Pictures of the worst and the best masks after each validation, in TensorBoard and vis_data/.
    examples=dict(type="ExampleImagesHook", count=4),
)
# cIoU of the refined masks; the coarse masks' figures are beside it as coarse/cIoU.
val_evaluator = dict(type="RefSegMetric")
test_evaluator = dict(type="RefSegMetric")
vis_backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
visualizer = dict(type="Visualizer", vis_backends=vis_backends)
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=False)
log_level = "INFO"
randomness = dict(seed=0)
load_from = None
resume = False
