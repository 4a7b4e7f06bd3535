"""Temporary files lie below the run's folder, and the next run removes those of a run that was killed."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kfp_pipelines.submit import Workplace
from serving import host
from serving.host import ask_host, hosting

OCCUPY = "import sys; from pathlib import Path; from kfp_pipelines.submit import Workplace\n"
OCCUPY += "with Workplace(Path(sys.argv[1])).occupied(): print('in', flush=True); sys.stdin.read()\n"


def test_what_a_killed_run_left_is_removed_and_a_live_runs_files_stay(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("killed", "alive", "next")]
    processes = [
        subprocess.Popen([sys.executable, "-c", OCCUPY, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for run in runs[:2]
    ]
    try:
        for process, run in zip(processes, runs, strict=False):
            assert process.stdout is not None
            assert process.stdout.readline() == b"in\n"
            (run / "tmp" / "kfp-workspace").mkdir()
        os.kill(processes[0].pid, signal.SIGKILL)
        processes[0].wait()
        assert (runs[0] / "tmp" / "kfp-workspace").exists()
        with Workplace(runs[2]).occupied():
            assert not (runs[0] / "tmp").exists()
            assert (runs[1] / "tmp" / "kfp-workspace").exists()
            assert (runs[2] / "tmp").is_dir()
        assert not (runs[2] / "tmp").exists()
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("depth", [1, 12])
def test_the_teachers_socket_works_however_deep_its_folder_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    scratch = tmp_path.joinpath(*["twelve-chars"] * depth)
    scratch.mkdir(parents=True)
    with hosting(scratch) as (_, socket):
        assert Path(socket).is_relative_to(scratch)
        assert ask_host(socket, {"action": "stop"}) == {}
    assert not list(scratch.iterdir())
    if depth > 1:
        monkeypatch.setattr(host, "_short", lambda path: contextlib.nullcontext(str(path)))
        with pytest.raises(OSError, match="too long"), hosting(scratch):
            pass
