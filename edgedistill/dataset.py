"""A revision of a data set: one row an image, in Parquet, named by its digest."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from edgedistill.errors import DatasetError
from edgedistill.images import INGEST_FORMATS, Pixels, decode
from edgedistill.steps import Manifest
from edgedistill.storage import ObjectStore

SPLITS = ("train", "validation", "test")

_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("key", pa.string()),
        ("label", pa.int32()),
        ("truth", pa.int32()),
        ("split", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("source", pa.string()),
        ("paired_key", pa.string()),
    ]
)


@dataclass(frozen=True)
class ImageRow:
    """One image of a revision."""

    image_id: str  # SHA-256 of its bytes
    key: str  # where its bytes lie in the store
    label: int | None  # a label that may be trained on
    truth: int | None  # a label that may be measured with; never trained on
    split: str  # train, validation or test
    width: int  # pixels, before any resize
    height: int
    source: str  # the name that the user gave
    paired_key: str | None = None  # the same scene in another modality, where its bytes lie in the store


@dataclass(frozen=True)
class Dataset:
    """A revision: its rows sorted by image id, and its class names."""

    name: str
    classes: tuple[str, ...]
    rows: tuple[ImageRow, ...]

    def split(self, name: str) -> tuple[ImageRow, ...]:
        """The rows of train, validation or test."""
        return tuple(row for row in self.rows if row.split == name)

    @property
    def labeled(self) -> tuple[ImageRow, ...]:
        """Training rows with a label that may be trained on."""
        return tuple(row for row in self.split("train") if row.label is not None)

    def counts(self) -> dict[str, int]:
        """Images in each split, and labelled ones among train."""
        splits = Counter(row.split for row in self.rows)
        return {name: splits[name] for name in SPLITS} | {"labeled": len(self.labeled)}


def to_parquet(rows: Sequence[ImageRow]) -> bytes:
    """The rows as Parquet bytes: a function of the rows alone."""
    columns = {name: [getattr(row, name) for row in rows] for name in _SCHEMA.names}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def read_parquet(data: bytes) -> pa.Table:
    """A table from Parquet bytes, on this thread alone: with pyarrow 26 a process that used its reader's threads
    aborts as it exits ("terminate called without an active exception"), now and then."""
    return pq.ParquetFile(io.BytesIO(data), pre_buffer=False).read(use_threads=False)


def read_dataset(store: ObjectStore, images: Manifest) -> Dataset:
    """The revision that `ingest_images` made."""
    table = read_parquet(store.get(images.outputs["table"]))
    rows = tuple(ImageRow(**row) for row in table.to_pylist())
    return Dataset(images.outputs["name"], tuple(images.outputs["classes"]), rows)


def read_pixels(store: ObjectStore, row: ImageRow) -> Pixels:
    """(H, W, 3) uint8 of one image. Raises DatasetError when its bytes no longer decode."""
    try:
        return decode(store.get(row.key), formats=INGEST_FORMATS)
    except DatasetError as error:
        raise DatasetError(f"{row.source} ({row.key}): {error}") from error
