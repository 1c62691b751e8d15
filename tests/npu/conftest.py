"""Runs the tests of this folder on the simulated NPU, in a process of their own.

The device cannot be taken back, and torch would see an accelerator in every other test. Nor can it
come later: it must be there before the process's first backward pass. So pytest starts itself once
more for this folder, with a process for each processor, and each test is reported here as if it had
run here. To debug one in a single process:
DANLU_TESTS_ON_NPU=/dev/null pytest tests/npu -k NAME --pdb
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from danlu.model import checkpointing as again
from danlu.ops import ops_table
from tests.helpers.models.variants import ascend_variants
from tests.sim.pageable import PLACES
from tests.sim.record import Record, recording

# Set in the second process: the file that takes its reports, a JSON object a line.
VARIABLE = "DANLU_TESTS_ON_NPU"
HERE = Path(__file__).parent
Reports = dict[str, list[pytest.TestReport]]
_reports = pytest.StashKey[Reports]()
_summary = pytest.StashKey[str]()

if VARIABLE in os.environ:
    from tests.sim import npu

    if not npu.missing_api():
        npu.register()


@pytest.fixture(autouse=True, scope="session")
def _the_same_kernels_on_the_cpu() -> Iterator[None]:
    """Let both devices compute with the same variants: others round otherwise.

    Then the tests may ask for the same bits.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "DANLU_OPS",
            "attention=sdpa,adamw=unfused,cache=paged,cross_entropy=in_place,residual=last,rms_norm=torch,"
            "rotated_qkv=as_one,swiglu=torch,grouped_linear=reference,low_rank=by_target,"
            "add_norm=reference",
        )
        # A device written in Python has no allocator for pinned memory.
        patch.setattr(again, "to_host", lambda tensor: tensor.to("cpu"))
        with sdpa_kernel(SDPBackend.MATH):
            # Here, so that no test counts what the variants' trials do.
            for kind in ("cpu", "npu"):
                ops_table(torch.device(kind))
            yield


@pytest.fixture
def fused() -> Iterator[None]:
    """Compute with Ascend's fused kernels, as a card does by itself."""
    with ascend_variants():
        yield


@pytest.fixture(autouse=True, scope="session")
def _session(_the_same_kernels_on_the_cpu: None) -> Iterator[Record]:
    with recording() as record:
        yield record


@pytest.fixture(autouse=True)
def _no_test_asks_a_card_for_more_than_it_can(_session: Record) -> Iterator[None]:
    """Fail also where danlu takes a refusal for a request's own fault, and goes on.

    And where it copies pageable memory to the device at a place that is not known for it. What
    fixtures of a module do counts for the first test that wants them.
    """
    yield
    refused = _session.refused.copy()
    pageable = _session.pageable.keys() - PLACES.keys() - {"outside"}
    _session.clear()
    assert not refused
    assert not pageable


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from tests.sim import npu

    lacking = npu.missing_api()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.npu)
            if VARIABLE not in os.environ:
                # The first of them waits for all; each has its own limit in the other process.
                item.add_marker(pytest.mark.timeout(0))
            if lacking:
                item.add_marker(pytest.mark.skip(reason=f"no simulated NPU: {lacking}"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # Of several processes each writes what it ran itself; the first one is only told.
    if VARIABLE in os.environ and not hasattr(report, "node"):
        name = os.environ[VARIABLE] + os.environ.get("PYTEST_XDIST_WORKER", "")
        with open(name, "a", encoding="utf-8") as file:
            file.write(json.dumps(report._to_json()) + "\n")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    # pytest asks here about every test of the session, not only about those of this folder.
    if VARIABLE in os.environ or HERE not in item.path.parents:
        return None
    session = item.session
    if _reports not in session.stash:
        nodes = [one.nodeid for one in session.items if HERE in one.path.parents]
        started = time.perf_counter()
        session.stash[_reports] = _run(nodes, session.config.rootpath)
        seconds = time.perf_counter() - started
        called = [r for some in session.stash[_reports].values() for r in some if r.when == "call"]
        session.config.stash[_summary] = (
            f"{len(called)} tests ran on the simulated NPU, in {seconds:.0f} s"
        )
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in session.stash[_reports][item.nodeid]:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if _summary in config.stash:
        terminalreporter.write_line(config.stash[_summary])


def _run(nodes: list[str], root: Path) -> Reports:
    """Run tests in another process; a test that it could not run has its output as the failure."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        file = Path(folder) / "reports"
        # Which ones, soak or not, has been decided here.
        command = [sys.executable, "-m", "pytest", "-m", "", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, *_at_once(nodes), *nodes],
            cwd=root,
            env={**_outside_of_xdist(), VARIABLE: str(file)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        texts = [part.read_text(encoding="utf-8") for part in Path(folder).iterdir()]
    lines = "".join(texts).splitlines()
    reports: Reports = {node: [] for node in nodes}
    for line in lines:
        report = pytest.TestReport._from_json(json.loads(line))
        if isinstance(report.longrepr, list):  # of a skipped test; JSON knows no tuples
            report.longrepr = tuple(report.longrepr)
        reports[report.nodeid].append(report)
    for node in nodes:
        if not any(report.when == "teardown" for report in reports[node]):
            reports[node].append(_broken(node, done.stdout))
    return reports


def _at_once(nodes: list[str]) -> list[str]:
    """Several files are run on several processors."""
    files = {node.partition("::")[0] for node in nodes}
    number = min(len(files), len(os.sched_getaffinity(0)), 4)
    # In the order of their names: in that of their numbers of tests the file with the fewest and
    # longest would come last, when nothing is left to run beside it.
    order = ["--dist", "loadfile", "--no-loadscope-reorder"]
    return ["-n", f"{number}", *order] if number > 1 else []


def _outside_of_xdist() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "PYTEST_XDIST" not in name}


def _broken(node: str, output: str) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=node,
        location=(node.partition("::")[0], None, node),
        keywords={},
        outcome="failed",
        longrepr=f"the process that should run it said:\n{output}",
        when="call",
    )
