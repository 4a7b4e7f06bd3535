"""The report: escaped, self-contained, and whole for every kind of run."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgedistill import charts
from edgedistill.report import build_page
from edgedistill.runs import headline
from edgedistill.storage import DirectoryStore
from tests.unit.report_fixture import ODD, make_run

VOID = {"meta", "img", "br", "link", "circle", "line", "rect", "polyline", "input"}


class Page(HTMLParser):
    """Tags and text; complains about tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open, tag
            assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page(tmp_path: Path, **options: object) -> Page:
    store = DirectoryStore(tmp_path)
    record, steps = make_run(store, **options)  # type: ignore[arg-type]
    return Page(build_page(store, record, steps))


def test_a_class_name_is_text_and_never_markup(tmp_path: Path) -> None:
    made = page(tmp_path)
    assert not [tag for tag, _ in made.tags if tag == "script"]
    for name in ODD:
        assert name in made.text, "shown as it was given"
    assert "<b>markup</b>" in made.text
    assert "<i>x</i>.png" in made.text


def test_without_escaping_the_same_page_would_hold_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DirectoryStore(tmp_path)
    record, steps = make_run(store)
    assert "<script>" not in build_page(store, record, steps)
    monkeypatch.setattr("edgedistill.report.AUTOESCAPE", False)
    assert "<script>alert(1)</script>" in build_page(store, record, steps)
    monkeypatch.setattr("edgedistill.report.AUTOESCAPE", True)
    monkeypatch.setattr(charts, "escape", lambda text: text)
    assert "<script>alert(1)</script>"[:14] in build_page(store, record, steps)


def test_nothing_is_fetched(tmp_path: Path) -> None:
    made = page(tmp_path)
    policy = next(a["content"] for tag, a in made.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    addresses = [a[n] for _, a in made.tags for n in ("src", "href", "xlink:href", "data") if a.get(n)]
    assert addresses, "there are pictures"
    assert all(str(address).startswith("data:image/") for address in addresses)
    assert not [tag for tag, _ in made.tags if tag in ("script", "link", "iframe", "object")]


def test_without_labels_it_says_so_and_shows_the_rest(tmp_path: Path) -> None:
    made = page(tmp_path, labeled=False)
    assert "No test image has a label, so accuracy was not measured" in made.text
    assert "there is no vanilla twin" in made.text
    assert "Where int8 and fp32 disagree" in made.text
    assert "gives the teacher's answer for" in made.text
    assert sum(tag == "svg" for tag, _ in made.tags) == 3, "loss, agreement, soft targets"


def test_many_classes_give_a_list_of_pairs_and_no_matrix(tmp_path: Path) -> None:
    names = tuple(f"class-{i:03d}" for i in range(256))
    made = page(tmp_path, labels=names, images=300)
    assert not [a for tag, a in made.tags if tag == "svg" and "Confusion" in str(a.get("aria-label"))]
    assert "kinds of mistake are shown" in made.text
    assert re.search(r"class-\d{3} taken for class-\d{3}", " ".join(made.text.split()))


def test_a_missed_gate_is_the_first_thing_said(tmp_path: Path) -> None:
    made = page(tmp_path, passed=False)
    assert "Nothing was released, a gate was missed (int8 net images lost)." in made.text
    assert "not released" in made.text


def test_a_picture_that_is_gone_spoils_nothing(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    record, steps = make_run(store)
    for key in list(store.list("datasets/odd/images/")):
        store.delete(key)
    assert "picture" in Page(build_page(store, record, steps)).text


@pytest.mark.parametrize("shape", [(1, 400), (400, 3), (28, 28), (300, 500)])
def test_pictures_of_every_shape_are_small(tmp_path: Path, shape: tuple[int, int]) -> None:
    store = DirectoryStore(tmp_path)
    record, steps = make_run(store, shape=shape)
    text = build_page(store, record, steps)
    assert len(text) < 400_000
    assert "picture<br>is gone" not in text


def test_a_line_of_one_point_and_a_flat_line_are_drawn() -> None:
    one = charts.lines("t", [charts.Series("a", 0, [(1, 0.5)])], x_title="x")
    flat = charts.lines("t", [charts.Series("a", 0, [(1, 0.0), (2, 0.0)])], x_title="x", log=True)
    assert "nan" not in one + flat
    assert one.count("<circle") == 1
    assert charts.lines("t", [charts.Series("a", 0, [])], x_title="x") == ""


def test_the_headline_counts_what_has_a_label(tmp_path: Path) -> None:
    record, _ = make_run(DirectoryStore(tmp_path))
    count = record["dataset"]["test"]
    assert f"of {count} test images, the teacher" in headline(record)
    record["dataset"]["test_labeled"] = 3
    assert "of 3 test images with a label, the teacher" in headline(record)
