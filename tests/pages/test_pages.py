"""Report and history as a reader sees them: in a real browser, from a folder, with nothing fetched."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedistill import history_page
from edgedistill.history_page import INDEX, render_history, write_index
from edgedistill.report import build_page
from edgedistill.runs import save_record
from edgedistill.storage import DirectoryStore, pretty_json
from tests.pages.browser import Tab, browsing, find_browser
from tests.unit.report_fixture import ODD, make_run

pytestmark = pytest.mark.skipif(find_browser() is None, reason="chromium is not installed: apt-get install chromium")

FIRST, SECOND, MISSED = "20260101-000000-0001", "20260102-000000-0002", "20260103-000000-0003"
BROKEN = "20260104-000000-0004"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DirectoryStore:
    """Two finished runs of different settings, one that missed a gate, one that failed."""
    made = DirectoryStore(tmp_path_factory.mktemp("store"))
    for i, run_id in enumerate((FIRST, SECOND, MISSED)):
        record, steps = make_run(made, run_id=run_id, seed=i, passed=run_id != MISSED)
        if run_id == SECOND:
            record["config"]["distill"]["epochs"] = 7
            record["dataset"]["name"] = "flowers"
        save_record(made, record, build_page(made, record, steps))
    failed = {"run_id": BROKEN, "started": "2026-01-04T00:00:00Z", "finished": "2026-01-04T00:01:00Z"}
    failed |= {"target": "local", "status": "failed", "step": "ingest_images", "message": "no <img src=x onerror=y>"}
    made.put(f"runs/{BROKEN}/failed.json", pretty_json(failed | {"config": record["config"]}))
    write_index(made)
    return made


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    with browsing(tmp_path / "profile") as one:
        yield one


def address(store: DirectoryStore, key: str, state: str = "") -> str:
    return (store.root / key).as_uri() + state


def quiet(tab: Tab) -> None:
    """No complaint, and nothing asked of any network."""
    assert tab.complaints == []
    assert [one for one in tab.requests if not one.startswith(("file:", "data:"))] == []


def shown(tab: Tab) -> list[str]:
    runs: list[str] = tab.value("[...document.querySelectorAll('#list tbody tr')].map((row) => row.dataset.run)")
    return runs


def test_the_report_opens_and_fits_a_phone(store: DirectoryStore, tab: Tab) -> None:
    tab.open(address(store, f"runs/{FIRST}/report.html"))
    assert tab.value("document.querySelectorAll('svg').length") == 6
    assert tab.value("[...document.images].length") > 5
    assert tab.value("[...document.images].every((image) => image.naturalWidth > 0)"), "every picture decodes"
    assert all(name in tab.value("document.body.innerText") for name in ODD)
    tab.open(address(store, f"runs/{FIRST}/report.html"), width=380)
    assert tab.value("document.documentElement.scrollWidth") <= 380
    heights = tab.value("[...document.querySelectorAll('#models tbody td')].map((cell) => cell.clientHeight)")
    assert max(heights) < 40, "a number stands in one line"
    quiet(tab)


def test_the_history_filters_sorts_and_compares(store: DirectoryStore, tab: Tab) -> None:
    tab.open(address(store, INDEX))
    assert shown(tab) == [BROKEN, MISSED, SECOND, FIRST]
    assert tab.value("document.getElementById('compare').hidden")
    tab.value("{const q = document.getElementById('q'); q.value = 'flowers'; q.dispatchEvent(new Event('input'))}")
    tab.wait("document.querySelectorAll('#list tbody tr').length === 1")
    assert shown(tab) == [SECOND]
    assert "q=flowers" in tab.value("location.hash")
    tab.value("document.getElementById('clear').click()")
    tab.wait("document.querySelectorAll('#list tbody tr').length === 4")
    tab.value("document.querySelector('#list th button').click()")
    tab.wait("location.hash.includes('sort=run')")
    assert shown(tab) == [FIRST, SECOND, MISSED, BROKEN]
    for run_id in (FIRST, SECOND):
        tab.value(f"document.querySelector('tr[data-run=\"{run_id}\"] input').click()")
        tab.wait(f"location.hash.includes('{run_id}') && !document.getElementById('compare').hidden")
    tab.wait("document.querySelector('[data-part=settings]') !== null")
    differs = tab.value("document.querySelector('[data-part=settings]').innerText").split()
    assert differs[-3:] == ["distill.epochs", "24", "7"]
    assert tab.value("document.querySelectorAll('#charts circle.on').length") == 8, (
        "three lines and the sizes, of two runs"
    )
    tab.value("document.querySelector('#list tbody a').click()")
    tab.wait("location.href.endsWith('report.html')")
    quiet(tab)


def test_a_link_shows_the_same_page(store: DirectoryStore, tab: Tab) -> None:
    tab.open(address(store, INDEX, f"#status=failed&runs={FIRST},{MISSED}"))
    assert shown(tab) == [BROKEN]
    assert "ingest_images: no <img src=x onerror=y>" in tab.value("document.getElementById('list').innerText")
    heads = tab.value("[...document.querySelectorAll('[data-part=measures] th')].map((one) => one.innerText)")
    assert heads == ["measures", FIRST, MISSED]
    quiet(tab)


@pytest.mark.parametrize("count", [0, 1, 500])
def test_it_copes_with(count: int, store: DirectoryStore, tab: Tab, tmp_path: Path) -> None:
    from edgedistill.history import rows

    row = rows(store)[0]
    found = [row | {"run": f"20260101-{i:06d}-0000"} for i in range(count)]
    page = tmp_path / "page.html"
    page.write_text(render_history(found))
    tab.open(page.as_uri())
    assert len(shown(tab)) == count
    assert tab.value("document.getElementById('empty').hidden") == (count > 0)
    tab.open(page.as_uri(), width=380)
    assert tab.value("document.documentElement.scrollWidth") <= 380
    quiet(tab)


def test_a_page_that_asks_the_network_would_be_seen(store: DirectoryStore, tab: Tab, tmp_path: Path) -> None:
    """The same look at worse pages: `quiet` does see a request, a blocked request and an error."""
    text = (store.root / INDEX).read_text()
    asking = text.replace("</header>", '<img src="http://127.0.0.1:9/x.png"></header>')
    page = tmp_path / "page.html"
    page.write_text(asking)
    tab.open(page.as_uri())
    tab.wait("true")
    with pytest.raises(AssertionError, match="Content Security Policy"):
        quiet(tab)
    tab.complaints.clear()
    tab.requests.clear()
    page.write_text(asking.replace("Content-Security-Policy", "X-Nothing"))
    tab.open(page.as_uri())
    assert "http://127.0.0.1:9/x.png" in tab.requests
    with pytest.raises(AssertionError):
        quiet(tab)


def test_a_second_script_would_not_run(store: DirectoryStore, tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a run's text not kept inside the data, the policy would still stop it; without the policy it runs."""
    from edgedistill.history import rows

    evil = [rows(store)[0] | {"message": "</script><script>window.ran = true</script>", "status": "failed"}]
    page = store.root / "evil.html"
    page.write_text(render_history(evil))
    tab.open(page.as_uri())
    assert "window.ran = true" in tab.value("document.getElementById('list').innerText")
    quiet(tab)
    monkeypatch.setattr(
        history_page, "_inside_script", lambda value: history_page.Markup(history_page.json.dumps(value))
    )
    page.write_text(render_history(evil))
    tab.open(page.as_uri())
    assert tab.value("window.ran") is None
    page.write_text(render_history(evil).replace("Content-Security-Policy", "X-Nothing"))
    tab.open(page.as_uri())
    assert tab.value("window.ran") is True
