"""Says which lane each test is in, and chooses the tests of a run by lane.

`quick`    needs nothing but this Python process and temporary files.
`test`     needs more: other processes, root, npm, a registry, an engine or several seconds. Every test in
           acceptance/ and contract/ is here, and every test with the mark `system`.
`torture`  repeats for every parameter what one case in `test` covers, or takes long: the mark `torture`.

`--lane NAME` runs the lanes up to `test`, or `torture` alone; without it, pytest runs whatever it is given.
`--torture-seconds` adds a slice of torture to `--lane test`: whole cases that took about so long when
`--torture-record` wrote torture-seconds.json. The seed decides which, so that a run can be repeated.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
SYSTEM_FOLDERS = ("acceptance", "contract")
SECONDS_FILE = TESTS / "torture-seconds.json"
UNKNOWN_SECONDS = (0.0, 10.0)
"""Set-up and one case, of a function that torture-seconds.json does not have."""

PROCESS_EVENTS = {"subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
"""Python's audit events for the start of a process."""


def first_in_test(values: Iterable[Any], count: int = 1) -> list[Any]:
    """Parameters of which the first `count` stay in the lane `test`; the others go into `torture`."""
    listed = list(values)
    return [*listed[:count], *(torture(value) for value in listed[count:])]


def torture(value: Any) -> Any:
    """One parameter (or a tuple of several) that is only in the lane `torture`."""
    values = value if isinstance(value, tuple) else (value,)
    return pytest.param(*values, marks=pytest.mark.torture)


def lane(item: pytest.Item) -> str:
    """The lane of a test: `quick`, `test` or `torture`."""
    if item.get_closest_marker("torture"):
        return "torture"
    folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
    return "test" if folder in SYSTEM_FOLDERS or item.get_closest_marker("system") else "quick"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lanes")
    group.addoption("--lane", choices=("quick", "test", "torture"), help="run the tests of this lane")
    group.addoption("--torture-seconds", type=int, default=0, help="add torture tests that take so long")
    group.addoption("--torture-seed", type=int, help="choose the torture tests that this number chose before")
    group.addoption("--torture-record", action="store_true", help="keep how long each test took")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # all processes of one run choose the same cases
        config.option.torture_seed = config.workerinput["torture_seed"]
    elif config.option.torture_seed is None:
        config.option.torture_seed = secrets.randbelow(1_000_000)
    if config.option.torture_record and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SecondsRecorder())
    config.pluginmanager.register(ProcessGuard())


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Gives a worker of xdist the seed."""
    node.workerinput["torture_seed"] = node.config.option.torture_seed


def _slice_text(config: pytest.Config) -> str:
    if not config.option.torture_seconds:
        return ""
    seed = config.option.torture_seed
    return f"{config.option.torture_seconds} s of torture with seed {seed}: --torture-seed {seed} repeats it"


def pytest_report_header(config: pytest.Config) -> str:
    return _slice_text(config)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if text := _slice_text(config):
        terminalreporter.write_line(text)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = config.option.lane
    if not chosen:
        return
    lanes = {"quick": ("quick",), "test": ("quick", "test"), "torture": ("torture",)}[chosen]
    kept = {item for item in items if lane(item) in lanes}
    if seconds := config.option.torture_seconds:
        hard = [item for item in items if lane(item) == "torture"]
        kept |= set(torture_slice(hard, seconds, config.option.torture_seed))
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def torture_slice(items: Sequence[pytest.Item], seconds: float, seed: int) -> Iterator[pytest.Item]:
    """Cases that together take about `seconds`: function by function, in an order that the seed decides.

    Cases of one function share its set-up, so a few functions are tried well rather than each one once.
    One function takes at most a quarter of the time.
    """
    recorded = recorded_seconds()
    functions = defaultdict(list)
    for item in items:
        functions[function_of(item.nodeid)].append(item)

    def rank(name: str) -> bytes:
        return hashlib.sha256(f"{seed} {name}".encode()).digest()

    left = seconds
    for function in sorted(functions, key=rank):
        setup, case = recorded.get(function, UNKNOWN_SECONDS)
        if setup + case > left:
            continue
        count = max(1, int((min(left, seconds / 4) - setup) / max(case, 0.01)))
        chosen = sorted(functions[function], key=lambda item: rank(item.nodeid))[:count]
        left -= setup + case * len(chosen)
        yield from chosen


def recorded_seconds() -> dict[str, list[float]]:
    """Of each function of the lane `torture`: the seconds of its set-up, and of one case."""
    return json.loads(SECONDS_FILE.read_text())  # type: ignore[no-any-return]


def function_of(nodeid: str) -> str:
    """The test function of a case."""
    return nodeid.partition("[")[0]


class SecondsRecorder:
    """Measures what `recorded_seconds` reads, and writes it when the run is over."""

    def __init__(self) -> None:
        self._setup: Counter[str] = Counter()
        self._case: Counter[str] = Counter()
        self._count: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        function = function_of(report.nodeid)
        (self._setup if report.when == "setup" else self._case)[function] += report.duration
        self._count[function] += report.when == "call"

    def pytest_sessionfinish(self) -> None:
        measured = {
            name: [round(self._setup[name], 2), round(self._case[name] / count, 2)]
            for name, count in self._count.items()
            if count
        }
        lines = [
            f"  {json.dumps(name)}: {json.dumps(seconds)}"
            for name, seconds in sorted((recorded_seconds() | measured).items())
        ]
        SECONDS_FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


class ProcessGuard:
    """Fails a test in the lane `quick` that starts a process."""

    def __init__(self) -> None:
        self._watching = False
        self._seen: list[str] = []
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in PROCESS_EVENTS and self._watching:
            self._seen.append(f"{event} {arguments[:1]}")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        self._seen.clear()
        self._watching = lane(item) == "quick"
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        try:
            return (yield)
        finally:
            self._watching = False
            if self._seen:
                pytest.fail(
                    f"{item.nodeid} is in the lane `quick` and starts a process ({self._seen[0]}):"
                    " mark it with @pytest.mark.system",
                    pytrace=False,
                )
