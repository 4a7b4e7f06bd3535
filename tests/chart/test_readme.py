"""What the chart's README says of its values is what values.yaml says."""

import re

import pytest
import yaml

from tests.chart.rendering import CHART, leaves

README = (CHART / "README.md").read_text()
VALUES = leaves(yaml.safe_load((CHART / "values.yaml").read_text()))


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    table = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return table[1:]


def test_the_table_lists_every_value_and_no_other() -> None:
    assert [row[0].strip("`") for row in rows("Values")] == list(VALUES)


def comments() -> dict[str, str]:
    """Dotted name -> what values.yaml says of it on its line."""
    found, above = {}, list[str]()
    for line in (CHART / "values.yaml").read_text().splitlines():
        if match := re.match(r"( *)([A-Za-z]+):(?:.*? # (.*))?", line):
            above = [*above[: len(match[1]) // 2], match[2]]
            found[".".join(above)] = match[3] or ""
    return found


@pytest.mark.parametrize("row", rows("Values"), ids=lambda row: row[0].strip("`"))
def test_the_table_gives_the_default_and_the_meaning(row: list[str]) -> None:
    name, default, meaning = row[0].strip("`"), row[1].strip("`"), row[2]
    assert yaml.safe_load(default) == VALUES[name]
    assert meaning == (comments()[name] or "a folder of the host instead: see State")
