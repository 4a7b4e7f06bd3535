"""`edgedistill watch FOLDER`: new, changed or removed images start a run once the folder has been quiet for a while."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import click

from edgedistill.cli_feedback import REST_S, Fleet
from edgedistill.config import run_config, with_names
from edgedistill.errors import ConfigError, StorageError
from edgedistill.place import Place, placed
from edgedistill.storage import canonical_json, digest, file_digest, pretty_json

COMMAND = (sys.executable, "-m", "edgedistill.cli", "run")
POLL_S = 5.0  # between two looks at the folder, and at most a third of the quiet time
FLEET_S = 60.0  # between two looks at what the fleet sent
GRACE_S = 60.0  # that an interrupted run has to end


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--teacher", help="As for run.")
@click.option("--teacher-labels", type=click.Path(path_type=Path), help="As for run.")
@click.option("--preset", default="cpu", show_default=True, help="As for run.")
@click.option("--set", "overrides", multiple=True, metavar="STEP.FIELD=VALUE", help="As for run.")
@click.option("--labeled-fraction", type=float, help="As for run.")
@click.option("--quiet", "quiet_s", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Seconds.")
@click.option("--feedback", is_flag=True, help="As for run; and run when the fleet asks for it.")
@click.option(
    "--feedback-pictures",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="New pictures of the fleet that start a run.",
)
@click.option("--once", is_flag=True, help="Look once, run if there is something new, and end.")
@placed
def watch(
    folder: Path,
    teacher: str | None,
    teacher_labels: Path | None,
    preset: str,
    overrides: tuple[str, ...],
    labeled_fraction: float | None,
    quiet_s: float,
    feedback: bool,
    feedback_pictures: int,
    once: bool,
    place: Place,
) -> None:
    """Run the pipeline whenever the images of FOLDER change, or the fleet asks. One run at a time; Ctrl-C ends it."""
    if not folder.is_dir():
        raise ConfigError(f"{str(folder)!r} is no folder; give the folder of the images: edgedistill watch FOLDER")
    if place.folder.resolve().is_relative_to(folder.resolve()) and not _is_hidden(place.folder, folder):
        raise ConfigError(
            f"the home {str(place.folder)!r} lies in the watched folder, so that a run would start the next one; "
            "name another: --home FOLDER"
        )
    options = ["--preset", preset, *(part for override in overrides for part in ("--set", override))]
    if teacher:
        options += ["--teacher", teacher]
    if teacher_labels:
        options += ["--teacher-labels", str(teacher_labels)]
    if labeled_fraction is not None:
        options += ["--labeled-fraction", str(labeled_fraction)]
    options += ["--home", str(place.folder), *(("--store", place.address) if place.address else ())]
    files = [Path((teacher or "").rpartition("@")[2]), *([teacher_labels] if teacher_labels else [])]
    fleet = None
    if feedback:
        options.append("--feedback")
        config = with_names(run_config(preset, overrides, own_data=True), str(folder), overrides=overrides)
        fleet = Fleet(place, config.ingest.name, feedback_pictures)
    watcher = Watcher(folder.resolve(), place.folder / "watch", tuple(options), tuple(files), fleet)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        with watcher.alone():
            fine = _look(watcher, quiet_s, once=once)
    except KeyboardInterrupt:
        click.echo("Stopped; the same command goes on.")
        return
    if not fine:
        sys.exit(1)


@dataclass(frozen=True)
class Watcher:
    """One folder and the run that its images start."""

    folder: Path
    home: Path  # where locks and memory are
    options: tuple[str, ...]  # of the run
    files: tuple[Path, ...]  # what belongs to the content beside the images, where it is there: teacher, map
    fleet: Fleet | None = None

    def consider(self) -> bool:
        """Run if the content is new. False: the run failed, and the content is not remembered."""
        content, fed = self._content(), self._fed()
        if content is None:
            click.echo("No images yet.")
            return True
        remembered = self._remembered()
        why = fed and self.fleet and self.fleet.due(fed, remembered.get("feedback"))
        if remembered.get("content") == content and not why:
            click.echo("Nothing new.")
            return True
        with self._one_run() as lock:
            click.echo(f"{why or 'New content'}: a run starts.")
            status = _ended([*COMMAND, "--data", str(self.folder), *self.options], lock)
        if status:
            click.echo("The run failed; it is tried again when an image changes, or when this command starts again.")
            return False
        self._remember(content, fed or remembered.get("feedback"))
        return True

    def is_asked(self) -> bool:
        """Whether the fleet wants a run. A store that is away asks for nothing."""
        fed = self._fed()
        return bool(fed and self.fleet and self.fleet.due(fed, self._remembered().get("feedback")))

    def listing(self) -> str:
        """Names what is there without reading it: changes when a file is added, removed, written or replaced."""
        return digest(canonical_json(sorted(_stamps(self.folder))))

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Raises ConfigError when another process watches the same with the same options."""
        self.home.mkdir(parents=True, exist_ok=True)
        with self._path("lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"{str(self.folder)!r} is watched already with these options; "
                    "end the other `edgedistill watch` first"
                ) from None
            yield

    @contextlib.contextmanager
    def _one_run(self) -> Iterator[IO[str]]:
        """One run at a time in a home. The run inherits the lock: it is held for as long as the run lives, even if
        this process is killed."""
        with (self.home / "run.lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                click.echo("Another run is under way in this home; waiting for its end.")
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle

    def _content(self) -> str | None:
        """A digest of all bytes that the run would read; None without any file."""
        from components.ingest_images.sources import Folder

        images = Folder(self.folder)
        if not images.total:
            return None
        others = [file_digest(path) for path in self.files if path.is_file()]
        return digest(canonical_json([images.digest(), others]))

    def _fed(self) -> dict[str, Any] | None:
        """What the fleet has sent until now."""
        try:
            return self.fleet.state() if self.fleet else None
        except StorageError as error:
            click.echo(f"The fleet's feedback cannot be looked at: {error}")
            return None

    def _remembered(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._path("json").read_text())
            return found if isinstance(found, dict) else {}
        except (OSError, ValueError):
            return {}  # at worst the run is started again, and has nothing to do

    def _remember(self, content: str, fed: dict[str, Any] | None) -> None:
        fresh = self._path("new")
        document = {"folder": str(self.folder), "options": self.options, "content": content}
        fresh.write_bytes(pretty_json(document | ({"feedback": fed} if fed else {})))
        fresh.replace(self._path("json"))

    def _path(self, suffix: str) -> Path:
        name = digest(canonical_json([str(self.folder), self.options]))[:16]
        return self.home / f"{name}.{suffix}"


def _look(watcher: Watcher, quiet_s: float, *, once: bool) -> bool:
    """Look at the folder again and again; think about it when it was quiet since its last change."""
    poll_s = min(POLL_S, max(0.05, quiet_s / 3))
    decided: str | None = None
    seen, since, asked = watcher.listing(), time.monotonic(), 0.0
    while True:
        if watcher.fleet and time.monotonic() > asked + FLEET_S and seen == decided:
            decided, asked = None if watcher.is_asked() else decided, time.monotonic()
        if seen != decided and time.monotonic() - since >= quiet_s:
            decided = seen
            fine = watcher.consider()
            asked = time.monotonic() + (0.0 if fine else REST_S)
            if once:
                return fine
        began = time.monotonic()
        if (now := watcher.listing()) != seen:
            seen, since = now, time.monotonic()
        time.sleep(max(poll_s, 10 * (time.monotonic() - began)))  # a look at very many files is a tenth of the time


def _is_hidden(path: Path, folder: Path) -> bool:
    from components.ingest_images.layout import is_hidden

    return is_hidden(path.resolve().relative_to(folder.resolve()).parts)


def _stamps(folder: Path) -> Iterator[tuple[str, int, int, int]]:
    from components.ingest_images.layout import is_hidden, printable

    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden((name,))]
        for name in files:
            path = Path(root) / name
            with contextlib.suppress(OSError):  # gone since it was listed
                status = path.stat()
                if not is_hidden((name,)):
                    yield printable(str(path)), status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _ended(command: list[str], lock: IO[str]) -> int:
    """Run a command to its end. An interrupt is passed on, and the command's end waited for."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[lock.fileno()], start_new_session=True)
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        raise


def _interrupt(*_: object) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # one is enough; what ends must not be cut short
    raise KeyboardInterrupt
