"""Which score parts a revision needs, and which of them the store lacks. Reads only; always runs."""

from typing import Any

from edgedistill.config import ScoreConfig, load
from edgedistill.dataset import read_dataset
from edgedistill.progress import Progress
from edgedistill.scores import plan_parts
from edgedistill.steps import Manifest
from edgedistill.storage import open_store
from edgedistill.views import policy_named


def run(*, store: str, images: Manifest, teacher: Manifest, config: dict[str, Any], progress: Progress) -> Manifest:
    """Plan the scoring of a revision.

    Args:
        store: address of the object store.
        images: what ingest_images made.
        teacher: what publish_teacher made.
        config: a ScoreConfig as a mapping.
        progress: unused; the step takes a second.

    Returns:
        outputs: parts and missing (keys), policy (digest). `cached` when nothing is missing.
    """
    settings = load(ScoreConfig, config)
    objects = open_store(store)
    policy = policy_named(settings.policy).digest
    parts = plan_parts(
        read_dataset(objects, images),
        teacher=teacher.outputs["digest"],
        policy=policy,
        views=settings.views,
        buckets=settings.buckets,
    )
    missing = [part.key for part in parts if not objects.exists(part.key)]
    outputs = {"parts": [part.key for part in parts], "missing": missing, "policy": policy}
    return Manifest("plan_scoring", "", outputs, cached=not missing)
