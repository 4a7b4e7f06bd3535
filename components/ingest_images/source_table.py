"""A table of paths: CSV or Parquet with the columns image, and if known label, split and paired."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from components.ingest_images.layout import SPLIT_FOLDERS, printable
from components.ingest_images.sources import Entry, Files, Item, Refusal
from edgedistill.errors import DatasetError

COLUMNS = ("image", "label", "split", "paired")


class Table(Files):
    """The rows whose files are there; the others are refused."""

    def __init__(self, files: list[tuple[Entry, Path, Path | None]], refusals: list[Refusal]) -> None:
        super().__init__(files)
        self._refusals = refusals

    def digest(self) -> str:
        from edgedistill.storage import canonical_json, digest

        return digest(canonical_json([super().digest(), [(r.name, r.reason) for r in self._refusals]]))

    def items(self) -> Iterator[Item | Refusal]:
        yield from self._refusals
        yield from super().items()


def open_table(path: Path) -> Table:
    """The images that a table names; paths are relative to the table.

    Raises:
        DatasetError: no such columns, no rows, or none of the files is there.
    """
    files: list[tuple[Entry, Path, Path | None]] = []
    refusals: list[Refusal] = []
    for row in _rows(path):
        name, label, split, paired = (_text(row.get(column)) for column in COLUMNS)
        shown = printable(name or "")
        image = path.parent / (name or "")
        other = path.parent / paired if paired else None
        if split and split.lower() not in SPLIT_FOLDERS:
            refusals.append(Refusal(shown, "bad-row", f"split {split!r} is none of train, validation, test"))
        elif not name or not image.is_file():
            refusals.append(Refusal(shown, "absent", "no such file" if name else "a row without an image"))
        elif other and not other.is_file():
            refusals.append(Refusal(shown, "absent", f"its paired file {paired!r} is not there"))
        else:
            files.append((Entry(shown, label, SPLIT_FOLDERS[split.lower()] if split else None), image, other))
    if not files:
        said = f"{refusals[0].name!r}: {refusals[0].message}" if refusals else "it has no rows"
        raise DatasetError(
            f"{str(path)!r} names no image that is there ({said}); paths are relative to {str(path.parent)!r}"
        )
    return Table(files, refusals)


def _rows(path: Path) -> Iterable[Mapping[str, Any]]:
    data = path.read_bytes()
    try:
        if path.suffix.lower() == ".parquet":
            from edgedistill.dataset import read_parquet

            table = read_parquet(data)
            columns = list(table.column_names)
            rows: list[dict[str, Any]] = table.to_pylist()
        else:
            reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), skipinitialspace=True)
            rows = list(reader)
            columns = list(reader.fieldnames or ())
    except (ValueError, OSError, csv.Error) as error:  # pyarrow's errors and a wrong encoding are ValueErrors
        raise DatasetError(f"{str(path)!r} cannot be read as a table: {error}") from error
    if "image" not in columns:
        raise DatasetError(
            f"{str(path)!r} has the columns {', '.join(map(str, columns)) or 'none'}; expected image, and if known "
            "label, split and paired"
        )
    return rows


def _text(value: Any) -> str | None:
    """A cell: empty, null and not-a-number are nothing; 3.0 is the class 3, as pandas writes it beside gaps."""
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None
