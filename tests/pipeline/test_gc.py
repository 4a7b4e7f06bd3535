"""`edgedistill gc` on the store of a real run: what stays is enough, what goes is made again."""

import json
import os
import subprocess
import time

from tests.pipeline.conftest import Home, cached


def test_after_a_collection_an_unchanged_run_still_has_nothing_to_do(copied: Home) -> None:
    before = copied.record()
    told = json.loads(copied.call("gc", "--min-age", "0s", "--yes", "--json").stdout)
    kinds = {kind for kind, numbers in told["kinds"].items() if numbers["count"]}
    assert not [key for key in told["objects"] if key.startswith(("scores/", "students/", "releases/", "runs/"))], kinds
    after = copied.run()
    assert all(cached(after).values())
    assert after["metrics"] == before["metrics"]


def test_without_any_kept_run_the_same_results_are_made_again(copied: Home) -> None:
    before = copied.record()
    copied.call("release", "withdraw", "1", "--leave-none")
    told = json.loads(copied.call("gc", "--keep-runs", "0", "--min-age", "0s", "--yes", "--json").stdout)
    gone = {key.split("/")[0] for key in told["objects"]}
    assert {"steps", "scores", "students", "datasets", "evaluations", "golden"} <= gone
    after = copied.run()
    assert not any(cached(after)[name] for name in ("ingest_images", "score_teacher", "distill_student"))
    assert after["lineage"]["distill_student"] == before["lineage"]["distill_student"], "the very same weights"
    assert after["release"]["version"] == 2
    listed = json.loads(copied.call("runs", "list", "--json").stdout)
    assert [row["run"] for row in listed] == [before["run_id"], after["run_id"]], "the history stays"


def test_a_run_that_goes_on_loses_nothing(copied: Home) -> None:
    """Everything in the store is made to look old but what the run itself has marked or written."""
    for path in copied.store.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            path.unlink()  # it may be a hard link to what other tests look at
            path.write_bytes(content)
            os.utime(path, (0, 0))
            if path.parent.name == "used":
                path.rename(path.with_name("19700101"))
    command = copied.command("run", "--preset", "tiny", "--set", "distill.epochs=11")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    refused = 0
    try:
        while process.poll() is None:
            done = copied.call("gc", "--keep-runs", "0", "--yes")
            refused += "was begun lately and is not finished" in done.stderr
            time.sleep(1)
    finally:
        process.kill()  # ended already, unless pytest's time limit came first
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert refused, "gc was asked while a step was worked on"
    after = cached(copied.record())
    assert after["ingest_images"], "what it found it kept"
    assert after["score_teacher"]
    assert copied.record()["release"]["version"] == 2
