"""`edgedistill gc` on the store of a real run: what stays is enough, what goes is made again."""

import json

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
    copied.call("release", "withdraw", "1")
    told = json.loads(copied.call("gc", "--keep-runs", "0", "--min-age", "0s", "--yes", "--json").stdout)
    gone = {key.split("/")[0] for key in told["objects"]}
    assert {"steps", "scores", "students", "datasets", "evaluations", "golden"} <= gone
    after = copied.run()
    assert not any(cached(after)[name] for name in ("ingest_images", "score_teacher", "distill_student"))
    assert after["lineage"]["distill_student"] == before["lineage"]["distill_student"], "the very same weights"
    assert after["release"]["version"] == 2
    listed = json.loads(copied.call("runs", "list", "--json").stdout)
    assert [row["run"] for row in listed] == [before["run_id"], after["run_id"]], "the history stays"
