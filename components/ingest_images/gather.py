"""Every image of a source through a pool of threads, into the store: bounded in bytes and in pixels."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from components.ingest_images.likeness import Impression, impression
from components.ingest_images.sources import MAX_BYTES, WORKERS, Entry, Item, Refusal, Source
from edgedistill.budget import Budget, give_blocks_back
from edgedistill.errors import DatasetError, RefusedImage
from edgedistill.images import INGEST_FORMATS, MAX_PIXELS, decode, read_header
from edgedistill.progress import Progress
from edgedistill.storage import ObjectStore, digest

EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "BMP": "bmp", "GIF": "gif", "TIFF": "tif", "WEBP": "webp"}
IN_FLIGHT = 4 * WORKERS  # images that are read and not yet counted


@dataclass(frozen=True)
class Seen:
    """What an image turned out to be; its bytes are in the store."""

    image_id: str  # SHA-256 of its bytes
    key: str
    width: int  # pixels, upright
    height: int
    impression: Impression
    paired_key: str | None


@dataclass
class Gathered:
    """All of a source, in its order."""

    images: list[tuple[Entry, Seen]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    broken: list[Entry] = field(default_factory=list)  # those of the refusals that the source had as images


def gather(store: ObjectStore, name: str, source: Source, progress: Progress) -> Gathered:
    """Read, check and store every image of a source.

    At most MAX_BYTES of files and MAX_PIXELS of pictures are in memory at once, however many threads there are.

    Args:
        store: gets `datasets/<name>/images/<sha256>.<extension>`; the extension is of the content, not of the name.
        name: of the data set.
        source: what to read.
        progress: told after each image.

    Raises:
        DatasetError: the source itself is broken, or changed while it was read.
        StorageError: the store did not take an image.
    """
    give_blocks_back()
    gathered = Gathered()
    waiting: deque[tuple[Entry, Future[Seen | Refusal]]] = deque()
    files, pictures = Budget(MAX_BYTES), Budget(MAX_PIXELS)
    pool = ThreadPoolExecutor(WORKERS)

    def collect() -> None:
        entry, future = waiting.popleft()
        made = future.result()
        if isinstance(made, Refusal):
            gathered.refusals.append(made)
            gathered.broken.append(entry)
        else:
            gathered.images.append((entry, made))
        count = len(gathered.images)
        progress.update(min(source.position, source.total), total=source.total, note=f"{count:,} images")

    try:
        for item in source.items():
            if isinstance(item, Refusal):
                gathered.refusals.append(item)
                continue
            weight = files.take(item.entry.size)
            ready = _read_now(item) if source.serial else item
            future = pool.submit(_examine, store, name, ready, pictures)
            future.add_done_callback(lambda _, weight=weight: files.give(weight))  # type: ignore[misc]
            waiting.append((item.entry, future))
            if len(waiting) >= IN_FLIGHT:
                collect()
        while waiting:
            collect()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    gathered.images = [(source.settle(entry), seen) for entry, seen in gathered.images]
    gathered.broken = [source.settle(entry) for entry in gathered.broken]
    return gathered


def _read_now(item: Item) -> Item:
    data = item.read()
    return Item(item.entry, lambda: data, item.read_paired)


def _examine(store: ObjectStore, name: str, item: Item, pictures: Budget) -> Seen | Refusal:
    entry = item.entry
    try:
        image_id, key, (height, width), seen = _keep(store, name, item.read(), pictures, entry.expected)
        paired = _keep(store, name, item.read_paired(), pictures, None)[1] if item.read_paired else None
        return Seen(image_id, key, width, height, seen, paired)
    except RefusedImage as error:
        return Refusal(entry.name, error.reason, str(error))
    except DatasetError as error:
        raise DatasetError(f"{entry.name!r} {error}") from error


def _keep(
    store: ObjectStore, name: str, data: bytes, pictures: Budget, expected: str | None
) -> tuple[str, str, tuple[int, int], Impression]:
    """Check one picture and store it: (SHA-256, key, (height, width), impression)."""
    image_id = digest(data)
    if expected not in (None, image_id):
        raise DatasetError("changed while it was read; run the same command again")
    header = read_header(data, formats=INGEST_FORMATS)
    weight = pictures.take(header.width * header.height)
    try:
        pixels = decode(data, formats=INGEST_FORMATS)
        seen, (height, width) = impression(pixels), pixels.shape[:2]
        del pixels  # before its budget is given to the next one
    finally:
        pictures.give(weight)
    key = f"datasets/{name}/images/{image_id}.{EXTENSIONS[header.format]}"
    if not store.exists(key):
        store.put(key, data)
    return image_id, key, (height, width), seen
