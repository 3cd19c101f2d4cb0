"""One, two and three pictures train; what a person sees of it fits on a screen."""

from pathlib import Path

import pytest
from mmengine.config import Config

from flmm.config import load_config
from flmm.toy.shape_files import write_dataset
from flmm.training.resume_changes import drop_short_schedules
from flmm.training.runner import run_training
from tests.training.toy_training import read_logs

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "configs/_base_/schedules/adamw_8e.py"


@pytest.mark.parametrize("pictures", [1, 2, 3])
def test_a_few_pictures_train_by_the_published_schedule(
    toy_config: Path, tmp_path: Path, pictures: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "few", num_images=pictures, seed=0)
    text = toy_config.read_text().replace("/schedules/adamw_tiny.py", "/schedules/adamw_8e.py")
    text = "\n".join(line for line in text.splitlines() if "param_scheduler" not in line)
    text = text.replace("max_iters=6, val_interval=3", "max_epochs=8, val_interval=8")
    toy_config.write_text(text)
    options = {"data_root": str(tmp_path / "few"), "train_dataloader.batch_size": 8}
    options["val_dataloader.dataset.split"] = "train"
    config = load_config(toy_config, options, work_dir="few")
    runner = run_training(config)
    assert runner.epoch == 8
    shown = capsys.readouterr().out
    assert "LinearLR is left out: this training is too short for it" in shown
    head = shown[: shown.index("Iter(train)")]
    assert len(head.splitlines()) < 20, head
    for words in ("config: ", f"data: training {pictures} records", "device: ", "log: "):
        assert words in head
    log = read_logs("few")
    for words in ("System environment:", "Config:\n", "Hooks will be executed"):
        assert words in log and words not in shown


def test_a_warm_up_of_one_step_would_never_arrive() -> None:
    cfgs = Config.fromfile(PUBLISHED).param_scheduler
    for length, names in ((1, ["CosineAnnealingLR"]), (8, ["CosineAnnealingLR"])):
        kept, dropped = drop_short_schedules(cfgs, length)
        assert [cfg["type"] for cfg in kept] == names
        assert [cfg["type"] for cfg in dropped] == ["LinearLR"]
    kept, dropped = drop_short_schedules(cfgs, 9)
    assert len(kept) == 2 and not dropped
