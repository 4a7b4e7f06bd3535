"""With REQUIRE_ALL=1 a skipped test is a failed one."""

import os

import pytest

# Before torch is loaded: two trainings whose threads spin on the same cores take ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    report = yield
    if report.skipped and os.environ.get("REQUIRE_ALL") == "1" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although REQUIRE_ALL=1: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the proofs counted, one line each."""
    reports = [one for group in terminalreporter.stats.values() for one in group if hasattr(one, "user_properties")]
    counts = sorted({str(value) for one in reports for name, value in one.user_properties if name == "proof"})
    if counts:
        terminalreporter.section("proofs")
        for count in counts:
            terminalreporter.write_line(count)
