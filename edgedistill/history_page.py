"""The history of runs as one page: data and script inside, nothing fetched, works from a folder without a server."""

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from edgedistill.errors import SwapConflict
from edgedistill.history import Row, rows
from edgedistill.storage import ObjectStore

INDEX = "runs/index.html"  # a HEAD file: rewritten after each run, by compare-and-swap
ATTEMPTS = 10


def render_history(found: list[Row], *, reports: str = "") -> str:
    """The page.

    Args:
        found: from `edgedistill.history.rows`.
        reports: put before each report's relative address; empty for a page that lies in `runs/`.
    """
    script = files("edgedistill").joinpath("history.js").read_text()
    environment = Environment(loader=PackageLoader("edgedistill", "."), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("history.html.jinja").render(
        data=_inside_script({"runs": found, "reports": reports}),
        script=Markup(script),
        # The policy names the one script that may run, so a run's name can never become a second one.
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def write_index(store: ObjectStore) -> None:
    """Write `runs/index.html` anew.

    Raises:
        SwapConflict: others wrote it at the same time, ATTEMPTS times.
    """
    for attempt in range(1, ATTEMPTS + 1):
        before = store.get(INDEX) if store.exists(INDEX) else None
        page = render_history(rows(store)).encode()
        try:
            if page != before:
                store.swap(INDEX, page, expected=before)
        except SwapConflict:
            if attempt == ATTEMPTS:
                raise
        else:
            return


def _inside_script(value: Any) -> Markup:
    """JSON that cannot end the script element around it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
