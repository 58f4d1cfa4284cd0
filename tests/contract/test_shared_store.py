"""Two machines on one store: each has a name, a mount of its own and processes that the other cannot see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.store.store import Store
from tests.support.docker_daemon import do_without

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "tiny-llama-w4a16-nvfp4"
_MACHINE = "hostname {name} && mkdir -p {mount} && mount --bind {store} {mount} && exec {command}"


def start_on(name: str, folder: Path, *arguments: str, store: Path | None = None) -> subprocess.Popen[str]:
    """Run the command on a machine of that name. Its processes, its host's name and its mounts are its own."""
    mount = folder / f"mount-of-{name}"
    command = [sys.executable, "-m", "orchestrator.cli.main", "--project", str(ROOT), "--store", str(mount)]
    line = _MACHINE.format(
        name=name,
        mount=mount,
        store=store or folder / "store",
        command=" ".join((*command, "--dist", str(folder), *arguments)),
    )
    return subprocess.Popen(
        ("unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "sh", "-euc", line),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    probe = ("unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "hostname", "probe")
    if subprocess.run(probe, check=False, capture_output=True).returncode:
        do_without("only root can make namespaces here")
    return tmp_path


def test_two_machines_that_build_the_same_at_once_do_each_step_once(folder: Path) -> None:
    build = ("build", RECIPE, "--json", "--set", "model.generate.num_hidden_layers=1")
    machines = [start_on(name, folder, *build) for name in ("node1", "node2")]
    said = [machine.communicate(timeout=120) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    steps = [json.loads(output)["steps"] for output, _ in said]
    for one, other in zip(*steps, strict=True):
        assert one["digest"] == other["digest"]
        assert sorted((one["reused"], other["reused"])) == [False, True], one["name"]
    store = Store(folder / "store")
    assert store.attempts() == ()
    assert list(store.root.glob("uses/*")) == []


def test_a_machine_leaves_the_files_of_another_alone(folder: Path) -> None:
    store = Store(folder / "store")
    store.make()
    others = store.root / "runs" / ".tiny.json.0000-boot@another:7:7-0123abcd"
    own = store.root / "runs" / ".tiny.json.0000-boot:7:7-0123abcd"
    used = store.root / "uses" / "running-elsewhere"
    for file in (others, own, used):
        file.parent.mkdir(exist_ok=True)
        file.write_text("0000-boot@another:7:7\nc0ffee\n")
    machine = start_on("node1", folder, "build", RECIPE, "--until", "generate")
    _, said = machine.communicate(timeout=60)
    assert machine.returncode == 0, said
    assert others.exists()
    assert not own.exists(), "its process ran here, before the last boot"
    assert used.exists()
