"""What a node says of itself."""

import logging
import time
from collections import deque
from dataclasses import dataclass, field

KEPT_EVENTS = 20
_log = logging.getLogger("edge.node")


@dataclass
class Status:
    """What /status shows."""

    state: str = "starting"
    reason: str = ""
    desired: int | None = None
    refused: str = ""  # slug: why the desired release is not served; empty: it is not refused
    last_event: dict[str, str] = field(default_factory=dict)
    events: deque[dict[str, str]] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))  # oldest first
    started: float = field(default_factory=time.monotonic)

    def want(self, desired: int | None) -> None:
        """Take over what is wanted; what was said of another release goes first, as /status is read at any moment."""
        if desired != self.desired:
            self.refused = ""
            self.reason = "" if desired is None else f"release {desired} is wanted"
            self.desired = desired

    def event(self, reason: str, message: str) -> None:
        """Remember and log what happened last; the same again says nothing new."""
        if (self.last_event.get("reason"), self.last_event.get("message")) == (reason, message):
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.last_event = {"reason": reason, "message": message, "time": now}
        self.events.append(self.last_event)
        _log.info("%s: %s", reason, message)
