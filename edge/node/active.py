"""The release that a node serves, and the way back: boot without network, probation, the previous release."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from edge.node.catalog import Catalog
from edge.node.child import Child, Interrupted
from edge.node.disk import DiskTrouble
from edge.node.engine import Engine
from edge.node.serving import Serving
from edge.node.state import Pointer, Refusal, Release, State
from edge.node.status import Status
from edgedistill.bundle import MANIFEST
from edgedistill.errors import RefusedRelease

PROBATION_S = 20.0  # unless the operator says otherwise
PROBATION_STARTS = 3  # that died on probation
DISK_FAULTS = ("wrong_digest", "missing_file", "extra_file", "bad_manifest", "bad_signature")  # it was whole once
PROBATION_FAILURES = 5  # answers on probation that raised or were not finite


class Active:
    """What the pointer names and the engine answers from; every change of either is made here."""

    def __init__(
        self,
        state: State,
        serving: Serving,
        status: Status,
        *,
        root: bytes,
        memory_bytes: int,
        probation_s: float = PROBATION_S,
    ) -> None:
        self.state, self.serving, self.status = state, serving, status
        self.probation_s = probation_s
        self.pointer = state.pointer()
        self._root, self._memory_bytes = root, memory_bytes
        self._served_since = time.monotonic()

    @property
    def release(self) -> Release | None:
        """What is answered from."""
        return self.serving.engine.release if self.serving.engine else None

    @property
    def idle(self) -> str:
        """The state of a node that does nothing else."""
        return "serving" if self.serving.engine else "waiting"

    @property
    def on_probation(self) -> bool:
        """What is answered from has not yet proven itself; the one before has, while the active one cannot be had."""
        return self.pointer.probation and self.pointer.active == self.release

    def boot(self) -> None:
        """Serve what was served, without network and whatever the clock says; the previous release if that fails."""
        pointer = self.pointer
        if pointer.active and pointer.probation:
            pointer = self._remember(replace(pointer, unfinished_starts=pointer.unfinished_starts + 1))
            if pointer.unfinished_starts >= PROBATION_STARTS:
                self._revert("died", f"the release ended {PROBATION_STARTS} starts in a row")
        self.serve_stored()
        self.state.sweep(self.pointer)

    def close(self) -> None:
        """A node that is told to end has not died."""
        if self.pointer.unfinished_starts:
            self._remember(replace(self.pointer, unfinished_starts=self.pointer.unfinished_starts - 1))

    def serve_stored(self) -> None:
        """Serve the pointer's release, if it is not served; the previous one when it is not what was signed."""
        if self.pointer.active and self.pointer.active == self.release:
            return
        for release in filter(None, (self.pointer.active, self.pointer.previous)):
            if release == self.release:  # the previous one, while the active one cannot be had
                break
            try:
                self._serve(release)
            except OSError as error:  # the disk's fault, not the release's: it is fetched again
                trouble = DiskTrouble.of(error, f"release {release.version} cannot be read")
                self.status.event(trouble.reason, str(trouble))
            except (DiskTrouble, Interrupted) as error:  # not its fault either
                self.status.event(error.reason, str(error))
            except RefusedRelease as error:
                self.status.event(error.reason, str(error))
                if release == self.pointer.active:
                    self._revert(error.reason, str(error), is_its_fault=error.reason not in DISK_FAULTS)
            else:
                break

    def flip(self, release: Release, catalog: Catalog, *, metadata: str) -> None:
        """Point to a release that was tried; `swap` follows. Raises DiskTrouble: nothing has changed."""
        before = (self.pointer.active, self.pointer.previous)  # the active one is the same when its copy was damaged
        previous = next((one for one in before if one and one != release), None)
        pointer = Pointer(release, previous, metadata, catalog.highest, unfinished_starts=0, probation=True)
        self.state.flip(pointer)
        self.pointer = pointer

    def swap(self, engine: Engine) -> None:
        """Answer from `engine`."""
        self.serving.swap(engine)
        self._served_since = time.monotonic()
        self.status.state, self.status.reason = "serving", ""

    def saw(self, catalog: Catalog) -> None:
        """Remember the versions of the metadata: a replay of what was only looked at is refused."""
        if catalog.highest != self.pointer.highest:
            self._remember(replace(self.pointer, highest=catalog.highest))

    def is_failing(self) -> bool:
        """Too many answers of the release on probation raised or were not finite."""
        return self._failures() >= PROBATION_FAILURES

    def look_after_probation(self) -> None:
        """End it when its time is over; leave the release at once when its answers fail."""
        if self.is_failing():
            message = f"{self._failures()} answers of the release failed on probation"
            self._revert("failing", message)
            self.serve_stored()
            if self.pointer.active != self.release:  # there is none before, or it cannot be had just now
                self.serving.swap(None)  # alive and not ready is better than wrong
                self.status.state, self.status.reason = "waiting", message
        elif self.on_probation and time.monotonic() - self._served_since > self.probation_s:
            self._remember(replace(self.pointer, probation=False, unfinished_starts=0))

    def refuse(self, version: int, digest: str, reason: str, message: str) -> None:
        """Put a release in quarantine, once."""
        known = {(refusal.version, refusal.digest): refusal.reason for refusal in self.state.refusals()}
        if known.get((version, digest)) != reason:
            self.state.quarantine(Refusal(version, digest, reason, message))

    def _serve(self, release: Release) -> None:
        """Load a release from disk; a child checks meanwhile that the stored metadata vouches for it."""
        folder = self.state.folder(release)
        with ThreadPoolExecutor(2) as beside, Child(memory_bytes=self._memory_bytes) as child:
            # OpenVINO gives the thread that compiles a signal stack and frees it with the model: in the main thread,
            # where Python handles SIGTERM, the node would end by SIGSEGV once another release is served.
            compiled = beside.submit(Engine.load, folder)
            vouched = beside.submit(self._vouch, child, release)
            engine = compiled.result()
            vouched.result()
        if engine.release != release:
            raise RefusedRelease("wrong_digest", "the release on disk is not the signed one")
        self.swap(engine)

    def _vouch(self, child: Child, release: Release) -> None:
        """One of the two copies of the stored metadata must name the release. Raises RefusedRelease, Interrupted."""
        refused = RefusedRelease("bad_signature", "no stored metadata vouches for the release")
        for metadata in self.state.metadata_copies(self.pointer):
            try:
                manifest = self.state.folder(release) / MANIFEST
                return child.verify(metadata, self._root, manifest=manifest, release=release)
            except RefusedRelease as error:
                refused = error
        raise refused

    def _failures(self) -> int:
        engine = self.serving.engine
        return self.serving.failures_since(engine) if engine and self.on_probation else 0

    def _revert(self, reason: str, message: str, *, is_its_fault: bool = True) -> None:
        """Leave the active release for the previous one, and never try it again, unless the disk spoiled it."""
        bad = self.pointer.active
        assert bad is not None
        if is_its_fault:
            self.refuse(bad.version, bad.digest, reason, message)
        self._remember(replace(self.pointer, active=self.pointer.previous, previous=None, probation=False))
        self.status.event(reason, message)

    def _remember(self, pointer: Pointer) -> Pointer:
        self.state.remember(pointer)
        self.pointer = pointer
        return pointer
