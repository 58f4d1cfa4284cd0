"""A project whose images hold stand-ins instead of NVIDIA's tools: whole recipes run in real containers, no GPU."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.documents.yaml_text import parse
from tests.support.command_line import COMMAND, orchestrator
from tests.support.docker_daemon import Daemon

ROOT = Path(__file__).resolve().parents[2]
IMAGES = {
    "orchestrator-test-standins:1": "",
    "orchestrator-test-standins:2": "trtllm-serve-2026-07 trtllm-bench-2026-07",
}
"""Per image of stand-ins the tables of options that its tools know besides the oldest."""
SECONDS = "0.8"
"""How long a stand-in takes: long enough to be killed in."""

_DOCKERFILE = f"""\
FROM orchestrator-test-base:1
COPY standins /opt/standins
COPY tools /opt/standins/options
RUN mkdir -p /usr/bin && ln -s /bin/busybox /usr/bin/env
RUN cd /opt/standins && for name in trtllm-build trtllm-serve trtllm-bench; do \
      ln -s /opt/standins/$name /usr/local/bin/$name; done \
    && mkdir -p /app/tensorrt_llm/examples/models/core/llama /opt/model-optimizer/examples/hf_ptq \
    && ln -s /opt/standins/convert_checkpoint.py /app/tensorrt_llm/examples/models/core/llama/convert_checkpoint.py \
    && ln -s /opt/standins/hf_ptq.py /opt/model-optimizer/examples/hf_ptq/hf_ptq.py
ENV STANDIN_SECONDS={SECONDS}
ARG TABLES
ENV STANDIN_TABLES=$TABLES
"""

_SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512}

ONEPASS = "rehearsal-w4a16-nvfp4"
ENGINE = "rehearsal-nvfp4-engine"

_RECIPES: Mapping[str, Mapping[str, Any]] = {
    ONEPASS: {
        "description": "Our own quantizer in a container, served by a stand-in",
        "image": "tensorrt-llm-1.3.0rc24",
        "quantization": {"format": "w4a16_nvfp4", "method": "onepass"},
    },
    ENGINE: {
        "description": "ModelOpt's stand-in, converted, built into an engine and served",
        "image": "tensorrt-llm-1.2.1",
        "backend": "tensorrt",
        "quantization": {
            "format": "nvfp4",
            "method": "modelopt",
            "calibration": {"dataset": "calibration.txt", "samples": 4, "sequence_length": 32},
        },
        "engine": {"build": {"max_batch_size": 4, "gemm_plugin": "auto"}},
    },
}


def build_images(daemon: Daemon) -> None:
    """Build the images of stand-ins from Docker's base image."""
    with closing(daemon.connect()) as client:
        for tag, tables in IMAGES.items():
            client.images.build(
                fileobj=_context(),
                custom_context=True,
                tag=tag,
                buildargs={"TABLES": tables},
                network_mode="none",
                rm=True,
            )


def _context() -> io.BytesIO:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        archive.add(ROOT / "tests" / "support" / "standins", "standins", filter=_plain)
        archive.add(ROOT / "docker" / "tools", "tools")
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(_DOCKERFILE)
        archive.addfile(entry, io.BytesIO(_DOCKERFILE.encode()))
    context.seek(0)
    return context


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in entry.name else entry


@dataclass(frozen=True)
class Rehearsal:
    """A project folder and the environment that its builds run in."""

    folder: Path
    environment: Mapping[str, str]

    @classmethod
    def make(cls, folder: Path, daemon: Daemon) -> Rehearsal:
        """Lay a project out whose images are the stand-ins' and whose target is this machine without a GPU."""
        (folder / "recipes").mkdir(parents=True)
        (folder / "targets").mkdir()
        shutil.copytree(ROOT / "docker" / "tools", folder / "docker" / "tools")
        (folder / "docker" / "images.yaml").write_text(json.dumps(_images(daemon.architecture)), encoding="utf-8")
        (folder / "targets" / "rehearsal.yaml").write_text(json.dumps(_target(daemon.architecture)), encoding="utf-8")
        (folder / "calibration.txt").write_text(
            "The quick brown fox jumps over the lazy dog.\n\n" * 20, encoding="utf-8"
        )
        for name, recipe in _RECIPES.items():
            complete = {
                "schema_version": 1,
                "name": name,
                "target": "rehearsal",
                "model": {"generate": _SHAPE},
                "benchmark": {"input_tokens": 8, "output_tokens": 8, "requests": 4, "concurrency": [1, 2]},
                **recipe,
            }
            (folder / "recipes" / f"{name}.yaml").write_text(json.dumps(complete), encoding="utf-8")
        environment = {**daemon.environment, "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder)}
        return cls(folder, environment)

    @property
    def store(self) -> Path:
        """Where its results are kept."""
        return self.folder / "store"

    @property
    def places(self) -> tuple[str, ...]:
        """The options that say where it works."""
        return ("--project", str(self.folder), "--store", str(self.store))

    def command(self, *arguments: str) -> list[str]:
        """Name the command that a user would type."""
        return [sys.executable, *COMMAND, *self.places, *arguments]

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        ended = orchestrator(*self.places, *arguments, environment=self.environment, folder=ROOT)
        assert not check or ended.returncode == 0, f"{arguments}\n{ended.stdout}\n{ended.stderr}"
        return ended

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command whose standard error is to be read."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def digests(self, recipe: str) -> dict[str, str]:
        """Build a recipe, or find it built, and give the digest of what each step left."""
        document = json.loads(self.run("build", recipe, "--json").stdout)
        return {step["name"]: step["digest"] for step in document["steps"]}


def await_step(process: subprocess.Popen[str], line: str) -> None:
    """Read a process's messages up to a line that begins like this."""
    assert process.stderr is not None
    assert any(said.startswith(line) for said in process.stderr), f"it never said {line}"


def pause(process: subprocess.Popen[str]) -> None:
    """Stop a process for good; it can only be killed then."""
    os.killpg(process.pid, signal.SIGSTOP)


def kill_when(process: subprocess.Popen[str], line: str, after: float = 0.0) -> None:
    """Kill a process some seconds after it says a line that begins like this."""
    await_step(process, line)
    time.sleep(after)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _images(architecture: str) -> dict[str, Any]:
    file = ROOT / "docker" / "images.yaml"
    catalogue: dict[str, Any] = dict(parse(file.read_bytes(), file).data)
    older, newer = IMAGES
    for name, image in catalogue["images"].items():
        image["reference"] = newer if name >= "tensorrt-llm-1.3.0rc22" else older
        image.pop("build", None)
        if "architectures" in image:
            image["architectures"] = [architecture]
    return catalogue


def _target(architecture: str) -> dict[str, Any]:
    gpu = {"name": "none", "sm": 121, "count": 0, "memory_bandwidth": 1e9}
    target = {"description": "This machine", "architecture": architecture, "gpu": gpu, "memory": 64 * 10**9}
    return {"targets": {"rehearsal": target}}
