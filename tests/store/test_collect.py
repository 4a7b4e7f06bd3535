"""gc on a directory and on a real MinIO."""

from edgedistill.collect import plan, remove
from edgedistill.storage import ObjectStore
from tests.unit.test_collect import make_run, objects_of


def test_what_the_kept_run_names_stays(store: ObjectStore) -> None:
    for number in (1, 2):
        make_run(store, number)
    assert plan(store, keep_runs=1, min_age_s=3600).removals == (), "everything is young"
    made = plan(store, keep_runs=1, min_age_s=-3600)
    assert remove(store, made) == len(made.removals) > 0
    left = set(store.list(""))
    assert objects_of(store, 2) <= left
    assert not (objects_of(store, 1) - objects_of(store, 2)) & left
