"""The Docker executor against real Docker: what becomes of a container when everything around it fails."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from docker.api import APIClient
from docker.errors import APIError, NotFound
from docker.models.containers import Container

from orchestrator.errors import (
    DockerUnavailableError,
    GpuRuntimeMissingError,
    ImageUnavailableError,
    MachineError,
    NoPermissionError,
    WrongArchitectureError,
)
from orchestrator.events import LogLine, Progress, StepStarted, Warned
from orchestrator.executors.docker_arguments import LIMITS_UNRAISED, User, create_arguments, describe
from orchestrator.executors.docker_client import connect
from orchestrator.executors.docker_container import start_once
from orchestrator.executors.docker_logs import LogStream
from orchestrator.executors.docker_secrets import remove_secrets, secrets_of, write_secrets
from orchestrator.executors.job import ContainerImage, ImageBuild, Mount
from tests.support.bench import KEY, Bench, await_line, in_background, other_orchestrator, wait_for

if TYPE_CHECKING:
    from docker import DockerClient
    from orchestrator.events import Event
    from orchestrator.executors.job import Job
    from tests.support.docker_daemon import Daemon, OwnDaemon

pytestmark = pytest.mark.docker
pytest_plugins = ("tests.support.docker_daemon",)

ADOPTED = StepStarted("quantize", "docker", adopted=True)


@pytest.fixture
def bench(daemon: Daemon, tmp_path: Path) -> Iterator[Bench]:
    """The executor on a bench, and no container left behind."""
    made = Bench.of_daemon(daemon, tmp_path)
    yield made
    daemon.executor().discard(made.container)


@pytest.fixture
def client(daemon: Daemon) -> Iterator[DockerClient]:
    """Docker as others see it."""
    with closing(daemon.connect()) as client:
        yield client


def leave_running(bench: Bench, daemon: Daemon, job: Job) -> None:
    """Have an orchestrator start a job and be killed."""
    job.output.mkdir(parents=True)
    with other_orchestrator("docker", job, bench.folder, daemon.environment) as process:
        await_line(process, "waiting")


# Logs


def open_connections() -> int:
    """Count this process's sockets. An unread response holds one until the garbage collector finds it."""
    return sum(place.is_socket() for place in Path("/proc/self/fd").iterdir())


def test_a_pull_that_fails_leaves_no_connection(bench: Bench) -> None:
    gc.collect()
    gc.disable()
    try:
        before = open_connections()
        with pytest.raises(ImageUnavailableError) as caught:
            bench.run(replace(bench.job("wait"), image=ContainerImage("localhost:9/no/image:1", "amd64")))
        assert open_connections() == before, caught.value
    finally:
        gc.enable()


@pytest.mark.parametrize("patience", [0, 1])
@pytest.mark.parametrize("script", ["sleep 60", "echo one; sleep 60", "echo one; echo two"])
def test_a_log_that_is_no_longer_followed_leaves_no_connection(
    daemon: Daemon, client: DockerClient, script: str, patience: float
) -> None:
    container = client.containers.run(daemon.base_image, ["sh", "-c", script], detach=True)
    gc.collect()
    gc.disable()
    try:
        before = open_connections()
        with LogStream(daemon.connect, str(container.id)) as stream:
            stream.take(patience)
        assert open_connections() == before
    finally:
        gc.enable()
        container.remove(force=True)


# Interruptions


@contextmanager
def interrupted_before() -> Iterator[None]:
    """Interrupt this process, as Ctrl-C does, just before a request is sent."""
    signal.raise_signal(signal.SIGINT)
    yield


@contextmanager
def interrupted_during() -> Iterator[None]:
    """Interrupt it while Docker works on a request."""
    timer = threading.Timer(0.005, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    timer.start()
    try:
        yield
    finally:
        timer.join()


@contextmanager
def interrupted_after() -> Iterator[None]:
    """Interrupt it after Docker has answered."""
    try:
        yield
    finally:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the socket of a request that was cut
@pytest.mark.parametrize("interrupted", [interrupted_before, interrupted_during, interrupted_after])
@pytest.mark.parametrize("name", ["create_container_from_config", "start", "inspect_container", "logs"])
def test_no_container_is_left_whenever_the_user_interrupts(
    bench: Bench,
    client: DockerClient,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    interrupted: Callable[[], AbstractContextManager[None]],
) -> None:
    send = getattr(APIClient, name)
    interruptions = iter([interrupted()])

    def request(*arguments: object, **options: object) -> object:
        with next(interruptions, nullcontext()):
            return send(*arguments, **options)

    monkeypatch.setattr(APIClient, name, request)
    with pytest.raises(KeyboardInterrupt):
        bench.executor.run(replace(bench.job("wait"), secrets={"TOKEN": "hf_canary"}), bench.see)
    with pytest.raises(NotFound):
        client.containers.get(bench.container)
    assert list(Path(tempfile.gettempdir()).glob(f"orchestrator-secrets-*{os.getpid()}*")) == []


# Adoption


def test_a_container_of_a_killed_orchestrator_is_adopted(bench: Bench, daemon: Daemon) -> None:
    first = bench.job("wait", "5", attempt="first")
    leave_running(bench, daemon, first)
    (first.output / "go").touch()
    outcome = bench.run(bench.job("wait", "5", attempt="second"))
    assert (outcome.exit_status, outcome.output, outcome.adopted) == (5, first.output, True)
    assert (first.output / "starts").read_text() == "start\n"
    assert bench.lines == ["waiting", "going on"], "the log is told from its beginning"
    assert bench.events[0] == ADOPTED
    assert (bench.folder / "first" / "log.txt").read_text() == "waiting\ngoing on\n"


def test_a_container_that_ended_while_nobody_looked_is_adopted(
    bench: Bench, daemon: Daemon, client: DockerClient
) -> None:
    first = bench.job("wait", attempt="first")
    leave_running(bench, daemon, first)
    (first.output / "go").touch()
    client.containers.get(bench.container).wait()
    outcome = bench.run(bench.job("wait", attempt="second"))
    assert (outcome.exit_status, outcome.output, outcome.adopted) == (0, first.output, True)
    assert bench.lines == ["waiting", "going on"]


def create_only(client: DockerClient, job: Job) -> None:
    """Leave a container that was created and never started, as one killed in between does."""
    job.output.mkdir(parents=True)
    described = describe(job, user=User.caller(), secrets=write_secrets(job.secrets), limits=LIMITS_UNRAISED)
    client.containers.create(**create_arguments(described))


def test_a_container_that_was_never_started_is_started(bench: Bench, client: DockerClient) -> None:
    first = bench.job("write_files", "model=weights", attempt="first")
    create_only(client, first)
    outcome = bench.run(bench.job("write_files", "model=weights", attempt="second"))
    assert (outcome.output, outcome.adopted) == (first.output, True)
    assert (first.output / "model").read_text() == "weights"


def test_a_container_that_cannot_be_started_any_more_is_replaced(bench: Bench, client: DockerClient) -> None:
    first = replace(bench.job("write_files", "model=weights", attempt="first"), secrets={"HF_TOKEN": "hf_canary"})
    create_only(client, first)
    remove_secrets(secrets_of(client.containers.get(bench.container).attrs))
    second = replace(first, output=bench.folder / "second" / "out")
    outcome = bench.run(second)
    assert (outcome.exit_status, outcome.output, outcome.adopted) == (0, second.output, False)


def test_any_user_has_a_home_and_may_write_the_output(bench: Bench, client: DockerClient) -> None:
    script = "from pathlib import Path; (Path.home() / 'x').touch(); Path('/out/y').touch()"
    job = replace(bench.job(), argv=("python3", "-c", script))
    job.output.mkdir(parents=True)
    os.chown(job.output, 65534, 65534)
    described = describe(job, user=User(65534, 65534), secrets={}, limits=LIMITS_UNRAISED)
    client.containers.create(**create_arguments(described))
    assert bench.run(job).exit_status == 0
    assert (job.output / "y").stat().st_uid == 65534


def test_a_container_whose_output_folder_is_gone_is_not_adopted(bench: Bench, daemon: Daemon) -> None:
    first = bench.job("wait", attempt="first")
    leave_running(bench, daemon, first)
    shutil.rmtree(first.output.parent)
    second = bench.job("write_files", "model=weights", attempt="second")
    outcome = bench.run(second)
    assert (outcome.output, outcome.adopted) == (second.output, False)


def test_a_container_of_another_key_is_not_touched(bench: Bench, client: DockerClient) -> None:
    job = bench.job("wait", attempt="first")
    create_only(client, replace(job, key=KEY[:16] + "0" * 48))
    with pytest.raises(MachineError, match="belongs to another program"):
        bench.executor.run(job, bench.see)
    client.containers.get(bench.container).remove()


def test_two_builds_at_once_run_the_command_once(bench: Bench, daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    other = Bench.of_daemon(daemon, tmp_path / "two")
    job, same = bench.job("tick", "10", "0"), bench.job("tick", "10", "0", attempt="second")
    outcomes = []
    workers = [
        threading.Thread(target=lambda at=at, of=of: outcomes.append(at.executor.run(of, at.see)))
        for at, of in ((bench, job), (other, same))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(outcome.adopted for outcome in outcomes) == [False, True]
    assert outcomes[0].output == outcomes[1].output
    assert bench.lines == other.lines == [f"tick {number}" for number in range(10)]


def test_a_container_that_ran_since_it_was_found_is_not_started_again(bench: Bench, client: DockerClient) -> None:
    job = bench.job("count_start", attempt="first")
    create_only(client, job)
    found = client.containers.get(bench.container)
    assert bench.executor.run(job, bench.see).exit_status == 0  # somebody else was faster
    assert found.status == "created"
    assert start_once(found) == {}
    assert (job.output / "starts").read_text() == "start\n"


def test_of_several_that_find_a_container_one_starts_it(bench: Bench, client: DockerClient) -> None:
    job = bench.job("count_start", attempt="first")
    create_only(client, job)
    found = [client.containers.get(bench.container) for _ in range(6)]
    with ThreadPoolExecutor(len(found)) as pool:
        assert list(pool.map(start_once, found)) == [{}] * len(found)
    client.containers.get(bench.container).wait()
    assert (job.output / "starts").read_text() == "start\n"


def test_a_limit_that_docker_refuses_to_one_build_does_not_end_another(
    bench: Bench, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, begin = Container.start, threading.Barrier(2, timeout=60)

    def refusing(container: Container) -> None:
        if any(limit["Hard"] == -1 for limit in container.attrs["HostConfig"]["Ulimits"]):
            said = "error setting rlimit type 8: operation not permitted"
            raise APIError(said, explanation=said)
        start(container)

    monkeypatch.setattr(Container, "start", refusing)
    outcomes = []

    def build(at: Bench, attempt: str) -> None:
        begin.wait()
        outcomes.append(at.executor.run(bench.job("count_start", attempt=attempt), at.see))

    (tmp_path / "two").mkdir()
    other = Bench.of_daemon(daemon, tmp_path / "two")
    workers = [threading.Thread(target=build, args=arguments) for arguments in ((bench, "first"), (other, "second"))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [outcome.exit_status for outcome in outcomes] == [0, 0]
    assert (outcomes[0].output / "starts").read_text() == "start\n"
    assert outcomes[0].output == outcomes[1].output


def test_a_secret_left_by_a_killed_orchestrator_is_removed(bench: Bench, daemon: Daemon, client: DockerClient) -> None:
    first = replace(bench.job("wait", attempt="first"), secrets={"HF_TOKEN": "hf_canary"})
    leave_running(bench, daemon, first)
    mounts = client.containers.get(bench.container).attrs["Mounts"]
    (file,) = (Path(mount["Source"]) for mount in mounts if mount["Destination"] == "/run/secrets/HF_TOKEN")
    assert file.read_text() == "hf_canary"
    (first.output / "go").touch()
    bench.run(replace(bench.job("wait", attempt="second"), secrets={"HF_TOKEN": "hf_canary"}))
    assert not file.parent.exists()


def test_what_orchestrators_left_can_be_listed_and_discarded(bench: Bench, daemon: Daemon) -> None:
    job = bench.job("wait", attempt="first")
    leave_running(bench, daemon, job)
    executor = daemon.executor()
    (left,) = (container for container in executor.containers() if container.key == KEY)
    assert (left.name, left.recipe, left.step, left.output) == (bench.container, "tiny", "quantize", job.output)
    assert (left.running, left.owned) == (True, False)
    executor.discard(bench.container)
    assert KEY not in [container.key for container in executor.containers()]


def test_forgetting_a_job_leaves_a_running_container_alone(bench: Bench, daemon: Daemon) -> None:
    job = bench.job("wait", attempt="first")
    leave_running(bench, daemon, job)
    bench.executor.forget(job)
    assert [container.running for container in daemon.executor().containers() if container.key == KEY] == [True]


def test_however_often_orchestrators_are_killed_the_command_runs_once(bench: Bench, daemon: Daemon) -> None:
    dice = random.Random(20261123)  # noqa: S311 - the seed is the point
    begun = time.monotonic()  # an orchestrator needs about 0.4 s to reach Docker and 0.3 s more to start the job
    kills = 0
    while time.monotonic() - begun < 8:
        job = bench.job("count_start", attempt=f"attempt-{kills}")
        with other_orchestrator("docker", job, bench.folder, daemon.environment):
            time.sleep(dice.uniform(0.3, 1.1))
        kills += 1
    outcome = bench.run(bench.job("count_start", attempt="last"))
    assert outcome.exit_status == 0
    assert [file.read_text() for file in bench.folder.glob("*/out/starts")] == ["start\n"], f"after {kills} kills"


# How it ends


def test_a_command_that_eats_too_much_is_told_from_one_that_fails(bench: Bench, client: DockerClient) -> None:
    job = bench.job("eat")
    with in_background(bench, job) as outcomes:
        wait_for(lambda: "waiting" in bench.lines)
        client.containers.get(bench.container).update(mem_limit="64m", memswap_limit="64m")
        (job.output / "go").touch()
    (outcome,) = outcomes
    assert (outcome.exit_status, outcome.out_of_memory, outcome.killed) == (137, True, False)


@pytest.mark.parametrize("end", ["kill", "remove"])
def test_a_container_that_somebody_ends_counts_as_killed(bench: Bench, client: DockerClient, end: str) -> None:
    with in_background(bench, bench.job("wait")) as outcomes:
        wait_for(lambda: "waiting" in bench.lines)
        container = client.containers.get(bench.container)
        container.kill() if end == "kill" else container.remove(force=True)
    (outcome,) = outcomes
    assert (outcome.exit_status, outcome.out_of_memory, outcome.killed) == (137, False, True)


def test_nothing_is_left_of_a_forgotten_job(bench: Bench, client: DockerClient) -> None:
    bench.run(bench.job("end_with", "1"))
    with pytest.raises(NotFound):
        client.containers.get(bench.container)


# What the machine lacks


def test_a_missing_mount_is_named_and_not_created(bench: Bench) -> None:
    missing = bench.folder / "no such folder"
    job = bench.job("end_with", "0")
    with pytest.raises(MachineError, match="no such folder"):
        bench.run(replace(job, mounts=(*job.mounts, Mount(missing, "/model"))))
    assert not missing.exists()


def test_docker_without_gpus_is_refused_before_and_while_running(bench: Bench, client: DockerClient) -> None:
    if "nvidia" in client.info()["Runtimes"]:
        pytest.skip("this Docker can provide GPUs")
    job = replace(bench.job("end_with", "0"), gpus=1)
    with pytest.raises(GpuRuntimeMissingError) as refused:
        bench.executor.check(job)
    assert "nvidia-ctk runtime configure" in refused.value.hint
    with pytest.raises(GpuRuntimeMissingError):
        bench.executor.run(job, bench.see)
    with pytest.raises(NotFound):
        client.containers.get(bench.container)


def test_a_missing_docker_is_refused_with_the_command_that_starts_it(tmp_path: Path) -> None:
    with pytest.raises(DockerUnavailableError, match="No such file") as refused:
        connect({"DOCKER_HOST": f"unix://{tmp_path}/docker.sock"})
    assert "systemctl start docker" in refused.value.hint


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give the rights of the superuser away for a while."""
    caller = os.geteuid()
    if caller == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(caller)


def test_a_socket_of_others_is_refused_with_the_command_that_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(path))
        path.chmod(0)
        with as_nobody(), pytest.raises(NoPermissionError) as refused:
            connect({"DOCKER_HOST": f"unix://{path}"})
    assert "usermod" in refused.value.hint


# Images


def import_image(client: DockerClient, reference: str, content: bytes) -> None:
    repository, _, tag = reference.rpartition(":")
    root = io.BytesIO()
    with tarfile.open(fileobj=root, mode="w") as archive:
        entry = tarfile.TarInfo("blob")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    client.api.import_image_from_data(root.getvalue(), repository=repository, tag=tag)


@pytest.fixture
def pushed(client: DockerClient, registry: str) -> Iterator[str]:
    """An image of 20 MB that is in the registry and no longer in Docker."""
    reference = f"{registry}/big:1"
    import_image(client, reference, os.urandom(20_000_000))
    for message in client.api.push(reference, stream=True, decode=True):
        assert "error" not in message
    client.images.remove(reference)
    yield reference
    with suppress(NotFound):
        client.images.remove(reference, force=True)


def test_a_pull_reports_its_bytes(bench: Bench, client: DockerClient, pushed: str) -> None:
    image = ContainerImage(pushed, client.version()["Arch"])
    bench.run(replace(bench.job(), argv=("nothing",), image=image))
    progress = [event for event in bench.events if isinstance(event, Progress)]
    assert progress
    assert {event.unit for event in progress} == {"bytes"}
    assert [event.done for event in progress] == sorted(event.done for event in progress)
    assert progress[-1].done == progress[-1].total > 19_000_000


def test_an_image_pinned_by_digest_is_pulled(bench: Bench, client: DockerClient, pushed: str) -> None:
    digest = client.images.get_registry_data(pushed).id
    image = ContainerImage(f"{pushed.rpartition(':')[0]}@{digest}", client.version()["Arch"])
    assert bench.run(replace(bench.job(), argv=("nothing",), image=image)).exit_status == 127
    assert bench.run(replace(bench.job(), argv=("nothing",), image=image)).exit_status == 127, "it is local now"


def test_the_disk_space_of_a_pull_is_counted_where_docker_keeps_images_and_only_until_it_has_it(
    bench: Bench, client: DockerClient, pushed: str
) -> None:
    image = ContainerImage(pushed, client.version()["Arch"], pulled=10**9)
    (need,) = bench.executor.needs(replace(bench.job(), image=image))
    assert need.folder == Path(client.info()["DockerRootDir"])
    assert need.size == 3 * 10**9
    assert need.what == f"image {pushed}: to pull and unpack, as predicted"
    assert bench.executor.needs(replace(bench.job(), image=replace(image, pulled=None))) == ()
    client.images.pull(pushed)
    assert bench.executor.needs(replace(bench.job(), image=image)) == ()


def test_an_image_that_nobody_has_is_refused(bench: Bench, daemon: Daemon, registry: str) -> None:
    image = ContainerImage(f"{registry}/no/such:1", daemon.architecture)
    with pytest.raises(ImageUnavailableError, match="no/such:1") as refused:
        bench.run(replace(bench.job(), image=image))
    assert "docker manifest inspect" in refused.value.hint


def test_a_registry_that_does_not_answer_is_refused(bench: Bench, daemon: Daemon) -> None:
    image = ContainerImage("127.0.0.1:1/no/such:1", daemon.architecture)
    with pytest.raises(ImageUnavailableError) as refused:
        bench.run(replace(bench.job(), image=image))
    assert "check the network" in refused.value.hint


def load_image(client: DockerClient, reference: str, architecture: str) -> None:
    """Load an image with one empty layer that claims to be for another processor."""
    layer = io.BytesIO()
    tarfile.open(fileobj=layer, mode="w").close()
    files: dict[str, bytes] = {"layer.tar": layer.getvalue()}
    digest = hashlib.sha256(files["layer.tar"]).hexdigest()
    config: dict[str, Any] = {"architecture": architecture, "os": "linux", "config": {}}
    config["rootfs"] = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    files["config.json"] = json.dumps(config).encode()
    manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]
    files["manifest.json"] = json.dumps(manifest).encode()
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    client.images.load(whole.getvalue())


def test_an_image_for_another_processor_is_refused(bench: Bench, client: DockerClient) -> None:
    own = client.version()["Arch"]
    other = "arm64" if own == "amd64" else "amd64"
    load_image(client, "orchestrator-test-foreign:1", other)
    job = replace(bench.job(), image=ContainerImage("orchestrator-test-foreign:1", own))
    try:
        for refuse in (lambda: bench.executor.check(job), lambda: bench.executor.run(job, bench.see)):
            with pytest.raises(WrongArchitectureError) as refused:
                refuse()
            assert f"docker pull --platform linux/{own}" in refused.value.hint
    finally:
        client.images.remove("orchestrator-test-foreign:1")


def test_docker_for_another_processor_is_refused(bench: Bench, daemon: Daemon) -> None:
    other = "arm64" if daemon.architecture == "amd64" else "amd64"
    job = replace(bench.job(), image=ContainerImage(daemon.base_image, other))
    with pytest.raises(WrongArchitectureError, match=f"Docker runs on {daemon.architecture}"):
        bench.executor.check(job)


def test_an_image_is_built_from_its_base_when_it_is_missing(bench: Bench, daemon: Daemon, tmp_path: Path) -> None:
    dockerfile = tmp_path / "quantizer.Dockerfile"
    dockerfile.write_text("ARG BASE\nFROM $BASE\nARG VERSION\nRUN echo building $VERSION > /built\n")
    context = tmp_path / "context"
    context.mkdir()
    build = ImageBuild(dockerfile, context, daemon.base_image, {"VERSION": "0.47"})
    image = ContainerImage("orchestrator-test-built:1", daemon.architecture, build)
    job = replace(bench.job(), argv=("cat", "/built"), image=image)
    try:
        bench.run(job)
        assert bench.lines[-1] == "building 0.47"
        assert any("FROM" in line for line in bench.lines)
        bench.events.clear()
        bench.run(job)
        assert bench.lines == ["building 0.47"], "what is there is not built again"
    finally:
        with closing(daemon.connect()) as client:
            client.images.remove("orchestrator-test-built:1", force=True)


def test_a_build_that_fails_names_its_dockerfile(bench: Bench, daemon: Daemon, tmp_path: Path) -> None:
    dockerfile = tmp_path / "quantizer.Dockerfile"
    dockerfile.write_text("ARG BASE\nFROM $BASE\nRUN false\n")
    build = ImageBuild(dockerfile, tmp_path / "in put", daemon.base_image)
    image = ContainerImage("orchestrator-test-broken:1", daemon.architecture, build)
    with pytest.raises(ImageUnavailableError, match=r"quantizer\.Dockerfile"):
        bench.run(replace(bench.job(), image=image))


# The line to paste


def test_the_line_to_paste_makes_the_same_container(bench: Bench, daemon: Daemon, client: DockerClient) -> None:
    if shutil.which("docker") is None:
        pytest.skip("there is no docker command here")
    job = replace(bench.job("show_arguments", "two words", "ü"), environment={"A": "b c"})
    create_only(client, job)
    ours = client.containers.get(bench.container).attrs
    client.containers.get(bench.container).remove()
    docker, _run, once, *arguments = bench.executor.command_line(job)
    assert once == "--rm"
    command = (docker, "create", *arguments)
    created = subprocess.run(command, env=daemon.environment, check=True, capture_output=True, text=True)
    container = client.containers.get(created.stdout.strip())
    pasted = container.attrs
    container.remove()
    assert _meaning(pasted) == _meaning(ours)


def _meaning(inspected: dict[str, Any]) -> dict[str, Any]:
    """Leave out what says nothing: identities, times, and the many ways to spell "not set"."""
    host, config = inspected["HostConfig"], inspected["Config"]
    of_host = {name: value for name, value in host.items() if value and name not in ("ConsoleSize", "RestartPolicy")}
    of_host["CapAdd"] = [name.removeprefix("CAP_") for name in host["CapAdd"]]
    of_host["Mounts"] = sorted(json.dumps(mount, sort_keys=True) for mount in host["Mounts"])
    of_host["Ulimits"] = sorted(
        (limit["Name"], limit["Soft"], limit["Hard"]) for limit in host["Ulimits"] if limit["Name"] != "memlock"
    )
    terminal = ("AttachStdout", "AttachStderr", "Hostname")
    of_config = {name: value for name, value in config.items() if value and name not in terminal}
    of_config.pop("Labels", None)  # by which the orchestrator finds its own again; a person's has none
    return {"host": of_host, "config": of_config | {"Env": sorted(config["Env"])}, "path": inspected["Path"]}


# Losing Docker


def test_a_crashed_docker_costs_no_line_and_no_result(own_daemon: OwnDaemon, tmp_path: Path) -> None:
    bench = Bench.of_daemon(own_daemon.daemon, tmp_path)
    with in_background(bench, bench.job("tick", "40", "9")) as outcomes:
        wait_for(lambda: len(bench.lines) > 3)
        own_daemon.kill()
        time.sleep(0.5)
        own_daemon.start()
    (outcome,) = outcomes
    assert (outcome.exit_status, outcome.killed) == (9, False)
    assert len(bench.lines) == len(set(bench.lines)), "no line comes twice"
    assert bench.lines[-1] == "tick 39"
    assert any(isinstance(event, Warned) for event in bench.events)


def test_a_docker_that_stays_away_is_given_up_and_its_container_found_later(
    own_daemon: OwnDaemon, tmp_path: Path
) -> None:
    bench = Bench.of_daemon(own_daemon.daemon, tmp_path)
    bench.executor = own_daemon.daemon.executor(patience=1)
    job = bench.job("wait", attempt="first")
    job.output.mkdir(parents=True)

    def lose_engine(event: Event) -> None:
        if event == LogLine("waiting"):
            own_daemon.kill()

    with pytest.raises(DockerUnavailableError) as given_up:
        bench.executor.run(job, lose_engine)
    assert "adopted" in given_up.value.hint
    (job.output / "go").touch()
    own_daemon.start()
    outcome = bench.run(bench.job("wait", attempt="second"))
    assert (outcome.exit_status, outcome.output, outcome.adopted) == (0, job.output, True)
