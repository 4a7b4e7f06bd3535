"""What hangs onto the answers: unsure pictures, nothing but their pixels, drift, and no harm to who is served."""

import hashlib
import io
import json
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry, generate_latest

from edge.node.drift import Drift
from edge.node.engine import Engine
from edge.node.feedback import Feedback
from edge.node.reencode import MAX_PIXELS, reencoded
from edge.node.sender import Sending
from edge.node.spool import REQUEST, Limits, Spool, waiting
from edgedistill.bundle import write_bundle
from edgedistill.images import encode_png
from edgedistill.inference import Student
from tests.edge.conftest import CLASSES, SIZE, pictures, tiny_model, until
from tests.edge.faulty_disk import LOOKS, unreadable

SECRET = b"SECRET-52.5200N-13.4050E"


class Holder:
    """Of Serving, what feedback needs."""

    engine: Engine | None = None


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return make_engine(tmp_path / "bundle", version=1)


def make_engine(folder: Path, *, version: int) -> Engine:
    folder.mkdir()
    model = tiny_model(1)
    ov.save_model(model, folder / "m.xml", compress_to_fp16=False)
    xml, weights = (folder / "m.xml").read_bytes(), (folder / "m.bin").read_bytes()
    (folder / "m.xml").unlink(), (folder / "m.bin").unlink()
    golden = [(encode_png(p), Student(model).logits(p[None])[0].tolist()) for p in pictures(1)]
    write_bundle(
        folder,
        name="tiny",
        version=version,
        created="2026-01-01T00:00:00Z",
        model_xml=xml,
        model_bin=weights,
        labels=[f"class-{i}" for i in range(CLASSES)],
        size=SIZE,
        golden=golden,
        class_counts=[25] * CLASSES,
    )
    return Engine.load(folder)


def logits(*classes: int, margin: float = 9.0) -> np.ndarray:
    """(B, K): each answer surer than the next class by `margin`."""
    made = np.zeros((len(classes), CLASSES), np.float32)
    made[np.arange(len(classes)), list(classes)] = margin
    return made


def feedback(tmp_path: Path, engine: Engine, *, per_day: int = 100, limit: float = 0.0) -> Feedback:
    holder = Holder()
    holder.engine = engine
    sending = Sending(str(tmp_path / "target"), "node-1", 0.2, 3600)
    spool = Spool(tmp_path / "spool", Limits(per_day=per_day, reserve_bytes=0))
    made = Feedback(holder, Drift(limit), lambda reason, message: None, spool, sending)
    threading.Thread(target=made._work, daemon=True).start()
    return made


def about(one: object) -> dict[str, object]:
    document: dict[str, object] = json.loads(one.about.read_bytes())  # type: ignore[attr-defined]
    return document


def test_unsure_answers_are_kept_and_sure_ones_are_not(tmp_path: Path, engine: Engine) -> None:
    made = feedback(tmp_path, engine)
    images = pictures(4)
    made.observe(engine, None, images[:2], logits(1, 2))
    made.observe(engine, None, images[2:3], logits(3, margin=0.1))
    until(lambda: made.outcomes["kept"] == 1)
    made.observe(engine, [encode_png(images[3])], images[3:], logits(0))
    made.observe(engine, None, images[2:3], logits(3, margin=0.1))
    until(lambda: made.outcomes["known"] == 1)
    (one,) = waiting(tmp_path / "spool")
    assert one.picture
    np.testing.assert_array_equal(np.asarray(Image.open(one.picture)), images[2])
    said = about(one)
    assert said["sha256"] == hashlib.sha256(one.picture.read_bytes()).hexdigest() == one.picture.stem
    assert (said["class"], said["label"], said["node"]) == (3, "class-3", "node-1")
    assert said["release"] == {"name": "tiny", "version": 1, "digest": engine.manifest.digest}
    assert set(said) == {"format", "node", "time", "release", "class", "label", "probability", "margin", "sha256"}
    assert made.outcomes == {"kept": 1, "known": 1}
    assert made.drift.counts().tolist() == [1, 1, 1, 2]


def test_a_budget_that_is_spent_copies_nothing(tmp_path: Path, engine: Engine) -> None:
    made = feedback(tmp_path, engine, per_day=2)
    for image in pictures(6):
        made.observe(engine, None, image[None], logits(0, margin=0.1))
        until(lambda: made._waiting.empty())
    until(lambda: sum(made.outcomes.values()) == 6)
    assert made.outcomes == {"kept": 2, "over_budget": 4}


def test_it_never_raises_and_a_busy_disk_costs_pictures_only(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = feedback(tmp_path, engine)
    gate = threading.Event()
    monkeypatch.setattr(made, "_keep", lambda one: gate.wait() and "kept")
    began = time.monotonic()
    for image in pictures(10):
        made.observe(engine, None, image[None], logits(0, margin=0.1))
    assert time.monotonic() - began < 1, "nobody waits for the disk"
    assert made.outcomes["busy"] >= 7
    gate.set()
    made.observe(engine, None, pictures(1), np.zeros((3, CLASSES), np.float32))
    monkeypatch.setattr(made.drift, "add", lambda answers: 1 / 0)
    made.observe(engine, None, pictures(1), logits(0))


def test_drift_over_the_limit_asks_for_a_run_once(tmp_path: Path, engine: Engine) -> None:
    made = feedback(tmp_path, engine, limit=0.1)
    events: list[str] = []
    made._on_drift = lambda reason, message: events.append(message)
    for _ in range(3):
        made.observe(engine, None, pictures(400), logits(*([2] * 400)))
    until(lambda: events)
    until(lambda: any(one.about.name == REQUEST for one in waiting(tmp_path / "spool")))
    (one,) = waiting(tmp_path / "spool")
    said = about(one)
    assert said["reason"] == "drift"
    assert said["classes"] in [{"class-2": count} for count in (400, 800, 1000)]
    assert float(str(said["bits"])) > 0.1
    assert len(events) == 1
    shown = made.shown()["drift"]
    assert shown["over"]
    assert shown["answers"] == 1000
    text = scraped(made)
    assert 'edgedistill_window_answers{class="class-2"} 1000.0' in text
    assert "edgedistill_drift_over 1.0" in text


def test_a_swap_begins_anew_and_late_answers_of_the_old_release_do_not_count(tmp_path: Path, engine: Engine) -> None:
    made = feedback(tmp_path, engine)
    made.observe(engine, None, pictures(3), logits(0, 0, 0))
    newer = make_engine(tmp_path / "bundle-2", version=2)
    assert isinstance(made._serving, Holder)
    made._serving.engine = newer
    made.observe(newer, None, pictures(1), logits(1))
    made.observe(engine, None, pictures(3), logits(0, 0, 0))
    assert made.drift.counts().tolist() == [0, 1, 0, 0]


def scraped(made: Feedback) -> str:
    registry = CollectorRegistry()
    registry.register(made)
    return generate_latest(registry).decode()


def test_what_is_shown_touches_no_disk_and_waits_for_nobody(tmp_path: Path, engine: Engine) -> None:
    made = feedback(tmp_path, engine)
    made.observe(engine, None, pictures(1), logits(0, margin=0.1))
    until(lambda: made.outcomes["kept"] == 1)
    assert made.spool
    held, done = threading.Event(), threading.Event()

    def writes_slowly(spool: Spool) -> None:
        with spool._lock:
            held.set()
            done.wait(20)

    writer = threading.Thread(target=writes_slowly, args=(made.spool,))
    writer.start()
    try:
        assert held.wait(20)
        with ThreadPoolExecutor(1) as loop, unreadable(tmp_path, *LOOKS):
            shown = loop.submit(made.shown)
            text = loop.submit(scraped, made)
            try:
                state = shown.result(timeout=10)["feedback"]
                assert (state["waiting"], state["spent_today"], state["problem"]) == (1, 1, "")
                assert "edgedistill_feedback_waiting 1.0" in text.result(timeout=10)
            finally:
                done.set()  # else nothing would end where it does wait
    finally:
        done.set()
        writer.join()


def test_a_restart_shows_what_waits(tmp_path: Path, engine: Engine) -> None:
    spool = Spool(tmp_path / "spool", Limits(reserve_bytes=0))
    assert spool.claim("a") == ""
    assert spool.keep(b"picture", "png", {}) == "kept"
    made = feedback(tmp_path, engine)
    until(lambda: made.shown()["feedback"]["spent_today"] == 1)
    assert made.shown()["feedback"]["waiting"] == 1


def hiding_jpeg(size: tuple[int, int] = (40, 20)) -> bytes:
    """A JPEG that holds a place in EXIF, a comment, a profile, and behind its end; its EXIF turns it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = SECRET.decode()
    exif.get_ifd(0x8825)[29] = SECRET.decode()
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, "JPEG", exif=exif, comment=SECRET, icc_profile=SECRET * 10)
    return buffer.getvalue() + SECRET


def hiding_png() -> bytes:
    """A PNG with a text chunk, an EXIF chunk, and bytes behind its end."""
    data = encode_png(pictures(1)[0])
    chunks = b""
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    for body in (b"tEXtkey\0" + SECRET, b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0"), b"prVt" + SECRET):
        chunks += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + chunks + data[33:] + SECRET


@pytest.mark.parametrize("hiding", [hiding_jpeg, hiding_png])
def test_what_is_kept_is_pixels_and_nothing_else(hiding: object) -> None:
    picture: bytes = hiding()  # type: ignore[operator]
    assert SECRET in picture
    kept, extension = reencoded(picture, pictures(1)[0])
    assert SECRET not in kept
    with Image.open(io.BytesIO(kept)) as read:
        assert not read.getexif()
        assert set(read.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert {"jpg": "JPEG", "png": "PNG"}[extension] == read.format
        if extension == "jpg":
            assert read.size == (20, 40), "turned as EXIF said"


def test_the_check_of_metadata_sees_what_a_plain_copy_keeps() -> None:
    """Negative control: Pillow's own copy of the same pictures keeps the secret."""
    for picture in (hiding_jpeg(), hiding_png()):
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(picture)) as read:
            read.load()
            read.save(buffer, read.format, exif=read.info.get("exif", b""), comment=read.info.get("comment", ""))
        assert SECRET in buffer.getvalue()


def test_a_large_picture_is_made_smaller() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 3000), (1, 2, 3)).save(buffer, "JPEG")
    kept, _ = reencoded(buffer.getvalue(), pictures(1)[0])
    with Image.open(io.BytesIO(kept)) as read:
        assert 0.99 * MAX_PIXELS < read.width * read.height <= MAX_PIXELS
        assert abs(read.width / read.height - 4 / 3) < 0.01
