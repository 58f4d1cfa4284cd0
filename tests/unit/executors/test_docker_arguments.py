from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.executors.docker_arguments import (
    LIMITS_UNRAISED,
    User,
    container_name,
    create_arguments,
    describe,
    run_line,
)
from orchestrator.executors.job import ContainerImage, Inside, Job, Mount

SECRET = "hf_canary"
ENGINE = Job(
    step="engine",
    key="0123456789abcdef" * 4,
    recipe="llama3-70b-nvfp4",
    argv=("trtllm-build", "--checkpoint_dir", Inside("/checkpoint", "tp1"), "--output_dir", Inside("/out")),
    output=Path("/data/my models/attempts/0123/out"),
    mounts=(Mount(Path("/data/my models/store/4567"), "/checkpoint"),),
    image=ContainerImage("nvcr.io/nvidia/tensorrt-llm/release:1.2.1", "arm64"),
    environment={"TLLM_LOG_LEVEL": "INFO", "HF_HOME": Inside("/out", ".hf")},
    gpus=1,
)
DOWNLOAD = replace(ENGINE, step="download", secrets={"HF_TOKEN": SECRET}, network=True, gpus=0)
CALLER = User(1000, 1000)

LINE = """\
docker run --rm
 --init --user 1000:1000 --workdir /out
 --env HOME=/tmp/home --env PYTHONUNBUFFERED=1 --env TLLM_LOG_LEVEL=INFO --env HF_HOME=/out/.hf
 --mount 'type=bind,source=/data/my models/attempts/0123/out,target=/out'
 --mount 'type=bind,source=/data/my models/store/4567,target=/checkpoint,readonly'
 --tmpfs /tmp/home:exec,mode=1777
 --ipc host --ulimit memlock=-1 --ulimit stack=67108864 --network none
 --log-driver json-file --log-opt max-file=4 --log-opt max-size=50m
 --security-opt no-new-privileges --cap-drop ALL --gpus 1
 nvcr.io/nvidia/tensorrt-llm/release:1.2.1
 trtllm-build --checkpoint_dir /checkpoint/tp1 --output_dir /out"""


def test_the_line_to_paste_says_everything_that_the_engine_is_told() -> None:
    line = shlex.join(run_line(describe(ENGINE, user=CALLER, secrets={})))
    assert line == LINE.replace("\n", "")


def test_the_engine_is_told_the_flags_of_a_gpu_step() -> None:
    told = create_arguments(describe(ENGINE, user=CALLER, secrets={}))
    assert told["init"] is True
    assert (told["ipc_mode"], told["network_mode"], told["user"]) == ("host", "none", "1000:1000")
    assert [(limit.name, limit.soft, limit.hard) for limit in told["ulimits"]] == [
        ("memlock", -1, -1),
        ("stack", 67108864, 67108864),
    ]
    assert [(request.count, request.capabilities) for request in told["device_requests"]] == [(1, [["gpu"]])]
    assert (told["security_opt"], told["cap_drop"], told["cap_add"]) == (["no-new-privileges"], ["ALL"], [])
    assert [(mount["Source"], mount["Target"], mount["ReadOnly"]) for mount in told["mounts"]] == [
        ("/data/my models/attempts/0123/out", "/out", False),
        ("/data/my models/store/4567", "/checkpoint", True),
    ]


def test_the_engine_keeps_the_container_when_it_ends() -> None:
    assert "auto_remove" not in create_arguments(describe(ENGINE, user=CALLER, secrets={}))


def test_the_line_to_paste_leaves_nothing_behind() -> None:
    line = run_line(describe(ENGINE, user=CALLER, secrets={}))
    assert "--rm" in line
    assert "--name" not in line  # two steps that are pasted one after the other must not want the same name


def test_only_a_job_with_network_has_one() -> None:
    described = describe(DOWNLOAD, user=CALLER, secrets={})
    assert "network_mode" not in create_arguments(described)
    assert "--network" not in run_line(described)


def test_a_job_without_gpus_asks_for_none() -> None:
    described = describe(DOWNLOAD, user=CALLER, secrets={})
    assert create_arguments(described)["device_requests"] == []
    assert "--gpus" not in run_line(described)


def test_a_secret_is_a_file_whose_path_stands_in_the_environment() -> None:
    described = describe(DOWNLOAD, user=CALLER, secrets={"HF_TOKEN": Path("/tmp/private/HF_TOKEN")})
    told = create_arguments(described)
    assert told["environment"]["HF_TOKEN_PATH"] == "/run/secrets/HF_TOKEN"
    assert (told["mounts"][-1]["Source"], told["mounts"][-1]["ReadOnly"]) == ("/tmp/private/HF_TOKEN", True)
    spelled = json.dumps(told, default=str) + shlex.join(run_line(described))
    assert SECRET not in spelled


def test_root_may_still_read_what_root_may_read() -> None:
    assert create_arguments(describe(ENGINE, user=User(0, 0), secrets={}))["cap_add"] == ["DAC_OVERRIDE"]


def test_an_engine_that_may_not_raise_limits_is_not_asked_to() -> None:
    described = describe(ENGINE, user=CALLER, secrets={}, limits=LIMITS_UNRAISED)
    assert [limit.name for limit in create_arguments(described)["ulimits"]] == ["stack"]
    assert "memlock=-1" not in run_line(described)


def test_a_path_with_a_comma_is_quoted_as_docker_reads_it() -> None:
    job = replace(ENGINE, mounts=(Mount(Path('/data/a,b"c'), "/checkpoint"),))
    assert 'type=bind,"source=/data/a,b""c",target=/checkpoint,readonly' in run_line(
        describe(job, user=CALLER, secrets={})
    )


def test_the_name_is_that_of_the_key_and_the_store() -> None:
    here, again, elsewhere = (replace(ENGINE, output=Path(f"/{place}/out")) for place in ("a/x-1", "a/x-2", "b/x-1"))
    assert container_name(here).startswith(f"orchestrator-{ENGINE.key[:16]}-")
    assert container_name(here) == container_name(again)
    assert container_name(here) != container_name(elsewhere)


def test_a_job_without_an_image_has_no_container() -> None:
    with pytest.raises(ValueError, match="names no image"):
        describe(replace(ENGINE, image=None), user=CALLER, secrets={})


def test_an_image_whose_own_entry_point_is_a_server_runs_another_command_all_the_same() -> None:
    image = ContainerImage("vllm/vllm-openai:v0.33.0", "arm64", clears_entrypoint=True)
    described = describe(replace(ENGINE, image=image), user=CALLER, secrets={})
    assert create_arguments(described)["entrypoint"] == [""]
    line = run_line(described)
    assert line[line.index("--entrypoint") + 1] == ""
    assert line.index("--entrypoint") < line.index("vllm/vllm-openai:v0.33.0")
    assert "entrypoint" not in create_arguments(describe(ENGINE, user=CALLER, secrets={}))
