"""Two runs of the same home at the same time: both end right, one sequence of releases."""

import json
import subprocess

from tests.pipeline.conftest import Home


def test_two_runs_at_once_both_end_right_and_make_one_release(copied: Home) -> None:
    # Another temperature: scores are known, distillation and what follows are done by both at once.
    command = copied.command("run", "--preset", "tiny", "--set", "distill.temperature=3")
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for run in runs:
        _, said = run.communicate(timeout=560)
        assert run.returncode == 0, said
    records = [json.loads(path.read_text()) for path in copied.store.glob("runs/*/record.json")]
    newest = sorted(records, key=lambda record: str(record["run_id"]))[-2:]
    assert newest[0]["lineage"] == newest[1]["lineage"]
    assert newest[0]["release"] == newest[1]["release"]
    assert newest[0]["release"]["version"] == 2
    index = copied.releases()
    assert index["latest"] == 2, "one release of the one student"
    assert set(index["releases"]) == {"1", "2"}
    assert not list((copied.store / "checkpoints").rglob("*.pt"))
    assert not list((copied.folder / "work").glob("*/tmp")), "no temporary file stays"
    again = copied.run("--set", "distill.temperature=3")
    assert again["release"] == newest[0]["release"]
