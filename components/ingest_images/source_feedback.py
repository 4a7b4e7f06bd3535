"""What the fleet was unsure about: pictures below feedback/ of the store, as training images without a label.

Everything there was written by whoever holds a node's key, so all of it is a claim: names must have the one allowed
form, bytes must fit the digest in their name, and documents are small JSON or nothing.
"""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from components.ingest_images.sources import WORKERS, Entry, Item, Refusal, Source
from edgedistill.errors import RefusedImage, StorageError
from edgedistill.storage import Entry as Stored
from edgedistill.storage import ObjectStore, canonical_json, digest

FOLDER = "feedback/"
MOST = 20_000  # pictures in a revision, the newest days first
MAX_PICTURE, MAX_DOCUMENT = 16 << 20, 1 << 16  # bytes
_PAIR = re.compile(r"feedback/[^/]+/(?P<day>[0-9]{8})/(?P<sha256>[0-9a-f]{64})\.(?P<kind>jpg|png|json)")
_REQUEST = re.compile(r"feedback/[^/]+/[0-9]{8}/run-request\.json")


@dataclass(frozen=True)
class _Picture:
    key: str
    sha256: str
    size: int  # bytes, as the listing says


class Feedback(Source):
    """The pictures of one data set's releases; each once, whichever nodes sent it."""

    def __init__(self, store: ObjectStore, name: str, judged: dict[str, bool] | None = None) -> None:
        """Lists and reads the documents.

        Args:
            store: the object store.
            name: of the data set.
            judged: key of a document -> whether it names a release of the data set; those in it are not read again.

        Raises:
            StorageError: the store does not answer.
        """
        super().__init__()
        self._store, judged = store, {} if judged is None else judged
        entries = {entry.key: entry for entry in store.entries(FOLDER)}
        self._pictures, self.left_out = _newest(_pairs(store, entries, name, judged))
        # Keys of the documents in which a node asks for a run.
        self.requests = frozenset(
            key for key in entries if _REQUEST.fullmatch(key) and _names(store, entries[key], name, judged)
        )
        self.total = len(self._pictures)

    @property
    def count(self) -> int:
        """All pictures, those that are left out too."""
        return len(self._pictures) + self.left_out

    def digest(self) -> str:
        """Of names and sizes. A name holds the digest of its bytes, and bytes that do not fit it are refused."""
        return digest(canonical_json([[one.sha256, one.size] for one in self._pictures]))

    def items(self) -> Iterator[Item | Refusal]:
        for place, one in enumerate(self._pictures):
            if one.size > MAX_PICTURE:
                yield Refusal(one.key, "too-big", f"{one.size:,} bytes, a node sends at most {MAX_PICTURE:,}")
            else:
                yield Item(Entry(one.key, None, "train", one.size), lambda one=one: self._read(one))  # type: ignore[misc]
            self.position = place + 1

    def _read(self, one: _Picture) -> bytes:
        try:
            data = self._store.get(one.key)
        except StorageError as error:
            raise RefusedImage("absent", "was removed meanwhile") from error
        if digest(data) != one.sha256:
            raise RefusedImage("wrong-digest", "does not hold the bytes that its name says")
        return data


def _pairs(
    store: ObjectStore, entries: dict[str, Stored], name: str, judged: dict[str, bool]
) -> list[tuple[str, _Picture]]:
    """(day, picture) of every picture whose document is there and is about a release of that name."""
    found = []
    for key, entry in entries.items():
        parts = _PAIR.fullmatch(key)
        document = entries.get(f"{key.rpartition('.')[0]}.json")
        if parts and parts["kind"] != "json" and document:
            found.append((parts["day"], _Picture(key, parts["sha256"], entry.size), document))
    with ThreadPoolExecutor(WORKERS) as pool:
        ours = list(pool.map(lambda one: _names(store, one[2], name, judged), found))
    return [(day, picture) for (day, picture, _), is_ours in zip(found, ours, strict=True) if is_ours]


def _newest(pairs: list[tuple[str, _Picture]]) -> tuple[tuple[_Picture, ...], int]:
    """At most MOST pictures, each digest once, in the order of their digests; and how many were left out."""
    once: dict[str, tuple[str, _Picture]] = {}
    for day, picture in sorted(pairs, key=lambda pair: (pair[0], pair[1].key)):
        once.setdefault(picture.sha256, (day, picture))
    newest = sorted(once.values(), key=lambda pair: (pair[0], pair[1].sha256), reverse=True)[:MOST]
    return tuple(sorted((picture for _, picture in newest), key=lambda one: one.sha256)), len(once) - len(newest)


def _names(store: ObjectStore, document: Stored, name: str, judged: dict[str, bool]) -> bool:
    """Whether a document says that it is about a release of that name."""
    if document.key not in judged:
        judged[document.key] = _read_names(store, document, name)
    return judged[document.key]


def _read_names(store: ObjectStore, document: Stored, name: str) -> bool:
    if document.size > MAX_DOCUMENT:
        return False
    try:
        said = json.loads(store.get(document.key))
        return bool(said["release"]["name"] == name)
    except (StorageError, ValueError, TypeError, KeyError, IndexError, RecursionError):
        return False
