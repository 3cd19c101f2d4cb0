"""What a loader's worker meets reaches the log and the main process, on every rank."""

import logging
from pathlib import Path
from typing import Any

import pytest
from mmengine.logging import MMLogger
from torch.utils.data import DataLoader

from flmm.data.grounding_dataset import BadRecordError, GroundingDataset


def refuse_odd(record: dict[str, Any]) -> int:
    if record["number"] % 2:
        raise BadRecordError(f"record of number {record['number']} is odd")
    return record["number"]


class EvenNumbers(GroundingDataset):
    """Six numbers, of which the odd ones cannot be used."""

    def load_data_list(self) -> list[dict[str, Any]]:
        return [{"number": number} for number in range(6)]

    def build_record(self, idx: int) -> dict[str, Any]:
        return self.get_data_info(idx)


def build_dataset(**kwargs: Any) -> EvenNumbers:
    return EvenNumbers(ann_file="numbers.json", pipeline=[refuse_odd], **kwargs)


def load_epochs(
    dataset: EvenNumbers, start_method: str, count: int, num_workers: int = 2
) -> list[list[int]]:
    loader = DataLoader(
        dataset,
        num_workers=num_workers,
        multiprocessing_context=start_method,
        collate_fn=list,
    )
    return [[number for batch in loader for number in batch] for _ in range(count)]


def test_forked_workers_write_each_record_once_into_the_log_file(tmp_path: Path) -> None:
    logger = MMLogger.get_current_instance()
    handler = logging.FileHandler(tmp_path / "run.log")
    logger.addHandler(handler)
    try:
        dataset = build_dataset(bad_records="skip")
        # Workers are born anew in each epoch and know nothing of the last one's.
        assert load_epochs(dataset, "fork", 3) == [[0, 2, 2, 4, 4, 0]] * 3
    finally:
        logger.removeHandler(handler)
        handler.close()
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert sorted(line.partition(": ")[2] for line in lines) == [
        f"record {number} is skipped, the next usable one takes its place: record of number "
        f"{number} is odd"
        for number in (1, 3, 5)
    ]
    assert dataset.count_unusable() == {"unusable": 3, "with_empty_masks": 0}


@pytest.mark.heavy
def test_spawned_workers_tell_too(capfd: pytest.CaptureFixture[str]) -> None:
    dataset = build_dataset(bad_records="skip")
    assert load_epochs(dataset, "spawn", 1, num_workers=1) == [[0, 2, 2, 4, 4, 0]]
    assert "".join(capfd.readouterr()).count("is skipped, the next usable one") == 3
    assert dataset.count_unusable()["unusable"] == 3


def test_an_error_of_a_worker_keeps_its_kind_and_words() -> None:
    message = "record of number 1 is odd; repair it, or set bad_records='skip'"
    with pytest.raises(BadRecordError, match=message):
        load_epochs(build_dataset(), "fork", 1)


def test_ranks_that_show_only_errors_tell_too(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """mmengine gives the console of every rank but 0 nothing below ERROR."""
    monkeypatch.setattr("mmengine.logging.logger._get_rank", lambda: 1)
    logger = MMLogger.get_instance("rank one")
    assert logger.handlers[0].level == logging.ERROR
    try:
        build_dataset(bad_records="skip")[3]
    finally:
        MMLogger._instance_dict.pop("rank one")
    assert "record 3 is skipped" in "".join(capfd.readouterr())


def test_a_defect_of_the_program_is_no_bad_record() -> None:
    dataset = EvenNumbers(ann_file="x", pipeline=[lambda record: 1 / 0], bad_records="skip")
    with pytest.raises(ZeroDivisionError):
        dataset[0]


def test_records_that_are_not_there() -> None:
    dataset = build_dataset(bad_records="skip")
    with pytest.raises(IndexError, match=r"numbers\.json has 6 records, there is no record 6"):
        dataset[6]
    assert dataset[-1] == 0  # 5 is odd
