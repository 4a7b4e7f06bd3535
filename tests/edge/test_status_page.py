"""The page of /status: what stands on it in each state, that nothing gets out of its quotes, and how it looks."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edge.node import advice
from edge.node.status_page import HEADERS, prefers_page, render
from tests.pages.browser import browsing, find_browser

ROOT = Path(__file__).resolve().parents[2]
DIGEST = "3f6c1a9be1" * 6 + "3f6c"
OLD, NEW = ({"name": "demo", "version": version, "digest": DIGEST} for version in (11, 12))
SERVING: dict[str, Any] = {
    "node": "edge-07",
    "state": "serving",
    "reason": "",
    "refused": "",
    "active": NEW,
    "previous": OLD,
    "desired": {"version": 12},
    "quarantined": [],
    "last_event": {"reason": "activated", "message": "release 12 is served", "time": "2026-08-01T09:14:02Z"},
    "uptime_s": 93784.2,
    "trust": {},
}
REFUSAL = {"version": 12, "digest": DIGEST, "reason": "wrong_digest", "message": "a file is not what was signed"}
REFUSED = SERVING | {"active": OLD, "refused": "wrong_digest", "quarantined": [REFUSAL]}
NOTHING: dict[str, Any] = {"active": None, "previous": None, "last_event": {}}
OFFLINE_EVENT = {"reason": "unreachable", "message": "timed out", "time": "2026-08-01T09:14:02Z"}


def text(status: dict[str, Any]) -> str:
    """What a reader sees, tags and style aside."""
    page = re.sub(r"<style>.*?</style>", "", render(status), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (SERVING, ["Serving", "Nothing has to be done", "demo 12", "demo 11", "up 1 day", "A new release is served."]),
        (REFUSED, ["Serving, not what was asked", "A file is not what was signed.", "Mend the copy"]),
        (SERVING | NOTHING | {"state": "waiting", "desired": None}, ["Waiting", "Nothing is wrong.", "nothing"]),
        (
            SERVING | NOTHING | {"state": "waiting", "last_event": OFFLINE_EVENT},
            ["Waiting", "does not answer.", "Check the network"],
        ),
        (SERVING | {"state": "probation"}, ["Serving, on probation"]),
        (SERVING | {"state": "updating", "reason": "to release 13"}, ["Updating", "to release 13"]),
        (SERVING | {"state": "hovering", "refused": "odd"}, ["hovering", "The reason is odd."]),
    ],
)
def test_it_says_what_is_and_what_to_do(status: dict[str, Any], said: list[str]) -> None:
    page = text(status)
    for words in said:
        assert words in page


def test_a_trouble_that_is_over_asks_for_nothing() -> None:
    assert "Nothing has to be done" in text(SERVING | {"last_event": OFFLINE_EVENT})
    trouble = {"reason": "disk_full", "message": "the disk is full", "time": ""}
    assert "Make space." in text(SERVING | {"last_event": trouble}), "a full disk is shown while it serves, too"


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, list[tuple[str, str | None]]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, attrs))


def hostile(value: Any) -> Any:
    """The same document with something in every text that would run if it were not escaped."""
    if isinstance(value, dict):
        return {key: hostile(one) for key, one in value.items()}
    if isinstance(value, list):
        return [hostile(one) for one in value]
    return (
        f"{value}'\"></style><script>alert(1)</script><img src=x onerror=alert(1)>" if isinstance(value, str) else value
    )


def tags(page: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    parser = Tags()
    parser.feed(page)
    return parser.seen


def test_nothing_gets_out_of_its_quotes() -> None:
    tame = {tag for tag, _ in tags(render(REFUSED))}
    wild = tags(render(hostile(REFUSED)))
    assert {tag for tag, _ in wild} <= tame
    assert not {"script", "img"} & tame
    assert not [name for _, attributes in wild for name, _ in attributes if name.startswith("on") or name == "src"]


def test_negative_control_unescaped_the_same_text_gets_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.node.status_page.escape", lambda value: value)
    assert "script" in {tag for tag, _ in tags(render(hostile(REFUSED)))}


@pytest.mark.parametrize(
    ("accept", "page"),
    [
        (None, False),
        ("*/*", False),
        ("application/json", False),
        ("text/html", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("application/json, text/html;q=0.5", False),
        ("text/html;q=0.9, application/json;q=0.1", True),
        ("text/html;q=0", False),
        (";;;,q=,", False),
    ],
)
def test_json_unless_html_is_preferred(accept: str | None, page: bool) -> None:
    assert prefers_page(accept) is page


def test_every_reason_of_the_node_has_words_and_a_line_in_the_manual() -> None:
    source = "".join(path.read_text() for path in (ROOT / "edge" / "node").glob("*.py"))
    source += (ROOT / "edgedistill" / "bundle.py").read_text()
    calls = (
        r"(?:RefusedRelease|DiskTrouble|Refuse|Keep|_revert|\.event)\(\s*(?:[\w.]+, ){0,2}?f?\"([a-z]+(?:_[a-z]+)*)\""
    )
    used = set(re.findall(calls, source)) - {"serving", "waiting"}
    assert {"wrong_digest", "activated", "bad_manifest"} <= used
    assert used <= set(advice.REASONS), used - set(advice.REASONS)
    manual = (ROOT / "docs" / "node.md").read_text()
    for name in (*advice.REASONS, *advice.STATES):
        assert f"| `{name}` |" in manual, name


@pytest.mark.skipif(find_browser() is None, reason="no chromium")
def test_it_loads_nothing_and_fits_a_telephone(tmp_path: Path) -> None:
    page = tmp_path / "status.html"
    page.write_text(render(hostile(REFUSED) | {"node": "n" * 120}))
    with browsing(tmp_path / "profile") as tab:
        for width in (360, 1200):
            tab.open(page.as_uri(), width=width)
            assert tab.value("document.documentElement.scrollWidth <= window.innerWidth")
            assert float(tab.value("parseFloat(getComputedStyle(document.querySelector('h1')).fontSize)")) >= 30
        assert not tab.complaints
        assert [one for one in tab.requests if not one.startswith("file:")] == []


def test_its_headers_forbid_scripts() -> None:
    assert "default-src 'none'" in HEADERS["Content-Security-Policy"]
    assert "script" not in HEADERS["Content-Security-Policy"]
