"""Observe, decide, act: the loop that keeps a node on the release that it is told to serve."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edge.node.active import PROBATION_S, Active
from edge.node.catalog import Catalog, Unreachable
from edge.node.child import MEMORY_BYTES, Child, Interrupted
from edge.node.decide import Activate, Keep, Observation, Refuse, Trouble, decide
from edge.node.disk import DiskTrouble
from edge.node.engine import Engine
from edge.node.origin import Origin
from edge.node.serving import Serving
from edge.node.state import Release, State
from edge.node.status import Status
from edgedistill.bundle import read_bundle
from edgedistill.errors import RefusedRelease

PROBATION_LOOK_S = 1.0
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
    poll_s: float = 5.0  # between two looks, on average
    ca: Path | None = None  # certificates that an https origin may be signed by; None: the system's
    memory_bytes: int = MEMORY_BYTES  # of the child that updates
    probation_s: float = PROBATION_S  # of a new release


class Agent:
    """One node's agent. `failpoint(name)` is called between the steps of an update; tests end the process there."""

    def __init__(
        self, settings: Settings, state: State, serving: Serving, failpoint: Callable[[str], None] = lambda name: None
    ) -> None:
        self.settings, self.state, self.serving, self._failpoint = settings, state, serving, failpoint
        self.status = Status()
        self.also: Callable[[], dict[str, Any]] = dict  # more of /status
        self.active = Active(
            state,
            serving,
            self.status,
            root=settings.root,
            memory_bytes=settings.memory_bytes,
            probation_s=settings.probation_s,
        )
        self.origin = Origin(settings.releases, settings.poll_s, ca=settings.ca)
        self.stopping = threading.Event()  # set: a round that waits for its child ends at once
        self._child: Child | None = None  # while a round looks at the origin and updates
        self._asked: object = None  # what was wanted and what was in quarantine at the last look

    def boot(self) -> None:
        """Serve what was served, without network and whatever the clock says; the previous release if that fails."""
        self.active.boot()
        desired, follow = self._desired()
        if follow and self.active.release:  # it serves, and nobody has just asked for anything else
            self._asked = (desired, frozenset(self._refused()))
        self._tell_problem(None)

    def step(self) -> None:
        """One round. Never raises for what the world does."""
        before = self.state.problem
        self.state.settle()
        try:
            seen = self._observe()
            self._act(decide(seen), seen)
        except (Unreachable, Interrupted) as error:
            self.origin.failed()
            self._failed(error.reason, str(error))
        except DiskTrouble as trouble:
            self.origin.failed(longest_s=8 * self.settings.poll_s)
            self.state.clear()
            self.state.drop_partial()
            self.state.sweep(self.active.pointer)
            self._failed(trouble.reason, str(trouble))
        except Exception as error:  # no thread or process to be had, or a fault of our own: who serves, serves on
            _log.exception("a round failed")
            self.origin.failed(longest_s=8 * self.settings.poll_s)
            self._failed("internal_error", f"a round failed: {error!r}; it is tried again")
        finally:
            if self._child:
                self._child.close()
                self._child = None
        self._tell_problem(before)

    def pause_s(self) -> float:
        """Until the next round; short while the active release has to prove itself."""
        return min(self.origin.pause_s(), PROBATION_LOOK_S if self.active.on_probation else float("inf"))

    def describe(self) -> dict[str, Any]:
        """The JSON of /status."""
        pointer, engine = self.active.pointer, self.serving.engine
        is_on_probation = self.status.state == "serving" and self.active.on_probation
        return {
            "node": self.settings.node,
            "state": "probation" if is_on_probation else self.status.state,
            "reason": self.status.reason,
            "refused": self.status.refused,
            "active": asdict(engine.release) if engine else None,
            "previous": asdict(pointer.previous) if pointer.previous else None,
            "desired": None if self.status.desired is None else {"version": self.status.desired},
            "quarantined": [asdict(refusal) for refusal in self.state.refusals()],
            "last_event": self.status.last_event,
            "events": list(self.status.events),
            "uptime_s": round(time.monotonic() - self.status.started, 1),
            "trust": dict(pointer.highest),
            **self.also(),
        }

    def _observe(self) -> Observation:
        self.active.look_after_probation()
        self.active.serve_stored()  # where the disk or the child failed at boot
        desired, follow = self._desired()
        self.status.want(desired)
        active = self.active.release
        is_looking = follow or (desired is not None and not (active and active.version == desired))
        origin = self._look(desired) if is_looking else None
        if not is_looking:
            self._asked = None  # another wish, later, is news again: /status has lost what was said of it
        return Observation(self.settings.name, desired, follow, active, origin, self._refused())

    def _act(self, action: object, seen: Observation) -> None:
        if isinstance(action, Keep):
            self.status.state, self.status.reason, self.status.refused = action.state, action.reason, action.refused
        elif isinstance(action, Refuse):
            self._refuse(action)
        elif isinstance(action, Activate):
            assert isinstance(seen.origin, Catalog)  # a release can only be chosen from a catalog
            self._update(action.release, seen.origin)
        if seen.origin is not None and not self._is_another_left(seen):  # what this round refused itself is no news
            self._asked = (seen.desired, frozenset(self._refused()))
        if isinstance(seen.origin, Catalog):  # not before: an update that fails again and again is tried ever later
            self.origin.answered()

    def _is_another_left(self, seen: Observation) -> bool:
        """Whether an older release that was never tried is now the newest good one."""
        if not seen.follow_latest or seen.active != self.active.release:
            return False
        refused = self._refused()
        after = decide(replace(seen, refused=refused))
        return isinstance(after, Activate) and (after.release.version, after.release.digest) not in refused

    def _look(self, desired: int | None) -> Catalog | Trouble | None:
        """Ask the origin, by a child that stays for the update; None: nothing changed there."""
        before, self._asked = self._asked, (desired, frozenset(self._refused()))  # however this round ends
        try:
            if not self.origin.has_news(is_asked=self._asked != before):
                return None
            catalog = self._refresh(desired)
        except (Unreachable, Interrupted, RefusedRelease) as error:
            self.origin.failed()
            self.status.event(error.reason, str(error))
            return Trouble(error.reason, str(error), is_refusal=isinstance(error, RefusedRelease))
        self.active.saw(catalog)
        return catalog

    def _refresh(self, desired: int | None) -> Catalog:
        self._child = Child(lambda: self._is_wanted(desired), memory_bytes=self.settings.memory_bytes)
        return self._child.refresh(
            self.settings.releases,
            self.settings.root,
            name=self.settings.name,
            scratch=self.state.scratch("metadata"),
            trusted=self.state.metadata(self.active.pointer),
            highest=self.active.pointer.highest,
            ca=self.settings.ca,
        )

    def _update(self, release: Release, catalog: Catalog) -> None:
        self.status.state, self.status.reason, self.status.refused = "updating", f"to release {release.version}", ""
        try:
            engine = self._prepare(release)
        except RefusedRelease as error:
            self.state.drop_partial()  # before it is told: who reads it may end the node
            self._refuse(Refuse(release.version, release.digest, error.reason, str(error)))
        else:
            self._activate(release, engine, catalog)

    def _prepare(self, release: Release) -> Engine:
        """Everything that can fail happens before the pointer moves."""
        assert self._child is not None
        kept = self.state.folder(release)
        is_here = _is_whole(kept, release)  # a legal revert: the release is still on disk
        folder = kept if is_here else self.state.partial(release)
        self._failpoint("before_fetch")
        if not is_here:
            self._child.fetch(release, folder)
        self._failpoint("fetched")
        active = self.active.release
        self._child.try_release(folder, self.state.folder(active) if active else None)
        self._child.close()
        self._failpoint("tried")
        if not is_here:
            self.state.keep(folder, kept)
        self._failpoint("kept")
        return Engine.load(kept)

    def _activate(self, release: Release, engine: Engine, catalog: Catalog) -> None:
        number = f"{time.time_ns():020d}"
        self.state.keep_metadata(self.state.root / "tmp" / "metadata", number)
        self._failpoint("before_flip")
        self.active.flip(release, catalog, metadata=number)
        self._failpoint("flipped")
        self.active.swap(engine)
        self.state.sweep(self.active.pointer)
        if any(refusal.version == release.version for refusal in self.state.refusals()):
            self.state.forget(release.version)  # a damaged copy of it was refused before
        self.status.event("activated", f"release {release.version} ({release.digest[:12]}) is served")

    def _refuse(self, refused: Refuse) -> None:
        what = f"release {refused.version}" if refused.version else "the origin's list of releases"
        if refused.version:  # before it is told: who reads it may end the node
            self.active.refuse(refused.version, refused.digest, refused.reason, refused.message)
        self.status.state, self.status.refused = self.active.idle, refused.reason
        self.status.reason = f"{what} was refused: {refused.message}"
        self.status.event(refused.reason, refused.message)

    def _failed(self, reason: str, message: str) -> None:
        self.status.state, self.status.reason = self.active.idle, message
        self.status.event(reason, message)

    def _refused(self) -> dict[tuple[int, str], str]:
        return {(refusal.version, refusal.digest): refusal.reason for refusal in self.state.refusals()}

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

    def _is_wanted(self, desired: int | None) -> bool:
        """Asked while the child works, which may take an hour on a bad line."""
        if self.stopping.is_set() or self.active.is_failing() or self._desired()[0] != desired:
            return False
        self.active.look_after_probation()
        return True

    def _tell_problem(self, before: DiskTrouble | None) -> None:
        problem = self.state.problem
        if problem and (before is None or str(problem) != str(before)):
            self.status.event(problem.reason, str(problem))


def _is_whole(folder: Path, release: Release) -> bool:
    """Whether a release on disk is this one; who signs may list one release's digest under another's number."""
    try:
        manifest = read_bundle(folder)
        return Release(manifest.name, manifest.version, manifest.digest) == release
    except (RefusedRelease, OSError):
        return False
