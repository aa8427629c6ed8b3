"""A pytest plugin for tests that may hang or end their process: each has a limit, and the run can go on behind it.

    python -m pytest -p tests.watched --limit 30 --journal FILE --share 2/8

A test that takes longer than the limit, in seconds, ends the process and shows where its threads are: nothing else
interrupts a kernel that hangs. The journal has a line for each test that starts and for what becomes of it; the same
command, run again, leaves out what has started. Share 2/8 is the second of every eight tests.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Generator
from pathlib import Path

import pytest

STDERR = pytest.StashKey[int]()
OUTCOME = pytest.StashKey[str]()


def share(text: str) -> tuple[int, int]:
    i, n = map(int, text.split("/"))
    if not 1 <= i <= n:
        raise ValueError(text)
    return i, n


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("watched")
    group.addoption("--limit", type=float, required=True, metavar="SECONDS", help="of each test")
    group.addoption("--journal", type=Path, required=True, metavar="FILE", help="what has started, and its outcome")
    group.addoption("--share", type=share, default=(1, 1), metavar="I/N", help="the I-th of every N tests")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STDERR] = os.dup(2)  # what a test writes there is captured, and lost with the process


@pytest.hookimpl(trylast=True)  # of what -m leaves
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    i, n = config.getoption("share")
    journal: Path = config.getoption("journal")
    begun = {line.partition(" ")[2] for line in journal.read_text().splitlines()} if journal.exists() else set()
    mine = {item.nodeid for item in items[i - 1 :: n]} - begun
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in mine])
    items[:] = [item for item in items if item.nodeid in mine]


def note(item: pytest.Item, word: str) -> None:
    with item.config.getoption("journal").open("a") as journal:
        journal.write(f"{word} {item.nodeid}\n")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    note(item, "started")
    faulthandler.dump_traceback_later(item.config.getoption("limit"), exit=True, file=item.config.stash[STDERR])
    result = yield
    faulthandler.cancel_dump_traceback_later()
    note(item, item.stash[OUTCOME])
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" or report.outcome != "passed":
        item.stash[OUTCOME] = report.outcome
    if report.failed:  # pytest tells it at the end, which may never come
        os.write(item.config.stash[STDERR], f"\n{report.longreprtext}\n".encode())
    return report
