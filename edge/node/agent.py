"""Observe, decide, act: the loop that keeps a node on the release that it is told to serve."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edge.node.catalog import Catalog, Unreachable
from edge.node.decide import Activate, Keep, Observation, Refuse, decide
from edge.node.disk import DiskTrouble
from edge.node.engine import Engine, Serving
from edge.node.state import Pointer, Refusal, Release, State
from edge.node.trial import try_release
from edge.node.trust import Repository, verify_offline
from edgedistill.bundle import MANIFEST
from edgedistill.errors import RefusedRelease

PROBATION_S = 20.0
PROBATION_STARTS = 3
_log = logging.getLogger("edge.node")


@dataclass(frozen=True)
class Settings:
    """What the operator said."""

    node: str
    name: str  # of the releases
    releases: str  # folder or URL that holds metadata/ and targets/
    root: bytes  # the operator's first root
    version_file: Path | None
    version: int  # 0: follow the newest


@dataclass
class Status:
    """What /status shows."""

    state: str = "starting"
    reason: str = ""
    desired: int | None = None
    refused: str = ""  # slug: why the desired release is not served; empty: it is not refused
    last_event: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def event(self, reason: str, message: str) -> None:
        """Remember and log what happened last."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.last_event = {"reason": reason, "message": message, "time": now}
        _log.info("%s: %s", reason, message)


class Agent:
    """One node's agent. `failpoint(name)` is called between the steps of an update; tests end the process there."""

    def __init__(
        self, settings: Settings, state: State, serving: Serving, failpoint: Callable[[str], None] = lambda name: None
    ) -> None:
        self.settings, self.state, self.serving, self._failpoint = settings, state, serving, failpoint
        self.status = Status()
        self.pointer = state.pointer()
        self._served_since = time.monotonic()

    def boot(self) -> None:
        """Serve what was served, without network and whatever the clock says; the previous release if that fails."""
        pointer = self.pointer
        if pointer.active and pointer.probation:
            pointer = self._remember(replace(pointer, unfinished_starts=pointer.unfinished_starts + 1))
            if pointer.unfinished_starts >= PROBATION_STARTS:
                self._revert("died", f"the release ended {PROBATION_STARTS} starts in a row")
        for release in filter(None, (self.pointer.active, self.pointer.previous)):
            try:
                self._serve(release)
            except OSError as error:  # the disk's fault, not the release's: it is fetched again
                trouble = DiskTrouble.of(error, f"release {release.version} cannot be read")
                self.status.event(trouble.reason, str(trouble))
            except RefusedRelease as error:
                self.status.event(error.reason, str(error))
                if release == self.pointer.active:
                    self._revert(error.reason, str(error))
            else:
                break
        self.state.sweep(self.pointer)
        self._tell_problem(None)

    def step(self) -> None:
        """One round: observe, decide, act. Never raises for what the world does."""
        before = self.state.problem
        self.state.settle()
        try:
            self._round()
        except DiskTrouble as trouble:
            self.state.clear()
            self.state.sweep(self.pointer)
            self.status.state, self.status.reason = ("serving" if self.serving.engine else "waiting"), str(trouble)
            self.status.event(trouble.reason, str(trouble))
        self._tell_problem(before)

    def _tell_problem(self, before: DiskTrouble | None) -> None:
        problem = self.state.problem
        if problem and (before is None or str(problem) != str(before)):
            self.status.event(problem.reason, str(problem))

    def _round(self) -> None:
        self._end_probation()
        desired, follow = self._desired()
        self.status.desired = desired
        active = self.serving.engine.release if self.serving.engine else None
        catalog, repository = None, None
        if (desired is not None or follow) and not (active and active.version == desired):
            try:
                catalog, repository = self._refresh()
            except Unreachable as error:
                self.status.event(error.reason, str(error))
            except RefusedRelease as error:
                self._refuse(Refuse(desired or 0, "", error.reason, str(error)))
                return
        refused = {(r.version, r.digest): r.reason for r in self.state.refusals()}
        seen = Observation(self.settings.name, desired, follow, active, catalog, refused)
        action = decide(seen)
        if isinstance(action, Keep):
            probation = action.state == "serving" and self.pointer.probation
            self.status.refused = action.refused
            self.status.state, self.status.reason = "probation" if probation else action.state, action.reason
        elif isinstance(action, Refuse):
            self._refuse(action)
        elif isinstance(action, Activate):
            assert repository is not None  # a release can only be chosen from a catalog
            self._update(action.release, repository, seen)

    def describe(self) -> dict[str, Any]:
        """The JSON of /status."""
        engine = self.serving.engine
        return {
            "node": self.settings.node,
            "state": self.status.state,
            "reason": self.status.reason,
            "refused": self.status.refused,
            "active": asdict(engine.release) if engine else None,
            "previous": asdict(self.pointer.previous) if self.pointer.previous else None,
            "desired": None if self.status.desired is None else {"version": self.status.desired},
            "quarantined": [asdict(refusal) for refusal in self.state.refusals()],
            "last_event": self.status.last_event,
            "uptime_s": round(time.monotonic() - self.status.started, 1),
            "trust": dict(self.pointer.highest),
        }

    def _desired(self) -> tuple[int | None, bool]:
        """The wanted version, and whether the newest is wanted instead."""
        file = self.settings.version_file
        if file is None:
            return self.settings.version or None, not self.settings.version
        try:
            return int(file.read_text().strip()), False
        except FileNotFoundError:
            return None, False
        except (OSError, ValueError) as error:
            self.status.event("bad_assignment", f"{file} holds no version: {error}")
            return self.status.desired, False

    def _refresh(self) -> tuple[Catalog, Repository]:
        scratch = self.state.scratch("metadata")
        trusted = self.state.metadata(self.pointer)
        repository = Repository(self.settings.releases, self.settings.root, scratch, trusted=trusted)
        catalog = repository.refresh(self.settings.name, self.pointer.highest)
        if catalog.highest != self.pointer.highest:
            self._remember(
                replace(self.pointer, highest=catalog.highest)
            )  # a replay of what was only looked at is refused
        return catalog, repository

    def _update(self, release: Release, repository: Repository, seen: Observation) -> None:
        self.status.state, self.status.reason, self.status.refused = "updating", f"to release {release.version}", ""
        try:
            engine = self._prepare(release, repository)
        except Unreachable as error:
            self.status.event(error.reason, str(error))
            self.status.state, self.status.reason = ("serving" if seen.active else "waiting"), str(error)
            return
        except RefusedRelease as error:
            self._refuse(Refuse(release.version, release.digest, error.reason, str(error)))
            return
        assert seen.catalog is not None
        self._activate(release, repository, engine, seen.catalog)

    def _prepare(self, release: Release, repository: Repository) -> Engine:
        """Everything that can fail happens before the pointer moves."""
        folder = self.state.scratch("candidate")
        self._failpoint("before_fetch")
        repository.fetch(release, folder)
        self._failpoint("fetched")
        try_release(folder)
        self._failpoint("tried")
        try:
            return Engine.load(self.state.folder(release))  # a legal revert: the release is still on disk, and whole
        except RefusedRelease:
            self.state.keep(folder, self.state.folder(release))
        self._failpoint("kept")
        return Engine.load(self.state.folder(release))

    def _activate(self, release: Release, repository: Repository, engine: Engine, catalog: Catalog) -> None:
        number = f"{time.time_ns():020d}"
        self.state.keep(repository.metadata, self.state.root / "metadata" / number)
        self._failpoint("before_flip")
        previous = self.pointer.active or self.pointer.previous
        pointer = Pointer(release, previous, number, catalog.highest, unfinished_starts=0, probation=True)
        self.state.flip(pointer)
        self.pointer = pointer
        self._failpoint("flipped")
        self.serving.swap(engine)
        self._served_since = time.monotonic()
        self.state.sweep(self.pointer)
        self.status.state, self.status.reason = "probation", ""
        self.status.event("activated", f"release {release.version} ({release.digest[:12]}) is served")

    def _serve(self, release: Release) -> None:
        """Load a release from disk, vouched for by the stored metadata."""
        folder, metadata = self.state.folder(release), self.state.metadata(self.pointer)
        engine = Engine.load(folder)
        if metadata is None:
            raise RefusedRelease("bad_signature", "no stored metadata vouches for the release")
        verify_offline(metadata, self.settings.root, (folder / MANIFEST).read_bytes(), release)
        self.serving.swap(engine)
        self._served_since = time.monotonic()
        self.status.state = "serving"

    def _revert(self, reason: str, message: str) -> None:
        """Leave the active release for the previous one, and never try it again."""
        bad = self.pointer.active
        assert bad is not None
        self.state.quarantine(Refusal(bad.version, bad.digest, reason, message))
        self._remember(replace(self.pointer, active=self.pointer.previous, previous=None, probation=False))
        self.status.event(reason, message)

    def _refuse(self, refused: Refuse) -> None:
        self.status.state = "serving" if self.serving.engine else "waiting"
        self.status.reason = f"release {refused.version} was refused: {refused.message}"
        self.status.refused = refused.reason
        self.status.event(refused.reason, refused.message)
        self.state.quarantine(Refusal(refused.version, refused.digest, refused.reason, refused.message))

    def _end_probation(self) -> None:
        if self.pointer.probation and time.monotonic() - self._served_since > PROBATION_S:
            self._remember(replace(self.pointer, probation=False, unfinished_starts=0))

    def _remember(self, pointer: Pointer) -> Pointer:
        self.state.remember(pointer)
        self.pointer = pointer
        return pointer
