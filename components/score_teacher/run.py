"""Ask the served teacher about every view of every image, and keep its logits in parts."""

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.config import ScoreConfig, load
from edgedistill.dataset import Dataset, read_dataset, read_pixels
from edgedistill.errors import TeacherError
from edgedistill.images import Pixels
from edgedistill.progress import Progress
from edgedistill.scores import Part, ViewKey, known_rows, plan_parts, write_part
from edgedistill.steps import Manifest, Step
from edgedistill.storage import ObjectStore, canonical_json, digest, open_store
from edgedistill.views import ViewPolicy, policy_named, render
from serving.scorer import Endpoint, ask

SAMPLE_S = 2.0  # of the bare loop in process, for the ratio in the record


def run(
    *,
    store: str,
    images: Manifest,
    teacher: Manifest,
    plan: Manifest,
    endpoint: Manifest,
    config: dict[str, Any],
    progress: Progress,
) -> Manifest:
    """Write the missing score parts, one after another; a killed run goes on at the first missing part.

    Args:
        store: address of the object store.
        images: what ingest_images made.
        teacher: what publish_teacher made.
        plan: what plan_scoring made.
        endpoint: what deploy_teacher made; its url is empty when nothing was missing.
        config: a ScoreConfig as a mapping.
        progress: told after each request.

    Returns:
        outputs: parts (keys), policy, views, teacher (digest), images (views scored).
        measured: images_per_s of this scoring, in_process_images_per_s of the bare loop, their ratio, server.

    Raises:
        TeacherError: another model is served, it does not answer, or a logit is not finite.
    """
    settings = load(ScoreConfig, config)
    objects = open_store(store)
    missing = set(plan.outputs["missing"])
    outputs = {
        "parts": plan.outputs["parts"],
        "policy": plan.outputs["policy"],
        "views": settings.views,
        "teacher": teacher.outputs["digest"],
    }
    head = Step(objects, "score_teacher", digest(canonical_json(outputs))[:32])
    head.mark()
    if not missing:
        # Killed between the last part and the manifest: the parts are there, so there is nothing to do.
        return head.find() or replace(head.finish(outputs), cached=True)
    if not endpoint.outputs["url"]:
        raise TeacherError(f"{len(missing)} score parts are missing and no teacher is served; start the run again")
    dataset = read_dataset(objects, images)
    policy = policy_named(settings.policy)
    parts = plan_parts(
        dataset,
        teacher=teacher.outputs["digest"],
        policy=policy.digest,
        views=settings.views,
        buckets=settings.buckets,
    )
    todo = [part for part in parts if part.key in missing]
    served = Endpoint(
        endpoint.outputs["url"], teacher.outputs["name"], teacher.outputs["size"], teacher.outputs["classes"]
    )
    asked, seconds = asyncio.run(_score(objects, todo, _Renderer(objects, dataset, policy), served, settings, progress))
    bare = _bare_loop(objects, teacher, _Renderer(objects, dataset, policy), todo, settings.batch)
    measured = {"server": endpoint.outputs["server"], "asked": asked}
    if asked:
        speed = asked / seconds
        measured |= {"images_per_s": speed, "in_process_images_per_s": bare, "ratio": speed / bare}
    return head.finish(outputs, measured)


class _Renderer:
    """Views of images, each image decoded once while its views follow one another."""

    def __init__(self, store: ObjectStore, dataset: Dataset, policy: ViewPolicy) -> None:
        self._store, self._policy = store, policy
        self._rows = {row.image_id: row for row in dataset.rows}
        self._last: tuple[str, Pixels] | None = None

    def views(self, wanted: Iterable[ViewKey], size: int) -> Iterator[tuple[ViewKey, NDArray[np.uint8]]]:
        """Each wanted view, rendered at (size, size, 3) uint8."""
        for image_id, view in wanted:
            if self._last is None or self._last[0] != image_id:
                self._last = (image_id, read_pixels(self._store, self._rows[image_id]))
            pixels = render(self._last[1], self._policy, image_id=image_id, view=view, size=size)
            yield (image_id, view), pixels


async def _score(
    store: ObjectStore,
    todo: list[Part],
    renderer: _Renderer,
    endpoint: Endpoint,
    settings: ScoreConfig,
    progress: Progress,
) -> tuple[int, float]:
    """Score the parts; gives the number of views asked for and the seconds it took."""
    began = time.perf_counter()
    asked = 0
    total = sum(len(part.views) for part in todo)
    done = 0
    for part in todo:
        rows: dict[ViewKey, NDArray[np.floating]] = dict(known_rows(store, part))
        unknown = [view for view in part.views if view not in rows]
        done += len(rows)
        pictures = renderer.views(unknown, endpoint.size)
        async for name, logits in ask(endpoint, pictures, batch=settings.batch, in_flight=settings.in_flight):
            rows[name] = logits
            asked += 1
            progress.update(done + asked, total=total, note="views")
        write_part(store, part, rows)
    return asked, time.perf_counter() - began


def _bare_loop(store: ObjectStore, teacher: Manifest, renderer: _Renderer, todo: list[Part], batch: int) -> float:
    """Images a second of the same work in this process: render, infer, no server. For the record's ratio."""
    from edgedistill.inference import Student

    model = Student.from_bytes(store.get(teacher.outputs["model"]))
    views = renderer.views((view for part in todo for view in part.views), teacher.outputs["size"])
    model.logits(np.zeros((batch, teacher.outputs["size"], teacher.outputs["size"], 3), np.uint8))
    began, count, chunk = time.perf_counter(), 0, []
    for _, pixels in views:
        chunk.append(pixels)
        if len(chunk) == batch:
            model.logits(np.stack(chunk))
            count, chunk = count + batch, []
            if time.perf_counter() - began > SAMPLE_S:
                break
    if chunk:
        model.logits(np.stack(chunk))
        count += len(chunk)
    return count / (time.perf_counter() - began)
