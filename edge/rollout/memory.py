"""What a controller measures itself, and loses when it ends. All times are monotonic, in seconds."""

from dataclasses import dataclass, field

from edge.rollout.model import Decision, Progress, Target

REST_S = 60.0  # until a pod that replaced another may be deleted itself; doubled with each one


@dataclass
class Memory:
    """Of one target."""

    about: tuple[object, ...] = ()  # the target
    phase: tuple[object, ...] = ()  # of the progress
    phase_since: float = 0.0
    _behind: dict[str, float] = field(default_factory=dict)  # node -> since when
    _well: dict[str, float] = field(default_factory=dict)  # node that was behind -> since when it is not
    _deleted: dict[str, tuple[int, float]] = field(default_factory=dict)  # node -> how many of its pods; the last one

    def of(self, target: Target, progress: Progress | None, now: float) -> "Memory":
        """This memory, or a fresh one for another target; `phase_since` is that of the progress."""
        about = (target.name, target.version, target.revision, target.runtime)
        memory = self if self.about == about else Memory(about)
        phase = progress.phase if progress else ()
        if memory.phase != phase or not memory.phase_since:
            memory.phase, memory.phase_since = phase, now
        return memory

    def behind_s(self, now: float) -> dict[str, float]:
        """For how long each node has been behind. A moment in which it was not is no new beginning."""
        return {name: now - since for name, since in self._behind.items()}

    def resting(self, now: float) -> frozenset[str]:
        """Nodes whose pod is not deleted again yet: the DaemonSet may not know its new template so soon, or never."""
        return frozenset(
            name for name, (count, last) in self._deleted.items() if now - last < REST_S * 2 ** min(count - 1, 10)
        )

    def saw(self, decision: Decision, target: Target, now: float) -> None:
        """Take over who is behind. Who was well for as long as a wave is watched begins anew."""
        for name in decision.behind:
            self._behind.setdefault(name, now)
            self._well.pop(name, None)
        for name in list(self._behind):
            if name not in decision.behind:
                is_confirmed = decision.verdicts.get(name) == "confirmed"
                if not is_confirmed or now - self._well.setdefault(name, now) >= target.bake_s:
                    del self._behind[name]
                    self._well.pop(name, None)

    def deleted(self, node: str, now: float) -> None:
        """A pod of the node was deleted."""
        count, _ = self._deleted.get(node, (0, 0.0))
        self._deleted[node] = (count + 1, now)
