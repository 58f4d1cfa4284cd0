"""The command lines of containers on a cluster's node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import ImageUnavailableError, MachineError
from orchestrator.executors.cluster_containers import RUNTIMES, ClusterContainerExecutor
from orchestrator.executors.job import ContainerImage, ImageBuild, Inside, Job, Mount

IMAGE = "nvcr.io/nvidia/tensorrt-llm/release:1.3.0"
JOB = Job(
    step="engine",
    key="c0ffee",
    recipe="tiny",
    argv=("trtllm-build", "--checkpoint_dir", Inside("/checkpoint", "a b")),
    output=Path("/store/attempts/x/out"),
    mounts=(Mount(Path("/store/artifacts/y/out"), "/checkpoint"), Mount(Path("/store/scratch/x"), "/scratch", False)),
    image=ContainerImage(IMAGE, "amd64"),
    environment={"MODEL": Inside("/checkpoint")},
    gpus=2,
)


def line(runtime: str, job: Job = JOB) -> tuple[str, ...]:
    return ClusterContainerExecutor(RUNTIMES[runtime], {}).command_line(job)


def test_apptainer_sees_the_mounts_alone_and_no_network() -> None:
    assert line("apptainer") == (
        *("apptainer", "exec", "--containall", "--no-home", "--pwd", "/out", "--net", "--network", "none", "--nv"),
        *("--bind", "/store/attempts/x/out:/out:rw", "--bind", "/store/artifacts/y/out:/checkpoint:ro"),
        *("--bind", "/store/scratch/x:/scratch:rw", "--env", "PYTHONUNBUFFERED=1", "--env", "MODEL=/checkpoint"),
        *(f"docker://{IMAGE}", "trtllm-build", "--checkpoint_dir", "/checkpoint/a b"),
    )


def test_a_job_with_network_and_without_a_gpu_has_fewer_options() -> None:
    words = line("apptainer", replace(JOB, network=True, gpus=0))
    assert not {"--net", "--nv"} & set(words)


def test_pyxis_gets_the_image_as_enroot_reads_it() -> None:
    mounts = ("/store/attempts/x/out:/out:rw", "/store/artifacts/y/out:/checkpoint:ro", "/store/scratch/x:/scratch:rw")
    assert line("pyxis") == (
        *(
            "srun",
            "--ntasks=1",
            "--export=NONE",
            "--container-image=docker://nvcr.io#nvidia/tensorrt-llm/release:1.3.0",
        ),
        f"--container-mounts={','.join(mounts)}",
        *("--container-workdir=/out", "--no-container-mount-home"),
        *("env", "PYTHONUNBUFFERED=1", "MODEL=/checkpoint", "trtllm-build", "--checkpoint_dir", "/checkpoint/a b"),
    )


@pytest.mark.parametrize(
    ("image", "written"),
    [
        ("ubuntu:24.04", "docker://ubuntu:24.04"),
        ("nvidia/cuda:13.0", "docker://nvidia/cuda:13.0"),
        ("localhost/a:1", "docker://localhost#a:1"),
        ("127.0.0.1:5000/a/b@sha256:0", "docker://127.0.0.1:5000#a/b@sha256:0"),
    ],
)
def test_a_registry_is_told_from_a_name(image: str, written: str) -> None:
    words = line("pyxis", replace(JOB, image=ContainerImage(image, "amd64")))
    assert f"--container-image={written}" in words


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_path_that_a_list_of_mounts_cannot_hold_is_refused(runtime: str) -> None:
    with pytest.raises(MachineError, match="colon or a comma"):
        line(runtime, replace(JOB, output=Path("/store,1/out")))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_image_that_must_be_built_is_refused_before_it_runs(runtime: str) -> None:
    build = ImageBuild(Path("Dockerfile"), Path(), "base")
    job = replace(JOB, image=ContainerImage("orchestrator/own:1", "amd64", build))
    with pytest.raises(ImageUnavailableError, match="built from a Dockerfile"):
        line(runtime, job)


def test_a_missing_program_is_named_with_the_setting() -> None:
    executor = ClusterContainerExecutor(RUNTIMES["apptainer"], {"PATH": "/nowhere"})
    with pytest.raises(MachineError, match="apptainer is not on this machine"):
        executor.check(JOB)
