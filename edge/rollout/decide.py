"""What the rollout does next: a pure function of the target, the progress so far and what the nodes say.

    rolling -> baking -> rolling (next wave) -> ... -> done
        any of them -> stopped: every node is sent back to the release that the fleet last finished

One wave is open at a time. A node that is away (its kubelet is not heard) is never a failure: it gets the release of
its wave and catches up on return. Pods of another template than the target's are replaced wave by wave too, a few at
a time; that goes on when the rollout is done, for nodes that come back later.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from edge.rollout.model import Decision, NodeView, Progress, Target
from edge.rollout.verdicts import failure_limit, has_lapsed, has_old_pod, judge, keeps, wave_numbers

_MOST_AT_A_LOOK = 50  # pods that are deleted: each is a request, one after another


@dataclass(frozen=True)
class _Seen:
    """The fleet at this look."""

    target: Target
    nodes: Sequence[NodeView]
    waves: Mapping[str, int]
    verdicts: Mapping[str, str]
    now: float
    watched_s: float

    def of(self, verdict: str, among: Sequence[NodeView] | None = None) -> list[NodeView]:
        """The nodes with this verdict; among some, or among all."""
        return [node for node in (self.nodes if among is None else among) if self.verdicts[node.name] == verdict]

    def elapsed(self, since: float) -> float:
        """Seconds since then, by the clock and by what this process has watched: a clock may have jumped."""
        return min(self.now - since, self.watched_s)

    @property
    def away(self) -> int:
        """How many nodes of the whole fleet are not heard."""
        return sum(not node.is_heard for node in self.nodes)


def decide(
    target: Target,
    progress: Progress | None,
    nodes: Sequence[NodeView],
    *,
    now: float,
    assigned: Mapping[str, int],
    behind_s: Mapping[str, float] | None = None,
    watched_s: float = math.inf,
    resting: Collection[str] = (),
    stop: bool = False,
) -> Decision:
    """The next step of a rollout.

    Args:
        target: what is wanted.
        progress: where the rollout stands; None: nothing was ever rolled out.
        nodes: the whole fleet.
        now: unix seconds.
        assigned: node -> version, as it stands now.
        behind_s: for how long the nodes have been in `Decision.behind`; who is not in it was not until now.
        watched_s: for how long the caller has watched the progress's `phase` itself.
        resting: nodes whose pod was deleted so lately that the next one is not, should it be of an old template again.
        stop: the operator asks to stop this target.
    """
    if progress is None or not progress.is_of(target):
        progress = _start(target, progress, now)
    progress = _in_time(progress, target, now)
    waves = wave_numbers(target.waves, nodes)
    verdicts = judge(target, progress, nodes, waves, assigned=assigned, behind_s=behind_s or {})
    if not progress.is_over:
        seen = _Seen(target, nodes, waves, verdicts, now, watched_s)
        progress = _stopped(progress, "the operator stopped it") if stop else _next(progress, seen)
    open_now = [one for one in nodes if _is_open(progress, waves[one.name])]
    replaced: tuple[str, ...] = ()
    if progress.state != "stopped":
        replaced = _replace(target, nodes, open_now, verdicts, resting)
        progress = replace(progress, deletions=progress.deletions + len(replaced))
    behind = _behind(target, open_now, verdicts, {*replaced, *resting})
    assignment = _assignment(progress, target, nodes, waves, assigned=assigned, replaced=replaced)
    return Decision(progress, assignment, replaced, behind, waves, verdicts)


def _start(target: Target, before: Progress | None, now: float) -> Progress:
    if before is None:
        before = Progress(0, 0, None, 0, now, None, "stopped", "")
    is_done = before.state == "done"
    is_same = (before.version, before.runtime) == (target.version, target.runtime)
    if is_done and is_same and before.name in ("", target.name):
        # Another setting of the chart: there is nothing to move.
        return replace(before, revision=target.revision, name=target.name)
    return Progress(
        version=target.version,
        revision=target.revision,
        settled=before.version if is_done else before.settled,
        wave=0,
        since=now,
        baking_since=None,
        state="rolling",
        reason=_opened(0),
        runtime=target.runtime,
        settled_runtime=before.runtime if is_done else before.settled_runtime,
        name=target.name,
        settled_name=before.name if is_done else before.settled_name,
    )


def _in_time(progress: Progress, target: Target, now: float) -> Progress:
    """A clock that was set back must not make anything wait until it has caught up, nor fewer waves than there were."""
    baking, away = (None if one is None else min(one, now) for one in (progress.baking_since, progress.away_since))
    wave = min(progress.wave, len(target.waves) - 1)
    return replace(progress, since=min(progress.since, now), baking_since=baking, away_since=away, wave=wave)


def _next(progress: Progress, seen: _Seen) -> Progress:
    target, wave = seen.target, progress.wave
    if not seen.nodes:
        return replace(progress, state="rolling", baking_since=None, away_since=None, reason="there is no node yet")
    failed = seen.of("failed")
    if len(failed) >= failure_limit(target, len(seen.nodes)):
        return _stopped(progress, _why(failed, progress, target))
    opened = [node for node in seen.nodes if seen.waves[node.name] <= wave]
    if not opened:
        return _open_next(progress, seen)
    # A wave whose nodes have all left, or moved to another one, is judged by all that got the release before.
    here = [node for node in opened if seen.waves[node.name] == wave] or opened
    confirmed, pending = seen.of("confirmed", here), seen.of("pending", here)
    if not confirmed and not pending:
        if failed_here := seen.of("failed", here):
            return _stopped(progress, _why(failed_here, progress, target))
        return _all_away(progress, seen)
    progress = replace(progress, away_since=None)
    if progress.baking_since is None and pending:
        # No counts: each change is a write that the API server sends to every kubelet of the fleet.
        return replace(progress, reason=_opened(wave))
    return _bake(progress, seen, confirmed, pending)


def _bake(progress: Progress, seen: _Seen, confirmed: Sequence[NodeView], pending: Sequence[NodeView]) -> Progress:
    """The wave is finished, and watched."""
    wave = _name(progress.wave)
    lapsed = [node for node in pending if has_lapsed(node, seen.target)]
    if lapsed or not confirmed:
        who = (lapsed or pending)[0]
        reason = f"{wave}: node {who.name} is unwell again: {_trouble(who, seen.target)}"
        return replace(progress, state="rolling", baking_since=None, reason=reason)
    watched_s = 0.0 if progress.baking_since is None else seen.elapsed(progress.baking_since)
    began = seen.now if progress.baking_since is None else progress.baking_since
    progress = replace(progress, state="baking", baking_since=began)
    if watched_s < seen.target.bake_s:
        return replace(progress, reason=f"{wave} is watched for {seen.target.bake_s:g} s")
    if seen.of("pending"):
        return replace(progress, reason=f"{wave} is done; nodes that came back meanwhile must follow first")
    return _open_next(progress, seen)


def _all_away(progress: Progress, seen: _Seen) -> Progress:
    """No node of the open wave is heard: they are waited for. Only without a canary the rollout ends there."""
    wave, deadline_s = _name(progress.wave), seen.target.deadline_s
    if progress.away_since is None:
        progress, waited_s = replace(progress, state="rolling", away_since=seen.now, baking_since=None), 0.0
    else:
        waited_s = seen.elapsed(progress.away_since)
    if progress.wave == 0 and waited_s > deadline_s:
        return _stopped(progress, f"every node of {wave} was away for {deadline_s:g} s")
    is_last = all(number <= progress.wave for number in seen.waves.values())
    if seen.of("confirmed") and not seen.of("pending") and (is_last or waited_s > deadline_s):
        return _open_next(progress, seen)
    return replace(progress, reason=f"every node of {wave} is away")


def _open_next(progress: Progress, seen: _Seen) -> Progress:
    target, size = seen.target, len(seen.nodes)
    later = [number for number in seen.waves.values() if number > progress.wave]
    if not later:
        reason = f"release {target.version} is where it was sent"
        if seen.away:
            reason += f"; {seen.away} of {size} nodes are away and get it on their return"
        wave = len(target.waves) - 1
        return replace(progress, wave=wave, state="done", reason=reason, baking_since=None, away_since=None)
    if seen.away > target.away_percent * size / 100:
        return replace(progress, reason=f"over {target.away_percent:g} % of the nodes are away; no new wave opens")
    wave = min(later)  # one without nodes is passed over: there is nothing to watch
    opened = replace(progress, wave=wave, since=seen.now, baking_since=None, away_since=None)
    return replace(opened, state="rolling", reason=_opened(wave))


def _stopped(progress: Progress, reason: str) -> Progress:
    if progress.settled_runtime not in ("", progress.runtime):
        reason += "; helm rollback brings back the pods as they were"
    return replace(progress, state="stopped", reason=reason, baking_since=None, away_since=None)


def _why(failed: Sequence[NodeView], progress: Progress, target: Target) -> str:
    first = min(failed, key=lambda node: node.name)
    more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    refused = first.refused if first.desired == target.version and not has_old_pod(first, target) else ""
    return f"node {first.name}{more} failed: {refused or _trouble(first, target)}"


def _trouble(node: NodeView, target: Target) -> str:
    if has_old_pod(node, target):
        return "its pod is not of the chart's template though it was to be replaced; upgrade the chart again"
    if node.trouble:
        return "it has no pod" if node.trouble == "no pod" else f"its pod is in {node.trouble}"
    return "its pod is silent" if node.silent_s else f"it is still {node.state}"


def _name(wave: int) -> str:
    return f"wave {wave + 1}"


def _opened(wave: int) -> str:
    return f"{_name(wave)} is open"


def _is_open(progress: Progress, wave: int) -> bool:
    return progress.state == "done" or (progress.state != "stopped" and wave <= progress.wave)


def _replace(
    target: Target,
    nodes: Sequence[NodeView],
    open_now: Sequence[NodeView],
    verdicts: Mapping[str, str],
    resting: Collection[str],
) -> tuple[str, ...]:
    """The nodes whose pod goes now: at most as many at once as may fail, those first whose pod does not work anyway."""
    # On the whole fleet. One that has failed already is no reason for the others to wait.
    under_way = sum(
        verdicts[node.name] != "failed" and (node.name in resting if has_old_pod(node, target) else not node.is_ready)
        for node in nodes
        if node.is_heard
    )
    due = [node for node in open_now if node.is_heard and has_old_pod(node, target) and node.name not in resting]
    due.sort(key=lambda node: (node.is_ready, node.name))
    slots = min(_MOST_AT_A_LOOK, failure_limit(target, len(nodes)) - under_way)
    return tuple(node.name for node in due[: max(0, slots)])


def _behind(
    target: Target, open_now: Sequence[NodeView], verdicts: Mapping[str, str], replaced: Collection[str]
) -> frozenset[str]:
    """Whose time runs: heard, not done, and not only waiting for its pod's turn."""
    return frozenset(
        node.name
        for node in open_now
        if node.is_heard
        and verdicts[node.name] != "confirmed"
        and (node.name in replaced or not has_old_pod(node, target))
    )


def _assignment(
    progress: Progress,
    target: Target,
    nodes: Sequence[NodeView],
    waves: Mapping[str, int],
    *,
    assigned: Mapping[str, int],
    replaced: Sequence[str],
) -> dict[str, int]:
    assignment, now = {}, set(replaced)
    has_settled = progress.settled_name in ("", progress.name)
    for node in nodes:
        is_old = has_old_pod(node, target)
        # The new release goes with the new pod: the old one might refuse it for good.
        is_open = _is_open(progress, waves[node.name]) and (not is_old or node.name in now)
        if progress.state != "stopped":
            is_open |= keeps(progress, node.name, assigned)
        # A number of other releases means something only to the pods that were told their name.
        settled = progress.settled if is_old or has_settled else None
        version = progress.version if is_open else settled
        if version is not None:
            assignment[node.name] = version
    return assignment
