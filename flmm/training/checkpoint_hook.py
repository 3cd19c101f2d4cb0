"""mmengine's ``CheckpointHook`` without a moment in which the only good checkpoint is gone.

mmengine deletes the oldest checkpoint, and the best one so far, before it writes the new one. Here
both go only after the new file is complete. When to save, and what counts as best, is mmengine's.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook

from flmm.checkpoints.checkpoint import POINTER
from flmm.files import remove_leftovers, replace_file
from flmm.registry import HOOKS


@HOOKS.register_module(name="CheckpointHook")
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` (same arguments) that deletes last; for local folders."""

    def before_train(self, runner: Any) -> None:
        """Take over what a resumed checkpoint knows of the files beside it.

        Raises:
            ValueError: ``out_dir`` is no folder of this machine.
        """
        if "://" in str(self.out_dir):
            raise ValueError(
                f"checkpoint out_dir {self.out_dir} is no folder of this machine: checkpoints are "
                "written to a local or mounted folder, copy them elsewhere afterwards"
            )
        super().before_train(runner)
        self._best = {
            key: str(Path(self.out_dir) / Path(path).name) for key, path in self._best.items()
        }
        if is_main_process() and Path(self.out_dir).is_dir():
            for path in remove_leftovers(self.out_dir, "*.pth"):
                runner.logger.info(f"Removed {path}, left by a run that was killed as it wrote")

    def after_val_epoch(self, runner: Any, metrics: dict[str, float]) -> None:
        """Save the best checkpoint.

        Raises:
            ValueError: ``save_best`` names a metric that the evaluation does not give.
        """
        named = self.key_indicators if self.save_best else []
        unknown = [name for name in named if name not in (*metrics, "auto")]
        if unknown and metrics:
            raise ValueError(
                f"default_hooks.checkpoint.save_best is {unknown[0]!r}, but the evaluation gives "
                f"{sorted(metrics)}: name one of them"
            )
        super().after_val_epoch(runner, metrics)

    def _save_best_checkpoint(self, runner: Any, metrics: dict[str, float]) -> None:
        before, self._best = self._best, {}
        super()._save_best_checkpoint(runner, metrics)
        written = self._best
        self._best = {**before, **written}
        for key, path in before.items():
            if written.get(key, path) != path and is_main_process():
                Path(path).unlink(missing_ok=True)
                runner.logger.info(f"The previous best checkpoint {path} is removed")

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        kept = list(self.keep_ckpt_ids) if self.max_keep_ckpts > 0 else []
        if self.max_keep_ckpts > 0 and kept[-1:] != [step]:
            kept.append(step)
        # With the outdated ones: a run that is killed before they are deleted leaves their names.
        runner.message_hub.update_info("keep_ckpt_ids", kept)
        path = Path(self.out_dir) / self.filename_tmpl.format(step)
        self.last_ckpt = str(path)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            path.name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            **self.args,
        )
        if is_main_process():
            replace_file(Path(runner.work_dir) / POINTER, self.last_ckpt.encode())
        if self.max_keep_ckpts > 0:
            self._forget(runner, kept)

    def _forget(self, runner: Any, kept: list[int]) -> None:
        """Delete all but the last ``max_keep_ckpts`` checkpoints of this run."""
        outdated, kept = kept[: -self.max_keep_ckpts], kept[-self.max_keep_ckpts :]
        self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
        runner.message_hub.update_info("keep_ckpt_ids", kept)
        if is_main_process():
            for step in outdated:
                path = Path(self.out_dir) / self.filename_tmpl.format(step)
                path.unlink(missing_ok=True)

    @property
    def _best(self) -> dict[str, str]:
        """Path of the best checkpoint, by metric where there are several."""
        if not self.save_best:
            return {}
        if len(self.key_indicators) == 1:
            return {"best": self.best_ckpt_path} if self.best_ckpt_path else {}
        return {key: path for key, path in self.best_ckpt_path_dict.items() if path}

    @_best.setter
    def _best(self, paths: dict[str, str]) -> None:
        if not self.save_best:
            return
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = paths.get("best")
        else:
            self.best_ckpt_path_dict = {key: paths.get(key) for key in self.key_indicators}
