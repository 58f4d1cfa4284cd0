"""What `doctor` finds on machines that are not there: a Spark, a server, one without anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app import planning
from orchestrator.app.machine import Finding, Host, check_machine
from orchestrator.app.make_plan import Plan
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.errors import DockerUnavailableError, HubAccessError, RegistryAccessError

GIB = 2**30
SPARK = "NVIDIA GB10, 12.1, 580.95.05\n"
HEAD = "| NVIDIA-SMI 580.95.05   Driver Version: 580.95.05   CUDA Version: 13.0 |\n"


class Engine:
    """A Docker engine that only tells of itself."""

    def __init__(self, runtimes: Mapping[str, object]) -> None:
        self._info = {"ServerVersion": "28.3", "Architecture": "aarch64", "Runtimes": runtimes}

    def info(self) -> Mapping[str, object]:
        return self._info

    def close(self) -> None:
        pass


SERVING = "2392, 3003, 96, 61, 78.21, [N/A], 0x0000000000000000, [N/A]\n"
"""What a Spark answers while a model is served: it has no power limit and no slowdown temperature to tell."""


def nvidia_smi(
    rows: str, head: str = HEAD, clock: str = SERVING, reasons: str = "clocks_event_reasons.active"
) -> Callable[[Sequence[str], Mapping[str, str]], str | None]:
    """Answer as nvidia-smi does: nothing, if it does not know one of the fields."""

    def run(command: Sequence[str], _: Mapping[str, str]) -> str | None:
        if command[0] != "nvidia-smi":
            return None
        asked = next((word for word in command if word.startswith("--query-gpu=")), "")
        if "clocks." not in asked:
            return rows if asked else head
        return clock if reasons in asked else None

    return run


def refused(*_: object) -> Any:  # noqa: ANN401 - it never returns
    message = "no Docker engine answers"
    raise DockerUnavailableError(message, hint="start it")


@pytest.fixture
def spark(tmp_path: Path) -> Host:
    """A DGX Spark that was just started."""
    return Host(
        architecture="aarch64",
        meminfo=meminfo(tmp_path, available=118 * GIB, free=101 * GIB, cached=18 * GIB),
        run=nvidia_smi(SPARK),
        environment={"HF_TOKEN": "hf_canary"},
        home=tmp_path,
        free=lambda _: 2 * 10**12,
        connect=lambda: Engine({"nvidia": {}}),  # type: ignore[arg-type, return-value]
        resolve=lambda repo, revision: f"commit of {repo} {revision}",
        digest=lambda reference: f"sha256 of {reference}",
    )


def meminfo(folder: Path, *, available: int, free: int, cached: int) -> Path:
    file = folder / "meminfo"
    fields = {"MemTotal": 130674380800, "MemFree": free, "MemAvailable": available, "Cached": cached, "Shmem": 0}
    file.write_text("".join(f"{name}: {size // 1024} kB\n" for name, size in fields.items()) + "HugePages_Total: 0\n")
    return file


@pytest.fixture
def plan(tmp_path: Path) -> Callable[[str], Plan]:
    return lambda name: planning.plan(Settings({}, None, tmp_path / "store", tmp_path / "dist"), RecipeName(name)).plan


def found(host: Host, plan: Plan | None = None, *, online: bool = False) -> dict[str, Finding]:
    return {finding.name: finding for finding in check_machine(Path("/tmp/store"), plan, host, online=online)}


def test_a_spark_has_all_that_a_recipe_needs(spark: Host, plan: Callable[[str], Plan]) -> None:
    findings = found(spark, plan("llama3-70b-nvfp4"))
    assert not [finding for finding in findings.values() if finding.state != "ok"]
    assert findings["GPU"].found == "NVIDIA GB10"
    assert findings["compute capability"].found == "SM 121"
    assert findings["driver"].found == "580.95.05"
    assert findings["CUDA"].found == "up to 13.0"
    assert "hf_canary" not in str(findings)


def test_what_the_driver_does_not_tell_is_unknown_and_not_wrong(spark: Host, plan: Callable[[str], Plan]) -> None:
    silent = replace(spark, run=nvidia_smi("NVIDIA GB10, [N/A], [N/A]\n", head="N/A"))
    findings = found(silent, plan("llama3-70b-nvfp4"))
    for name in ("compute capability", "driver", "CUDA"):
        assert findings[name].state == "unknown"
        assert not findings[name].needed
        assert findings[name].fix


SLOWED = [
    # A Spark whose power adapter fell back: nothing is reported (799 MHz and 19.5 W were seen with 96 % in use).
    ("799, 3003, 96, 52, 19.50, [N/A], 0x0000000000000000, [N/A]", "no reason reported", "33% to 100 %", "adapter"),
    ("1404, 3003, 97, 91, 62.10, [N/A], 0x0000000000000020, [N/A]", "heat", "58% to 100 %", "cool"),
    ("1404, 3003, 97, 91, 62.10, [N/A], 0x0000000000000048, 2", "slowdown, heat, 91 °C, 2 below", "58% to", "cool"),
    ("507, 3003, 99, 48, [N/A], [N/A], 0x0000000000000084, [N/A]", "power, power supply, 48 °C)", "21% to", "adapter"),
    ("2000, 3003, [N/A], 48, 50, 140.00, 0x2, [N/A]", "limit, 48 °C, 50 of 140 W)", "83% to 100 %", "nvidia-smi -rgc"),
    ("507, 3003, 99, [N/A], [N/A], [N/A], [N/A], [N/A]", "(no reason reported)", "21% to 100 %", "nvidia-smi -rgc"),
]


@pytest.mark.parametrize(("clock", "why", "share", "fix"), SLOWED)
def test_a_clock_that_throttles_says_what_it_costs(spark: Host, clock: str, why: str, share: str, fix: str) -> None:
    slowed = found(replace(spark, run=nvidia_smi(SPARK, clock=f"{clock}\n")))["clock"]
    assert slowed.state == "missing"
    assert not slowed.needed
    assert slowed.found.partition(" of 2,400 MHz (")[2].startswith(why.removeprefix("("))
    assert share in slowed.found
    assert fix in slowed.fix
    assert "\n" not in slowed.found


def test_a_throttled_clock_moves_the_lower_end_of_the_plans_band(spark: Host, plan: Callable[[str], Plan]) -> None:
    recipe = plan("llama3-70b-nvfp4")
    decode = recipe.estimate.decode
    assert decode
    assert decode.band
    low, high = decode.band
    half = replace(spark, run=nvidia_smi(SPARK, clock=SERVING.replace("2392", "1200")))
    said = found(half, recipe)["clock"].found
    assert f"decode {low / 2:.1f} to {high:.1f} instead of {low:.1f} to {high:.1f} tok/s" in said
    elsewhere = replace(
        half, run=nvidia_smi("NVIDIA H100 80GB HBM3, 9.0, 570.1\n", clock="990, 1980, 99, 60, 1, 2, 0, 5")
    )
    assert "decode" not in found(elsewhere, recipe)["clock"].found  # the plan is of another GPU


@pytest.mark.parametrize(
    ("row", "clock", "state"),
    [
        (SPARK, "2392, 3003, 96, 61, 78.21, [N/A], 0x0000000000000000, [N/A]", "ok"),
        (SPARK, "2184, 3003, 96, 61, 78.21, [N/A], 0x0000000000000004, [N/A]", "ok"),  # every band holds so little
        (SPARK, "208, 3003, 0, 38, 4.02, [N/A], 0x0000000000000001, [N/A]", "unknown"),
        (SPARK, "208, 3003, 3, 38, 4.02, [N/A], 0x0000000000000000, [N/A]", "unknown"),
        (SPARK, "[N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A]", "unknown"),
        (SPARK, "2392, [N/A], 96, 61, 78.21, [N/A], [Unknown Error], [N/A]", "ok"),
        (SPARK, "", "unknown"),
        (SPARK, "ERROR: the driver is not loaded", "unknown"),
        ("NVIDIA H100 80GB HBM3, 9.0, 570.1\n", "1980, 1980, 100, 64, 612.44, 700.00, 0x0, 23", "ok"),
        ("NVIDIA H100 80GB HBM3, 9.0, 570.1\n", "1395, 1980, 100, 64, 699.44, 700.00, 0x4, 23", "missing"),
    ],
)
def test_only_a_busy_gpu_tells_what_its_clock_reaches(spark: Host, row: str, clock: str, state: str) -> None:
    finding = found(replace(spark, run=nvidia_smi(row, clock=clock)))["clock"]
    assert finding.state == state
    assert bool(finding.fix) is (state != "ok")


def test_older_drivers_call_the_reasons_otherwise(spark: Host) -> None:
    clock = SLOWED[1][0].rpartition(",")[0]
    older = replace(spark, run=nvidia_smi(SPARK, clock=clock, reasons="clocks_throttle_reasons.active"))
    assert "heat, 91 °C" in found(older)["clock"].found


def test_memory_is_never_asked_of_the_driver(spark: Host) -> None:
    asked: list[str] = []

    def run(command: Sequence[str], _: Mapping[str, str]) -> str | None:
        asked.append(" ".join(command))
        return SPARK

    found(replace(spark, run=run))
    assert asked
    assert not any("memory" in command for command in asked)


def test_the_page_cache_counts_as_used_on_unified_memory(
    spark: Host, plan: Callable[[str], Plan], tmp_path: Path
) -> None:
    full = replace(spark, meminfo=meminfo(tmp_path, available=110 * GIB, free=20 * GIB, cached=90 * GIB))
    findings = found(full, plan("llama3-70b-nvfp4"))
    assert findings["memory"].state == "ok"
    assert findings["page cache"].state == "missing"
    assert "drop_caches" in findings["page cache"].fix
    assert not findings["page cache"].needed
    assert found(full)["page cache"].state == "ok"  # nothing is asked of it


def test_memory_that_others_hold_is_missing(spark: Host, plan: Callable[[str], Plan], tmp_path: Path) -> None:
    taken = replace(spark, meminfo=meminfo(tmp_path, available=30 * GIB, free=10 * GIB, cached=20 * GIB))
    memory = found(taken, plan("llama3-70b-nvfp4"))["memory"]
    assert (memory.state, memory.needed) == ("missing", True)
    assert "47" in memory.fix or "46" in memory.fix  # GB


def test_a_discrete_gpu_has_memory_of_its_own(spark: Host, plan: Callable[[str], Plan]) -> None:
    server = replace(spark, architecture="x86_64", run=nvidia_smi("NVIDIA H100 80GB HBM3, 9.0, 570.1\n"))
    assert "page cache" not in found(server)
    findings = found(server, plan("llama3-70b-nvfp4"))
    assert findings["compute capability"].state == "missing"
    assert findings["compute capability"].needed
    assert findings["processor"].state == "missing"


def test_a_machine_with_nothing_says_what_it_cannot_see(
    spark: Host, plan: Callable[[str], Plan], tmp_path: Path
) -> None:
    bare = replace(
        spark,
        architecture="x86_64",
        meminfo=tmp_path / "none",
        run=lambda *_: None,
        environment={},
        connect=refused,
        free=lambda _: 10**9,
    )
    findings = found(bare)
    assert findings["GPU"].state == "missing"
    assert findings["not checked"].state == "unknown"
    assert "CUDA" in findings["not checked"].found
    assert findings["memory"].state == "unknown"
    assert findings["Docker"].fix == "start it"
    assert not any(finding.needed and finding.state == "missing" for finding in findings.values())
    needed = found(bare, plan("llama3-8b-w4a16-nvfp4"))
    assert {name for name, finding in needed.items() if finding.needed} >= {"GPU", "disk", "Docker", "processor"}


@pytest.mark.parametrize("recipe", ["tiny-llama-w4a16-nvfp4", "tiny-llama-nvfp4", "tiny-llama-fp8"])
def test_a_recipe_without_containers_asks_for_no_driver_and_no_engine(
    spark: Host, plan: Callable[[str], Plan], recipe: str
) -> None:
    bare = replace(spark, run=lambda *_: None, connect=refused)
    by_process = plan(recipe)
    assert {placed.executor for placed in by_process.steps} == {"process"}
    findings = found(bare, by_process)
    assert findings.keys().isdisjoint({"GPU", "compute capability", "driver", "CUDA", "Docker", "NVIDIA runtime"})
    assert not [finding for finding in findings.values() if finding.needed and finding.state == "missing"]
    assert {"GPU", "Docker"} <= found(bare).keys()
    assert {"GPU", "Docker"} <= found(bare, plan("jamba-1.5-large-nvfp4")).keys()  # refused, so it has no steps


def test_an_engine_without_the_runtime_is_told_how_to_get_it(spark: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    findings = found(replace(spark, connect=lambda: Engine({})))  # type: ignore[arg-type, return-value]
    assert findings["Docker"].state == "ok"
    assert findings["NVIDIA runtime"].state == "missing"
    assert "nvidia-ctk" in findings["NVIDIA runtime"].fix


@pytest.mark.parametrize("text", ["", "MemTotal: many kB", "MemTotal: 5 kB\nMemFree:", "\n\n"])
def test_a_kernel_that_speaks_otherwise_is_no_failure(spark: Host, tmp_path: Path, text: str) -> None:
    (tmp_path / "odd").write_text(text)
    assert found(replace(spark, meminfo=tmp_path / "odd"))["memory"].state == "unknown"


def test_the_network_is_asked_only_where_that_is_wanted(spark: Host, plan: Callable[[str], Plan]) -> None:
    recipe = plan("llama3-70b-nvfp4-published-eagle3")
    assert not [name for name in found(spark, recipe) if name.startswith(("Hub:", "NGC:"))]
    names = list(found(spark, recipe, online=True))
    assert "Hub: nvidia/Llama-3.3-70B-Instruct-NVFP4" in names
    assert "Hub: nvidia/Llama-3.3-70B-Instruct-Eagle3" in names
    assert any(name.startswith("NGC: nvcr.io/nvidia/tensorrt-llm/release:") for name in names)
    assert {name.partition(":")[0] for name in found(spark, online=True)} >= {"Hub", "NGC"}


def test_a_refusal_of_the_hub_or_of_ngc_says_how_to_get_in(spark: Host, plan: Callable[[str], Plan]) -> None:
    def gated(repo: str, _: str) -> str:
        message = f"{repo} is gated"
        raise HubAccessError(message, hint="hf auth login")

    def closed(reference: str) -> str:
        message = f"{reference} wants credentials"
        raise RegistryAccessError(message, hint="docker login nvcr.io")

    findings = found(replace(spark, resolve=gated, digest=closed), plan("llama3-8b-bf16"), online=True)
    asked = {name: finding for name, finding in findings.items() if name.startswith(("Hub:", "NGC:"))}
    assert {finding.fix for finding in asked.values()} == {"hf auth login", "docker login nvcr.io"}
    assert all(finding.state == "missing" and finding.needed for finding in asked.values())
