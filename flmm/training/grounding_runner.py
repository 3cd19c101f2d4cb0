"""mmengine's runner with strict and safe checkpoints, an exact resume, and CPU processes."""

from __future__ import annotations

import sys
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import torch
from mmengine import registry
from mmengine.device import get_device
from mmengine.dist import all_gather_object, is_main_process
from mmengine.logging import MessageHub, MMLogger, print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from flmm.checkpoints.checkpoint import (
    find_latest_checkpoint,
    load_checkpoint,
    load_trainable,
    read_training_state,
    resolve_weights,
    write_checkpoint,
)
from flmm.distributed import call_in_main, init_processes
from flmm.training.acceleration import adapt_amp_to_cpu
from flmm.training.loops import ResumableEpochLoop, ResumableLoop
from flmm.training.resume_changes import (
    drop_short_schedules,
    format_resume_changes,
    format_resume_sizes,
    is_other_schedule,
    list_resume_changes,
    read_settings,
    replay_schedulers,
)
from flmm.training.terminal_log import arrange_handlers, describe_run
from flmm.training.training_state import (
    capture_gradients,
    capture_random_state,
    collect_training,
    collect_weights,
)

# Kinds of which flmm registers none: without a child of its scope mmengine warns at every look-up.
_PARENTS = (
    *(registry.DATA_SAMPLERS, registry.LOG_PROCESSORS, registry.VISBACKENDS, registry.VISUALIZERS),
    *(registry.OPTIM_WRAPPERS, registry.OPTIM_WRAPPER_CONSTRUCTORS, registry.OPTIMIZERS),
    registry.PARAM_SCHEDULERS,
)
_CHILDREN = [registry.Registry(kind.name, parent=kind, scope="flmm") for kind in _PARENTS]


class GroundingRunner(Runner):
    """mmengine's runner with safe, strict checkpoints and an exact resume, on GPUs and without."""

    train_loop: ResumableLoop
    _load_from: str | None
    _experiment_name: str

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """Set up multi-processing; processes without a GPU talk through gloo.

        Raises:
            ValueError: slurm or mpi without GPUs, which mmengine cannot launch.
        """
        if self.distributed and not torch.cuda.is_available():
            if self.launcher != "pytorch":
                raise ValueError(
                    f"--launcher {self.launcher} needs GPUs, and this machine shows none: without "
                    "them start with torchrun and --launcher pytorch"
                )
            init_processes(self.launcher, **env_cfg.get("dist_cfg", {}))
        super().setup_env(env_cfg)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger; a log file that finds no room stops the run like any other file.

        The first thing that mmengine builds, so the run also gets a name of its own here: mmengine
        keeps logger, message hub and visualizer by a name that holds the second of the start, and
        a second run of one process would go on with the best score of the first.
        """
        name = self._experiment_name
        runs = count(2)
        while MessageHub.check_instance_created(self._experiment_name):
            self._experiment_name = f"{name}_{next(runs)}"
        self.announcements: list[str] = []
        logger = super().build_logger(*args, **kwargs)
        arrange_handlers(logger)
        return logger

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Wrap the trained modules for several processes, on GPUs and without.

        mmengine names a GPU in ``device_ids``, which a model on CPU refuses; without it DDP takes
        the device that the weights are on.
        """
        if self.distributed and model_wrapper_cfg is None and not is_model_wrapper(model):
            model_wrapper_cfg = {
                "type": "MMDistributedDataParallel",
                "device_ids": None,
                "broadcast_buffers": False,
                "find_unused_parameters": self.cfg.get("find_unused_parameters", False),
            }
        return super().wrap_model(model_wrapper_cfg, model)

    @staticmethod
    def build_dataloader(dataloader: Any, *args: Any, **kwargs: Any) -> DataLoader:
        """Build a data loader whose workers' seeds are not drawn from the process's own state.

        Otherwise a resumed process, which opens its loaders anew, would draw once more.
        """
        loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        if loader.generator is None:
            loader.generator = torch.Generator().manual_seed(0)
        return loader

    def build_train_loop(self, loop: Any) -> BaseLoop:
        """Build the training loop.

        Raises:
            ValueError: it is a loop that cannot be resumed exactly.
        """
        if isinstance(loop, dict) and "by_epoch" in loop and "type" not in loop:
            kind = "EpochBasedTrainLoop" if loop["by_epoch"] else "IterBasedTrainLoop"
            loop = {"type": kind, **{key: loop[key] for key in loop if key != "by_epoch"}}
        built = super().build_train_loop(loop)
        if not isinstance(built, ResumableLoop):
            raise ValueError(
                f"train_cfg.type builds {type(built).__name__}, which cannot be resumed exactly: "
                "use EpochBasedTrainLoop or IterBasedTrainLoop, or derive from flmm's"
            )
        return built

    def build_optim_wrapper(self, optim_wrapper: Any) -> OptimWrapper:
        """Build the optimiser; where there is no GPU, mixed precision becomes CPU autocast."""
        wants_amp = isinstance(optim_wrapper, dict) and optim_wrapper.get("type") in (
            "AmpOptimWrapper",
            "mmengine.AmpOptimWrapper",
        )
        if wants_amp and get_device() == "cpu":
            print_log("No GPU: AmpOptimWrapper becomes bfloat16 autocast on CPU", logger="current")
            optim_wrapper = adapt_amp_to_cpu(optim_wrapper)
        return super().build_optim_wrapper(optim_wrapper)

    def load_checkpoint(
        self, filename: str, map_location: Any = "cpu", strict: bool = True, revise_keys: Any = ()
    ) -> dict[str, Any]:
        """Load a checkpoint's weights, always all of them, and return its content."""
        checkpoint = load_checkpoint(filename, map_location)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        load_trainable(self.trained_model, checkpoint["state_dict"], f"checkpoint {filename}")
        # mmengine's resume would run this text as Python to compare the number of GPUs.
        checkpoint.get("meta", {}).pop("config", None)
        self._has_loaded = True
        self.logger.info(f"Loaded {len(checkpoint['state_dict'])} tensors from {filename}")
        return checkpoint

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build the schedulers; on few pictures without those that have no steps to do."""
        cfgs = scheduler if isinstance(scheduler, (list, tuple)) else [scheduler]
        if all(isinstance(cfg, dict) and "type" in cfg for cfg in cfgs):
            scheduler, dropped = drop_short_schedules(cfgs, len(self.train_dataloader))
            for cfg in dropped:
                self.logger.info(f"{cfg['type']} is left out: this training is too short for it")
        return super().build_param_scheduler(scheduler)

    def load_or_resume(self) -> None:
        """Load or resume, from the latest complete checkpoint where none is named.

        The last thing before the first iteration, which is told what it will run on.
        """
        loops = {"training": self._train_loop, "validation": self._val_loop}
        for line in (*self.announcements, *describe_run(self, loops | {"test": self._test_loop})):
            self.logger.info(line)
        if self._resume and self._load_from is None and not self._has_loaded:
            path = call_in_main(lambda: find_latest_checkpoint(self.work_dir, self.logger.warning))
            if path is None:
                self.logger.warning(
                    f"{self.work_dir} holds no checkpoint to resume from: training begins anew"
                )
                return
            self._load_from = str(path)
        super().load_or_resume()

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: Any = "cpu",
    ) -> None:
        """Go on where a checkpoint was written; arguments are mmengine's.

        Raises:
            FileNotFoundError, ValueError: there is no such checkpoint, no training can go on from
                it, the training data are others, or the optimiser is.
        """
        try:
            state = read_training_state(resolve_weights(filename))
        except ValueError as error:
            raise ValueError(
                f"cannot resume from {filename}: {error} (--load-from without --resume takes the "
                "weights of a complete file alone)"
            ) from error
        changes = list_resume_changes(state["config_text"], self.config_text)
        counts_epochs = isinstance(self.train_loop, ResumableEpochLoop)
        size = self.train_loop.stream.samples_per_iteration
        # Only where epochs are counted does the size of a step change how many there are.
        replay = counts_epochs and size != state["samples_per_iteration"]
        replay = replay or is_other_schedule(changes)
        replay = replay and resume_param_scheduler and isinstance(self.param_schedulers, list)
        settings = read_settings(self.optim_wrapper) if replay else []
        super().resume(
            filename, resume_optimizer, resume_param_scheduler and not replay, map_location
        )
        self.train_loop.load_state_dict(state)
        if replay:
            epoch_length = len(self.train_dataloader) if counts_epochs else 0
            replay_schedulers(
                *(self.param_schedulers, self.optim_wrapper, settings, self.iter, epoch_length)
            )
        for told in (format_resume_sizes(state, size), format_resume_changes(changes)):
            if told:
                self.logger.warning(told)

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: Any = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict[str, Any] | None = None,
        by_epoch: bool = True,
        backend_args: Any = None,
    ) -> None:
        """Write a checkpoint, whole or not at all; every process calls it.

        Args:
            save_optimizer: with the optimiser and all else that a resume needs.
            by_epoch: what ``meta`` does not say is counted at the end of an epoch, else within it.
            file_client_args, backend_args: of mmengine's signature, not used.

        Raises:
            DiskFullError: there is no room; the checkpoint before it is whole.
        """
        own = {"random": capture_random_state(), "gradients": capture_gradients(self.optim_wrapper)}
        processes = all_gather_object(own) if save_optimizer else []
        problem: OSError | None = None
        if is_main_process():
            counted = {"epoch": self.epoch + by_epoch, "iter": self.iter + (not by_epoch)}
            counted |= meta or {}
            content = collect_weights(self, self.trained_model, self.config_text, counted)
            if save_optimizer:
                content |= collect_training(self, processes, save_param_scheduler)
            self.call_hook("before_save_checkpoint", checkpoint=content)
            try:
                write_checkpoint(Path(out_dir) / filename, content)
            except OSError as error:
                problem = error
        has_failed = call_in_main(lambda: problem is not None)
        if problem is not None:
            raise problem
        if has_failed:
            sys.exit(1)  # the main process says why

    @cached_property
    def config_text(self) -> str:
        """The config as text; formatted once, that takes longer than to write a checkpoint."""
        return self.cfg.pretty_text

    @property
    def trained_model(self) -> nn.Module:
        """The model without DDP around it."""
        return self.model.module if is_model_wrapper(self.model) else self.model
