"""Ask the served teacher about every view of every image, and keep its logits in parts."""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.ahead import ahead
from edgedistill.config import ScoreConfig, load
from edgedistill.dataset import Dataset, read_dataset, read_pixels
from edgedistill.errors import TeacherError
from edgedistill.images import Pixels
from edgedistill.inference import Student
from edgedistill.progress import Progress
from edgedistill.scores import KnownRows, Part, ViewKey, bucket_of, plan_parts, write_part
from edgedistill.steps import Manifest, Step
from edgedistill.storage import ObjectStore, canonical_json, digest, open_store
from edgedistill.views import ViewPolicy, policy_named, render
from serving.scorer import Endpoint, Probe, ask

SAMPLE_S = 2.0  # of the bare loop in process, for the ratio in the record
PROBES = 4  # pictures that prove that the served model is the published one
AHEAD = 8  # images that are decoded, with their views, before they are asked about


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
    """Write the missing score parts in one stream of requests; a killed run goes on at the first missing part.

    Args:
        store: address of the object store.
        images: what ingest_images made.
        teacher: what publish_teacher made.
        plan: what plan_scoring made.
        endpoint: what deploy_teacher made; its url is empty when nothing was missing.
        config: a ScoreConfig as a mapping.
        progress: told after each request.

    Returns:
        outputs: parts (keys), policy, views, teacher (digest), labels (class names).
        measured: images_per_s of this scoring, in_process_images_per_s of the bare loop, their ratio, server, and
        asked (views that were not known).

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
        "labels": teacher.outputs["labels"],
    }
    head = Step(objects, "score_teacher", digest(canonical_json(outputs))[:32])
    head.mark()
    if not missing:
        # Killed between the last part and the manifest: the parts are there, so there is nothing to do.
        return head.peek() or replace(head.finish(outputs), cached=True)
    if not endpoint.outputs["url"]:
        raise TeacherError(f"{len(missing)} score parts are missing and no teacher is served; start the run again")
    work = _Work.of(objects, images, teacher, settings, missing)
    model = Student.from_bytes(objects.get(teacher.outputs["model"]))
    asked, seconds = asyncio.run(_score(work, _served(endpoint, teacher, settings), model, settings, progress))
    measured = {"server": endpoint.outputs["server"], "asked": asked}
    if asked:
        speed, bare = asked / seconds, _bare_loop(work, model, settings.batch)
        measured |= {"images_per_s": speed, "in_process_images_per_s": bare, "ratio": speed / bare}
    return head.finish(outputs, measured)


@dataclass(frozen=True)
class _Work:
    """The missing parts, and what is needed to fill them."""

    store: ObjectStore
    parts: list[Part]
    known: KnownRows
    dataset: Dataset
    policy: ViewPolicy
    size: int  # pixels, of the teacher's input

    @staticmethod
    def of(
        store: ObjectStore, images: Manifest, teacher: Manifest, settings: ScoreConfig, missing: set[str]
    ) -> "_Work":
        dataset, policy = read_dataset(store, images), policy_named(settings.policy)
        names = {"teacher": teacher.outputs["digest"], "policy": policy.digest}
        parts = plan_parts(dataset, **names, views=settings.views, buckets=settings.buckets)
        todo = [part for part in parts if part.key in missing]
        return _Work(store, todo, KnownRows(store, **names), dataset, policy, teacher.outputs["size"])

    def views(self, wanted: Iterable[ViewKey]) -> Iterator[tuple[ViewKey, NDArray[np.uint8]]]:
        """Each wanted view, (S, S, 3) uint8; an image whose views follow one another is decoded once, in a thread."""
        rows = {row.image_id: row for row in self.dataset.rows}

        def rendered(item: tuple[str, list[int]]) -> list[tuple[ViewKey, Pixels]]:
            image, numbers = item
            pixels = read_pixels(self.store, rows[image])
            return [
                ((image, view), render(pixels, self.policy, image_id=image, view=view, size=self.size))
                for view in numbers
            ]

        grouped = ((image, [view for _, view in views]) for image, views in groupby(wanted, lambda name: name[0]))
        for pictures in ahead(rendered, grouped, depth=AHEAD):
            yield from pictures

    def batches(self, wanted: Iterable[ViewKey], batch: int) -> Iterator[list[tuple[ViewKey, NDArray[np.uint8]]]]:
        """The wanted views in batches that end where a part ends: the last bits of an answer may depend on what is
        beside it in its batch, and a part must hold the same bytes whether or not the run was killed before it."""
        buckets = self.parts[0].buckets
        for _, views in groupby(self.views(wanted), lambda view: bucket_of(view[0][0], buckets)):
            while chunk := list(islice(views, batch)):
                yield chunk

    def probe(self, model: Student) -> Probe:
        """Pictures of the first missing parts, and what the published teacher says to them in this process."""
        names = [name for part in self.parts for name in part.views if name[1] == 0][:PROBES]
        images = np.stack([picture for _, picture in self.views(names)])
        return Probe(images, model.logits(images))


@dataclass(frozen=True)
class _Filling:
    """A part whose answers are still coming."""

    part: Part
    rows: dict[ViewKey, NDArray[np.floating]]


def _served(endpoint: Manifest, teacher: Manifest, settings: ScoreConfig) -> Endpoint:
    about = teacher.outputs
    return Endpoint(
        endpoint.outputs["url"],
        about["name"],
        about["size"],
        about["classes"],
        deadline_s=settings.deadline_s,
        patience_s=settings.patience_s,
    )


async def _score(
    work: _Work, endpoint: Endpoint, model: Student, settings: ScoreConfig, progress: Progress
) -> tuple[int, float]:
    """Fill the parts from one stream of requests, which does not pause where a part ends; gives the number of views
    asked for and the seconds it took."""
    probe = work.probe(model)
    began = time.perf_counter()
    filling: deque[_Filling] = deque()  # the parts whose views are under way: one or two
    total = sum(len(part.views) for part in work.parts)
    known = asked = 0

    def unknown() -> Iterator[ViewKey]:
        nonlocal known
        for part in work.parts:
            rows: dict[ViewKey, NDArray[np.floating]] = dict(work.known.of(part))
            known += len(rows)
            if len(rows) == len(part.views):
                write_part(work.store, part, rows)
                continue
            filling.append(_Filling(part, rows))
            yield from [view for view in part.views if view not in rows]

    batches = work.batches(unknown(), settings.batch)
    answers = ask(endpoint, probe, batches, in_flight=settings.in_flight)
    async for name, logits in answers:
        _check_finite(work.dataset, name, logits)
        current = filling[0]
        current.rows[name] = logits
        asked += 1
        progress.update(known + asked, total=total, note="views")
        if len(current.rows) == len(current.part.views):
            await asyncio.to_thread(write_part, work.store, current.part, current.rows)
            filling.popleft()
    return asked, time.perf_counter() - began


def _check_finite(dataset: Dataset, name: ViewKey, logits: NDArray[np.float32]) -> None:
    """Raises TeacherError, which names the image, for an answer that is no finite float16."""
    if not (np.abs(logits) <= np.finfo(np.float16).max).all():  # NaN is not
        source = next(row.source for row in dataset.rows if row.image_id == name[0])
        raise TeacherError(
            f"the teacher answered {logits.tolist()[:8]} to view {name[1]} of {source}; expected finite logits below "
            "65,504: check the teacher's last layer"
        )


def _bare_loop(work: _Work, model: Student, batch: int) -> float:
    """Images a second of the same work in this process, one thing after another: render, infer, no server."""
    model.logits(np.zeros((batch, work.size, work.size, 3), np.uint8))
    rows = {row.image_id: row for row in work.dataset.rows}
    began, count, chunk = time.perf_counter(), 0, []
    last: tuple[str, Pixels] | None = None
    for image, view in (name for part in work.parts for name in part.views):
        if last is None or last[0] != image:
            last = (image, read_pixels(work.store, rows[image]))
        chunk.append(render(last[1], work.policy, image_id=image, view=view, size=work.size))
        if len(chunk) == batch:
            model.logits(np.stack(chunk))
            count, chunk = count + batch, []
            if time.perf_counter() - began > SAMPLE_S:
                break
    if chunk:
        model.logits(np.stack(chunk))
        count += len(chunk)
    return count / (time.perf_counter() - began)
