"""Payloads write the bytes that are written down for their revision, with every backend.

UPDATE_GOLDEN=1 writes the golden file anew, as far as its rules allow it; see `tests/support/golden_bytes.py`.
"""

from __future__ import annotations

import json
import os
import pkgutil
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import pytest

from orchestrator import payloads
from orchestrator.payloads.revisions import PACKAGE, REVISIONS
from orchestrator.quantization.formats import kernels
from tests.support import golden_bytes
from tests.support.golden_bytes import Found, Golden, faults, updated
from tests.support.oracle import Environment, find_environment
from tests.support.payload_bytes import Outcome, by_compiled_loops, by_definition, by_gpu_arithmetic


@dataclass(frozen=True)
class WithTorch:
    """What an interpreter with torch found."""

    outcome: Outcome
    on_a_gpu: bool


def run_torch(environment: Environment, folder: Path) -> WithTorch:
    first_gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    said = json.loads(environment.run("-m", "tests.support.torch_bytes", folder, CUDA_VISIBLE_DEVICES=first_gpu))
    return WithTorch({payload: Found(**found) for payload, found in said["found"].items()}, said["on_a_gpu"])


@pytest.fixture(scope="module")
def defined(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return by_definition(tmp_path_factory.mktemp("defined"))


@pytest.fixture(scope="module")
def golden(defined: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Golden]:
    if os.environ.get("UPDATE_GOLDEN"):
        torch = None
        with suppress(pytest.skip.Exception):  # without torch the cases that it runs stay as they are
            torch = run_torch(find_environment(), tmp_path_factory.mktemp("torch"))
        update(defined, torch)
    return golden_bytes.read()


def update(defined: Outcome, torch: WithTorch | None) -> None:
    """Write the golden file anew; nothing is written where one payload may not change."""
    recorded = golden_bytes.read()
    outcomes = [defined, torch.outcome] if torch else [defined]
    made = {}
    for payload, revision in REVISIONS.items():
        found = reduce(Found.and_then, (outcome.get(payload, Found()) for outcome in outcomes))
        proved = torch is not None and torch.on_a_gpu
        made[payload] = updated(payload, revision, recorded.get(payload), found, proved=proved)
    golden_bytes.write(made)


def compare(golden: Mapping[str, Golden], outcome: Outcome) -> None:
    said = [
        fault
        for payload, found in outcome.items()
        for fault in faults(payload, REVISIONS[payload], golden.get(payload), found)
    ]
    assert not said, "\n".join(said)


def test_every_payload_declares_a_revision_and_has_golden_bytes(golden: Mapping[str, Golden]) -> None:
    modules = {module.name for module in pkgutil.iter_modules(payloads.__path__)}
    runnable = {name for name in modules if not name.startswith("_")} - {"revisions"}
    assert f"{payloads.__name__}." == PACKAGE
    assert REVISIONS.keys() == runnable == golden.keys()
    assert all(one.found.digests for one in golden.values())


def test_the_definitions_give_the_golden_bytes(golden: Mapping[str, Golden], defined: Outcome) -> None:
    compare(golden, defined)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_compiled_loops_give_the_golden_bytes(golden: Mapping[str, Golden], tmp_path: Path) -> None:
    assert kernels.compile_here(threads=2)
    try:
        compare(golden, by_compiled_loops(tmp_path))
    finally:
        kernels.forget()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_arithmetic_of_gpus_gives_the_golden_bytes(golden: Mapping[str, Golden], tmp_path: Path) -> None:
    compare(golden, by_gpu_arithmetic(tmp_path))


@pytest.mark.oracle
@pytest.mark.timeout(600)
def test_torch_gives_the_golden_bytes_and_no_case_is_left_over(
    golden: Mapping[str, Golden], defined: Outcome, tmp_path: Path
) -> None:
    torch = run_torch(find_environment(), tmp_path)
    compare(golden, torch.outcome)
    for payload, one in golden.items():
        ran = defined.get(payload, Found()).and_then(torch.outcome.get(payload, Found()))
        assert one.found.digests.keys() == ran.digests.keys()
        assert one.found.near.keys() == ran.near.keys()
