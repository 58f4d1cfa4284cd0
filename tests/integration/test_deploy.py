"""A bundle brought up, asked, watched, hurt and taken down in real Docker, with stand-ins for NVIDIA's programs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from orchestrator.deployment.gateway_client import Gateway
from tests.support.bench import wait_for
from tests.support.deployed import RECIPE, Bundle, require, things
from tests.support.docker_daemon import Daemon, OwnDaemon
from tests.support.ports import free_port
from tests.support.rehearsal import Rehearsal, build_images

pytestmark = pytest.mark.docker

KEY = "nimg-a-key-for-this-test-alone"
CANARIES = {
    "HF_TOKEN": "hf_canary_of_the_hub",
    "NGC_API_KEY": "nvapi-canary-of-ngc",
    "ORCHESTRATOR_API_KEY": "nimg-canary-of-the-gateway",
}


@pytest.fixture(scope="module")
def built(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    """A project whose recipe is built."""
    build_images(daemon)
    rehearsal = Rehearsal.make(tmp_path_factory.mktemp("deploy") / "project", daemon)
    rehearsal.run("build", RECIPE)
    Bundle.keep_image(rehearsal, daemon)
    return rehearsal


@pytest.fixture
def bundle(built: Rehearsal, daemon: Daemon, tmp_path: Path) -> Iterator[Bundle]:
    """A copy of the bundle that is not up, and will not be."""
    copy = Bundle.copy(built, daemon, tmp_path / "dist")
    with copy.taken_down():
        yield copy


def test_deploy_brings_up_asks_and_stays_as_it_is_until_undeploy_removes_it_all(bundle: Bundle, daemon: Daemon) -> None:
    before = things(daemon)
    first = bundle.deploy(**CANARIES)
    assert first["answer"] == "Paris is what a stand-in answers."
    assert first["tokens_per_second"] > 0
    assert first["seconds_to_first_token"] > 0
    assert {path: bundle.ask(path) for path in ("/v1/health/ready", "/v1/metadata", "/update_weights")} == {
        "/v1/health/ready": 200,
        "/v1/metadata": 200,
        "/update_weights": 404,
    }
    found = bundle.inspect()
    assert_hardened(found)
    assert [name for name, value in CANARIES.items() if value in json.dumps(found)] == []

    again = bundle.deploy()
    assert again["answer"] == first["answer"]
    assert bundle.inspect()["Id"] == found["Id"]
    assert bundle.status()["state"] == "ready"
    assert "Uvicorn running" in bundle.run("logs", RECIPE, "server").stdout

    said = bundle.run("undeploy", RECIPE, "--volumes").stdout
    assert things(daemon) == before
    assert "removed volume" in said
    assert "is not deployed" in bundle.run("undeploy", RECIPE).stdout


def test_two_who_deploy_the_same_at_once_make_it_once_and_both_are_answered(bundle: Bundle, daemon: Daemon) -> None:
    before = things(daemon)
    both = [bundle.start("deploy", RECIPE) for _ in range(2)]
    for process in both:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert "ready after" in said
    after = things(daemon)
    assert len(after["containers"] - before["containers"]) == 1
    assert len(after["networks"] - before["networks"]) == 1


def assert_hardened(found: dict[str, Any]) -> None:
    host = found["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] is None
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["PortBindings"]["8000/tcp"][0]["HostIp"] == "127.0.0.1"
    assert found["Config"]["User"] == "1000:1000"
    writable = {mount["Destination"] for mount in found["Mounts"] if mount["RW"]}
    assert writable == {"/opt/nim/.cache"}


def test_an_engine_that_dies_is_seen_and_started_again(bundle: Bundle, daemon: Daemon) -> None:
    bundle.deploy()
    assert bundle.status()["restarts"] == 0
    kill = (
        "import os\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    if b'/trtllm-serve' in open(f'/proc/{pid}/cmdline', 'rb').read(): os.kill(int(pid), 9)\n"
    )
    with closing(daemon.connect()) as client:
        client.containers.get(bundle.container).exec_run(["python3", "-c", kill])
    wait_for(lambda: bundle.status()["state"] != "ready")
    wait_for(lambda: (seen := bundle.status())["state"] == "ready" and seen["restarts"] == 1, 60)


@pytest.mark.parametrize("user", ["34567:0", "1000:2000"])
def test_it_runs_as_any_user_that_a_cluster_may_choose(bundle: Bundle, user: str) -> None:
    bundle.set(RUN_AS=user)
    assert bundle.deploy()["answer"]
    assert bundle.inspect()["Config"]["User"] == user


def test_a_changed_setting_replaces_the_container_and_keys_are_asked_for(bundle: Bundle) -> None:
    bundle.deploy()
    before = bundle.inspect()["Id"]
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    (bundle.folder / "secrets" / "api_keys").write_text(f"test sha256:{digest}\n")
    bundle.set(NIM_GATEWAY_API_KEYS_FILE="/run/secrets/api_keys")
    assert bundle.fails(3)["code"] == "API_KEY_MISSING"
    assert bundle.inspect()["Id"] != before
    assert bundle.deploy(ORCHESTRATOR_API_KEY=KEY)["answer"]
    after = bundle.inspect()
    assert KEY not in json.dumps(after)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        bundle.set(PORT=str(taken.getsockname()[1]))
        assert bundle.fails(6)["code"] == "PORT_IN_USE"
    assert bundle.inspect()["Id"] == after["Id"]


def test_a_server_that_ends_is_told_with_its_last_lines_and_not_started_for_ever(bundle: Bundle) -> None:
    bundle.set(NIM_PASSTHROUGH_ARGS="--no_such_option 1")
    error = bundle.fails(5)
    assert error["code"] == "SERVER_ENDED"
    assert "no_such_option" in error["message"]
    assert bundle.inspect()["State"]["Running"] is False
    bundle.set()
    assert bundle.deploy()["answer"]


def test_interrupted_it_goes_on_starting_and_the_same_command_waits_for_it(bundle: Bundle) -> None:
    with bundle.start("deploy", RECIPE) as process:
        assert process.stderr is not None
        assert any(line.startswith("▸ server:") for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    before = bundle.inspect()
    assert before["State"]["Running"] is True
    assert bundle.deploy()["answer"]
    assert bundle.inspect()["Id"] == before["Id"]


def test_an_image_can_hold_the_model_and_settings_survive_another_bundle(bundle: Bundle, built: Rehearsal) -> None:
    built.run("--dist", str(bundle.dist), "bundle", RECIPE, "--embed-model")
    assert (bundle.folder / ".env").is_file()
    assert bundle.deploy()["answer"]
    assert "/opt/nim/model" not in {mount["Destination"] for mount in bundle.inspect()["Mounts"]}


def test_what_cannot_work_is_said_before_anything_is_made(bundle: Bundle, daemon: Daemon) -> None:
    before = things(daemon)
    with closing(socket.create_server(("127.0.0.1", bundle.port))):
        assert bundle.fails(6)["code"] == "PORT_IN_USE"

    compose = (bundle.folder / "compose.yaml").read_text()
    reservation = "deploy: {resources: {reservations: {devices: [{driver: nvidia, count: 1, capabilities: [gpu]}]}}}"
    (bundle.folder / "compose.yaml").write_text(compose.replace("    init: true", f"    {reservation}"))
    if not shutil.which("nvidia-ctk"):
        assert bundle.fails(6)["code"] == "GPU_RUNTIME_MISSING"
    (bundle.folder / "compose.yaml").write_text(compose.replace("    init: true", "    inet: true"))
    error = bundle.fails(3)
    assert error["code"] == "COMPOSE_UNSUPPORTED"
    assert "services.server.inet" in error["message"]
    (bundle.folder / "compose.yaml").write_text(compose)

    weights = bundle.folder / "model" / "config.json"
    weights.chmod(0o600)
    assert bundle.fails(6)["code"] == "NO_PERMISSION"
    shutil.rmtree(bundle.folder / "model")
    assert bundle.fails(3)["code"] == "NOT_BUILT"
    assert bundle.fails(6, DOCKER_HOST=f"unix://{bundle.dist}/no.sock")["code"] == "DOCKER_UNAVAILABLE"
    assert things(daemon) == before


def test_an_image_that_nobody_has_is_an_error_with_a_way_out(bundle: Bundle) -> None:
    bundle.set(BASE_IMAGE=f"127.0.0.1:{free_port()}/nobody/has:this")
    error = bundle.fails(6)
    assert error["code"] == "IMAGE_UNAVAILABLE"
    assert "docker pull" in error["hint"]


def test_compose_makes_the_same_container_of_the_same_file(bundle: Bundle, daemon: Daemon) -> None:
    require("docker-compose", "docker-compose")
    text = (bundle.folder / "compose.yaml").read_text()
    (bundle.folder / "compose.yaml").write_text(
        text.replace("      memlock: -1\n", "")
    )  # not every Docker may raise it
    bundle.deploy()
    ours = bundle.inspect()
    bundle.run("undeploy", RECIPE)
    document: dict[str, Any] = YAML(typ="safe").load(bundle.folder / "compose.yaml")
    del document["name"]  # Debian's Compose does not know it yet
    file = bundle.folder / "older.yaml"
    file.write_text(json.dumps(document))  # JSON: it reads YAML 1.1, where 472:0 without quotes is a number
    command = ("docker-compose", "--file", str(file), "--project-name", RECIPE)
    try:
        compose(command, daemon, "up", "--detach")
        wait_for(lambda: Gateway(bundle.url).health().ready, 60)
        theirs = bundle.inspect(made_by_compose(daemon))
        refused = bundle.fails(6)
    finally:
        compose(command, daemon, "down", "--volumes", "--rmi", "local")
    assert refused["code"] in {"PORT_IN_USE", "NAME_TAKEN"}  # older ones give another name
    assert theirs["Name"].removeprefix("/") in refused["message"]
    assert comparable(ours) == comparable(theirs)


def made_by_compose(daemon: Daemon) -> str:
    with closing(daemon.connect()) as client:
        (container,) = client.containers.list(filters={"label": "com.docker.compose.service=server"})
        return str(container.id)


def compose(command: tuple[str, ...], daemon: Daemon, *arguments: str) -> None:
    ended = subprocess.run((*command, *arguments), env=daemon.environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


_OF_THE_CLIENT = {"Hostname", "Labels", "Image", "AttachStdout", "AttachStderr"}
_SPELLED_OTHERWISE = {"Mounts", "Binds", "VolumesFrom", "ConsoleSize", "Links"}


def comparable(found: dict[str, Any]) -> dict[str, Any]:
    """Flatten what Docker knows of a container, without what differs between any two."""
    config = {f"Config.{key}": value for key, value in found["Config"].items() if key not in _OF_THE_CLIENT}
    host = {f"Host.{key}": value for key, value in found["HostConfig"].items() if key not in _SPELLED_OTHERWISE}
    config["Config.Env"].sort()
    host["Host.Ulimits"] = sorted(host["Host.Ulimits"] or [], key=lambda limit: str(limit["Name"]))
    mounts = {
        f"Mounts.{mount['Destination']}": (mount["Type"], mount.get("Name") or mount["Source"], mount["RW"])
        for mount in found["Mounts"]
    }
    return {key: value for key, value in (config | host | mounts).items() if value}


def test_an_archive_installs_where_there_is_no_network_and_no_bundle(
    bundle: Bundle, own_daemon: OwnDaemon, tmp_path: Path
) -> None:
    other = own_daemon.daemon
    with closing(other.connect()) as client:
        client.images.remove("orchestrator-test-base:1")
    (bundle.folder / "secrets" / "api_keys").write_text("a secret of this machine")
    archived = archive(bundle, tmp_path / "bundle.tar")
    target = home_of_a_user(other)
    with tarfile.open(archived) as file:
        file.extractall(target, filter="data")
    give_to_the_user(target)
    names = {path.relative_to(target / RECIPE).as_posix() for path in (target / RECIPE).rglob("*") if path.is_file()}
    assert not names & {".env", "secrets/api_keys"}

    install = target / RECIPE / "install.sh"
    assert as_the_user(other, install).returncode == 0
    moved = replace(bundle, dist=target, daemon=other, port=free_port())
    moved.set()
    with moved.taken_down():
        assert moved.deploy()["answer"]
    with closing(other.connect()) as client:
        assert [tag for image in client.images.list() for tag in image.tags if tag.startswith(RECIPE)]

    (target / RECIPE / "serve.json").write_text("{}")
    spoilt = as_the_user(other, install, "--check")
    assert spoilt.returncode == 7
    assert "serve.json" in spoilt.stdout
    shutil.rmtree(target)


USER = 1000
"""A user without privileges, who may use Docker: the group of the same number has its socket."""


def home_of_a_user(daemon: Daemon) -> Path:
    """Make a folder for the user, outside of those of pytest, which are the user's alone who runs it."""
    socket = Path(daemon.environment["DOCKER_HOST"].removeprefix("unix://"))
    os.chown(socket, -1, USER)
    socket.chmod(0o660)
    socket.parent.chmod(0o711)
    home = Path(tempfile.mkdtemp(prefix="a user "))
    give_to_the_user(home)
    return home


def as_the_user(daemon: Daemon, program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**daemon.environment, "HOME": str(program.parent)}
    return subprocess.run(
        (program, *arguments),
        env=environment,
        user=USER,
        group=USER,
        extra_groups=[],
        check=False,
        capture_output=True,
        text=True,
    )


def give_to_the_user(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER, follow_symlinks=False)


def archive(bundle: Bundle, file: Path) -> Path:
    """Archive a bundle as `orchestrator bundle --air-gap` does, of this copy with its own settings."""
    code = (
        "import sys; from pathlib import Path; from orchestrator.deployment.archive import archive; "
        "from orchestrator.app.deploying import images_of; "
        "from orchestrator.executors.docker_client import connect; folder = Path(sys.argv[1]); "
        "archive(connect(), folder, images_of(folder, ()), Path(sys.argv[2]), observer=lambda event: None)"
    )
    command = (sys.executable, "-W", "ignore", "-c", code, str(bundle.folder), str(file))
    subprocess.run(command, env=bundle.daemon.environment, cwd=Path(__file__).resolve().parents[2], check=True)
    return file
