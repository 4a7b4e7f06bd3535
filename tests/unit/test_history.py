"""What the history says of runs that finished, failed, were interrupted or killed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgedistill import history_page
from edgedistill.cli import cli
from edgedistill.errors import ConfigError, EdgeDistillError, SwapConflict
from edgedistill.history import compare, read_row, recording, rows
from edgedistill.history_page import INDEX, write_index
from edgedistill.report import build_page
from edgedistill.runs import read_record, save_record
from edgedistill.storage import DirectoryStore
from tests.unit.report_fixture import make_run

A, B, C, D = (f"2026010{day}-000000-000{day}" for day in (1, 2, 3, 4))


def ignore(event: Mapping[str, Any]) -> None:
    """Nobody looks."""


def attempt(store: DirectoryStore, run_id: str, error: BaseException | None) -> None:
    config = {"ingest": {"name": "demo"}, "distill": {"arch": "edge_cnn", "size": 28}}
    with recording(store, run_id=run_id, target="local", config=config, on_event=ignore) as seen:
        seen({"event": "started", "step": "ingest_images"})
        if error:
            if isinstance(error, EdgeDistillError):
                seen({"event": "failed", "step": "ingest_images", "message": str(error)})
            seen({"event": "started", "step": "remove_teacher"})
            raise error


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (EdgeDistillError("no image"), "failed", "no image"),
        (KeyboardInterrupt(), "interrupted", "interrupted; the same command goes on from what is complete"),
        (OSError("disk full"), "failed", "OSError: disk full"),
    ],
)
def test_a_run_that_ends_early_is_recorded(tmp_path: Path, error: BaseException, status: str, message: str) -> None:
    store = DirectoryStore(tmp_path)
    with pytest.raises(type(error)):
        attempt(store, A, error)
    row = read_row(store, A)
    assert (row["status"], row["step"], row["message"]) == (status, "ingest_images", message)
    assert row["dataset"] == "demo"
    assert A in store.get(INDEX).decode()
    with pytest.raises(ConfigError, match="no finished run"):
        read_record(store, "latest")


def test_a_run_that_left_no_word_is_unfinished(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    attempt(store, A, None)
    assert read_row(store, A)["status"] == "unfinished"


def test_a_missed_gate_keeps_its_record(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    record, _ = make_run(store, run_id=A, passed=False)
    save_record(store, record, "")
    with pytest.raises(EdgeDistillError):
        attempt(store, A, EdgeDistillError("a gate was missed"))
    assert read_row(store, A)["status"] == "gate missed"
    assert not store.exists(f"runs/{A}/failed.json")


def test_what_differs_is_told_and_what_does_not_is_not(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    for run_id in (A, B):
        record, steps = make_run(store, run_id=run_id, seed=1)
        if run_id == B:
            record["config"]["distill"]["epochs"] = 3
            record["dataset"]["revision"] = "f" * 64
            record["code"]["distill_student"] = "0" * 64
        save_record(store, record, build_page(store, record, steps))
    found = compare(rows(store))
    assert found["settings"] == {"distill.epochs": [24, 3]}
    assert set(found["inputs"]) == {"data set revision", "code of distill_student"}
    assert found["measures"]["int8_top1"][0] == found["measures"]["int8_top1"][1]


def test_a_record_of_the_first_version_is_still_read(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    record, _ = make_run(store, run_id=A)
    for name in ("status", "headline", "notes", "labels", "code", "libraries"):
        del record[name]
    del record["dataset"]["name"], record["teacher"]["name"]
    save_record(store, record, "")
    row = read_row(store, A)
    assert (row["status"], row["dataset"], row["teacher"]) == ("finished", "demo", "demo-teacher")


def test_the_index_gives_way_to_another_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DirectoryStore(tmp_path)
    attempt(store, A, None)
    swap, lost, others = store.swap, [], iter((B, D))  # a run starts once: its start holds the time

    def slow(key: str, data: bytes, *, expected: bytes | None) -> None:
        if not lost:  # somebody else is quicker, once
            lost.append(key)
            attempt(store, next(others), None)
            swap(key, b"theirs", expected=expected)
        swap(key, data, expected=expected)

    monkeypatch.setattr(store, "swap", slow)
    write_index(store)
    assert lost
    assert B in store.get(INDEX).decode(), "the second attempt knows the other run too"
    lost.clear()
    attempt(store, C, None)
    monkeypatch.setattr(history_page, "ATTEMPTS", 1)
    with pytest.raises(SwapConflict):
        write_index(store)


def test_the_commands(tmp_path: Path) -> None:
    place = ["--store", str(tmp_path / "store")]
    store = DirectoryStore(tmp_path / "store")

    def call(*arguments: str) -> str:
        done = CliRunner().invoke(cli, ["runs", *arguments, *place])
        assert done.exit_code == 0, done.output
        return done.output

    assert json.loads(call("list", "--json")) == []
    record, steps = make_run(store, run_id=A, labeled=False)
    save_record(store, record, build_page(store, record, steps))
    with pytest.raises(EdgeDistillError):
        attempt(store, B, EdgeDistillError("no [bold]image[/bold]"))
    assert "no [bold]image[/bold]" in call("list")
    assert [row["status"] for row in json.loads(call("list", "--json"))] == ["finished", "failed"]
    assert "gives the teacher's answer" in call("show")
    assert "ingest_images: no [bold]image[/bold]" in call("show", B)
    assert json.loads(call("show", "--json"))["run_id"] == A
    assert "settings that differ" in call("compare", A, B)
    out = tmp_path / "pages" / "history.html"
    call("page", "--out", str(out))
    assert '"reports":"../store/runs/"' in out.read_text()
    assert call("page").strip().endswith(INDEX)
