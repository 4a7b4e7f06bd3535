"""With REQUIRE_ALL=1 a skipped test is a failed one."""

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two trainings with a thread for each core wait for each other: 65 s became 450 s.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    report = yield
    if report.skipped and os.environ.get("REQUIRE_ALL") == "1" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although REQUIRE_ALL=1: {report.longrepr}"
    return report
