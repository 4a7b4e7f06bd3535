"""The pictures that wait to be sent: a bounded folder, a daily budget, and never the same picture twice.

ledger.json                    the day, what it has spent, and the pictures that were ever kept (the newest 10,000)
<day>/<sha256>.jpg or .png     a picture, encoded anew from its pixels
<day>/<sha256>.json            what was answered; written after the picture, so that a pair is whole when it is there
<day>/run-request.json         answers have drifted: asks for a run
tmp/                           whatever was not finished; emptied at start

Nothing is flushed to disk: a power cut may tear a picture, whose name then no longer fits it, and the sender drops it.
Losing one costs nothing; waiting for a disk while somebody wants an answer does.
"""

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.storage import canonical_json

LEDGER, REQUEST = "ledger.json", "run-request.json"
REMEMBERED = 10_000  # pictures that were kept


@dataclass(frozen=True)
class Limits:
    """What the spool may take."""

    per_day: int = 50  # pictures
    files: int = 500  # pictures that wait
    size_bytes: int = 64 << 20  # of all files that wait
    reserve_bytes: int = 256 << 20  # that must stay free on the disk: the node's own updates come first


@dataclass(frozen=True)
class Waiting:
    """One finished document and the picture that it is about, if any."""

    day: str  # YYYYMMDD, UTC
    about: Path
    picture: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        """In the order of sending: the document last."""
        return (self.picture, self.about) if self.picture else (self.about,)


class Spool:
    """One node's spool. One thread keeps, another counts; another process reads and removes.

    Both threads may hold the lock for as long as a slow disk takes. What is shown and what is asked for each answer
    (`waits`, `spent`, `is_spent`) is memory's, without the lock: it never waits for a disk, and a disk that fails does
    not take it away.
    """

    def __init__(self, folder: Path, limits: Limits, *, now: Callable[[], float] = time.time) -> None:
        """Nothing is written."""
        self.folder, self.limits, self._now = folder, limits, now
        self._lock = threading.Lock()
        self._read: dict[str, Any] | None = None  # the ledger, once it was read; replaced, never changed
        self.waits = 0  # pictures and requests that wait, as of the last look at the folder

    def is_spent(self) -> bool:
        """Whether the day's budget is gone; costs nothing."""
        ledger = self._read
        return bool(ledger and ledger["day"] == self._day() and ledger["spent"] >= self.limits.per_day)

    def sweep(self) -> None:
        """Remove what a killed node left unfinished, and learn what waits and what was spent. Raises OSError."""
        with self._lock:
            shutil.rmtree(self.folder / "tmp", ignore_errors=True)
            if not self.folder.is_dir():
                return
            kept = list(waiting(self.folder))
            self.waits = len(kept)
            whole = {path for one in kept for path in one.files}
            for day in _days(self.folder):
                for path in day.iterdir():
                    if path not in whole:
                        path.unlink(missing_ok=True)
                _remove_if_empty(day)
            self._ledger()

    def count(self) -> int:
        """Pictures and requests that wait, counted in the folder. Raises OSError; then the last count stays."""
        with self._lock:
            self.waits = sum(1 for _ in waiting(self.folder))
            return self.waits

    def claim(self, name: str) -> str:
        """Spend one of the day's pictures on the one called `name`; afterwards it is never taken again.

        The ledger is written before the picture: a kill in between loses it, and never sends it twice.

        Returns:
            "" when it was spent; else why not: `known`, `over_budget` or `disk`.
        """
        with self._lock:
            try:
                ledger = self._ledger()
                if name in ledger["known"]:
                    return "known"
                if ledger["spent"] >= self.limits.per_day:
                    return "over_budget"
                known = [*ledger["known"], name][-REMEMBERED:]
                self._note(ledger | {"spent": ledger["spent"] + 1, "known": known})
            except OSError:
                return "disk"
        return ""

    def keep(self, picture: bytes, extension: str, about: Mapping[str, Any]) -> str:
        """Keep a picture and what was answered; the oldest ones make room.

        The newest say most about what the node sees now, and after a long time without a network the old ones are many.

        Returns:
            `kept`, or `disk`: no space, or the disk fails. Nothing half-written stays.
        """
        name = hashlib.sha256(picture).hexdigest()
        document = canonical_json({**about, "sha256": name})
        with self._lock:
            try:
                folder = self.folder / self._day()
                others = self._make_room(len(picture) + len(document))
                self._write(folder / f"{name}.{extension}", picture)
                self._write(folder / f"{name}.json", document)
                self.waits = len(others | {folder / f"{name}.json"})
            except OSError:
                for suffix in (extension, "json"):
                    _remove_quietly(self.folder / self._day() / f"{name}.{suffix}")
                return "disk"
        return "kept"

    def ask_for_a_run(self, about: Mapping[str, Any]) -> str:
        """Ask for a run, at most once a day: `asked`, `known` (today's is asked for) or `disk`."""
        with self._lock:
            try:
                ledger = self._ledger()
                if ledger["asked"]:
                    return "known"
                self._note(ledger | {"asked": True})
                self._write(self.folder / self._day() / REQUEST, canonical_json(about))
                self.waits += 1
            except OSError:
                return "disk"
        return "asked"

    def spent(self) -> int:
        """Pictures that today has spent; 0 until the ledger was read. Costs nothing."""
        ledger = self._read
        return int(ledger["spent"]) if ledger and ledger["day"] == self._day() else 0

    def _day(self) -> str:
        return time.strftime("%Y%m%d", time.gmtime(self._now()))

    def _ledger(self) -> dict[str, Any]:
        """Today's. One that cannot be read has spent all that its day has: the budget is a promise."""
        if self._read is None:
            found = self._from_disk()
            if found is None:
                self._note(self._fresh() | {"spent": self.limits.per_day, "asked": True})
            else:
                self._read = found
        assert self._read is not None
        if self._read["day"] != self._day():
            self._read = self._read | {"day": self._day(), "spent": 0, "asked": False}
        return self._read

    def _fresh(self) -> dict[str, Any]:
        return {"day": self._day(), "spent": 0, "asked": False, "known": []}

    def _from_disk(self) -> dict[str, Any] | None:
        """What stands in the file; None when it is no ledger."""
        try:
            found = json.loads((self.folder / LEDGER).read_bytes())
            values = {"day": str(found["day"]), "spent": int(found["spent"]), "asked": bool(found["asked"])}
            return values | {"known": [str(name) for name in found["known"]]}
        except FileNotFoundError:
            return self._fresh()
        except (ValueError, KeyError, TypeError):
            return None

    def _note(self, ledger: dict[str, Any]) -> None:
        self._write(self.folder / LEDGER, canonical_json(ledger))
        self._read = ledger

    def _make_room(self, size: int) -> set[Path]:
        """Give the documents that still wait.

        Raises:
            OSError: the disk would not keep its reserve, or the limit is smaller than the picture.
        """
        kept = sorted(waiting(self.folder), key=lambda one: _modified(one.about))
        sizes = {one: sum(map(_size, one.files)) for one in kept}
        total = sum(sizes.values()) + size
        for one in kept[:]:
            if len(kept) < self.limits.files and total <= self.limits.size_bytes:
                break
            remove(one)
            kept.remove(one)
            total -= sizes[one]
        self.waits = len(kept)
        self.folder.mkdir(parents=True, exist_ok=True)
        disk = os.statvfs(self.folder)
        if total > self.limits.size_bytes or disk.f_bavail * disk.f_frsize < self.limits.reserve_bytes + size:
            raise OSError("no room")
        return {one.about for one in kept}

    def _write(self, path: Path, data: bytes) -> None:
        temporary = self.folder / "tmp" / path.name
        temporary.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError:
            _remove_quietly(temporary)
            raise


def waiting(folder: Path) -> Iterator[Waiting]:
    """What is whole in a spool, the oldest day first; nothing where there is no spool yet. Raises OSError."""
    for day in _days(folder):
        for about in sorted(day.glob("*.json")):
            if about.name == REQUEST:
                yield Waiting(day.name, about, None)
                continue
            pictures = [path for path in (about.with_suffix(".jpg"), about.with_suffix(".png")) if path.is_file()]
            if pictures:
                yield Waiting(day.name, about, pictures[0])


def remove(one: Waiting) -> None:
    """Remove what was sent or made room. The document goes first: a kill in between leaves nothing that looks whole."""
    for path in reversed(one.files):
        _remove_quietly(path)


def _days(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())
    except FileNotFoundError:
        return []  # only this is empty: a sweep would take what a failing disk hides for rubbish


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return


def _remove_quietly(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # a disk that fails; the next start sweeps


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # sent meanwhile


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
