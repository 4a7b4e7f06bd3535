"""Each row of the README's table of cases has a test that bears its name, and no test bears another."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
README = TESTS.parent / "helm" / "student-edge" / "README.md"
MARK = re.compile(r"^@pytest\.mark\.case\(\"(.+)\"\)$", re.MULTILINE)
ROW = re.compile(r"^\| \*\*(.+?)\*\* \|", re.MULTILINE)


def test_each_row_has_a_test() -> None:
    rows = ROW.findall(README.read_text())
    files = [*TESTS.glob("cluster/test_*.py"), *TESTS.glob("unit/test_rollout*.py")]
    marks = {name for file in files for name in MARK.findall(file.read_text())}
    assert len(rows) == len(set(rows)) >= 19
    assert set(rows) == marks
