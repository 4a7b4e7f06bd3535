"""When the fleet wants a run: a node whose answers drifted asks for one, or enough unsure pictures came."""

import time
from dataclasses import dataclass, field
from typing import Any

from edgedistill.place import Place

REST_S = 6 * 3600.0  # between two runs that the fleet starts: whoever holds a node's key must not keep a pipeline busy
_KEPT = 10_000  # requests that are remembered


@dataclass(frozen=True)
class Fleet:
    """The feedback of one data set's releases."""

    place: Place
    name: str  # of the data set
    pictures: int  # new ones that start a run
    judged: dict[str, bool] = field(default_factory=dict)  # documents that were read, in a bucket each a request

    def state(self) -> dict[str, Any]:
        """How many pictures and which requests there are now. Raises StorageError."""
        from components.ingest_images.source_feedback import Feedback

        found = Feedback(self.place.open(), self.name, self.judged)
        return {"pictures": found.count, "requests": sorted(found.requests)[-_KEPT:], "time": time.time()}

    def due(self, now: dict[str, Any], before: Any) -> str:
        """Why a run is wanted, fit for the screen; "" when none is, or the last one was just now."""
        known: dict[str, Any] = before if isinstance(before, dict) else {"pictures": 0, "requests": [], "time": 0.0}
        if 0 <= now["time"] - known["time"] < REST_S:
            return ""
        if asked := set(now["requests"]) - set(known["requests"]):
            return f"{len(asked)} requests of the fleet"
        more = now["pictures"] - known["pictures"]
        return f"{more:,} new pictures of the fleet" if more >= self.pictures else ""
