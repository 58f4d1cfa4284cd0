"""The script of a Slurm job: what it requests, what it runs, and what it must not show."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from orchestrator.catalog.cluster import Cluster
from orchestrator.executors.job import Inside, Job, Mount
from orchestrator.executors.scheduler import Resources
from orchestrator.executors.slurm_script import ScriptWriter, private_values

CLUSTER = Cluster.model_validate_json(
    '{"schema_version": 1, "slurm": {"containers": "none", "partition": "gpu", "account": "team",'
    ' "qos": "normal", "constraint": "h100&ib", "gpu": "gpu:h100", "cpus": 8, "options": ["--exclude=node7"],'
    ' "steps": {"verify": {"minutes": 2, "memory_gb": 1.5, "partition": "short"}}}}'
)
RESOURCES = Resources(minutes=1501, memory=3 << 30, gpus=2)
SECRET = "hf_canary_0123456789"


def job_in(folder: Path, step: str = "quantize") -> Job:
    return Job(
        step=step,
        key="c0ffee",
        recipe="tiny",
        argv=("python3", "a b.py", "$HOME", Inside("/input", "weights")),
        output=folder / 'a 100% "b"' / "out",
        mounts=(Mount(folder / "in put", "/input"),),
        environment={"MODEL": "x y"},
        secrets={"HF_TOKEN": SECRET},
        network=True,
    )


def write(job: Job, environment: dict[str, str] | None = None) -> str:
    assert CLUSTER.slurm
    return ScriptWriter(CLUSTER, CLUSTER.slurm, environment or {}, 30).write(job, "tiny.quantize.abc", RESOURCES)


def options(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


def test_it_requests_the_plan_s_resources_and_the_site_s_settings(tmp_path: Path) -> None:
    assert options(write(job_in(tmp_path)))[3:] == [
        "--open-mode=append",
        "--no-requeue",
        "--nodes=1 --ntasks=1",
        "--time=1-01:01:00",
        "--mem=3072M",
        "--gres=gpu:h100:2",
        "--cpus-per-task=8",
        '--partition="gpu"',
        '--account="team"',
        '--qos="normal"',
        '--constraint="h100&ib"',
        "--exclude=node7",
    ]


def test_a_step_s_own_settings_replace_the_plan_s(tmp_path: Path) -> None:
    script = write(job_in(tmp_path, "verify"))
    assert {"--time=0-00:02:00", "--mem=1431M", '--partition="short"'} <= set(options(script))
    assert "--stop-after 1 " in script, "two minutes less the 120 seconds for saving its state, and at least one"


def test_a_path_with_blanks_quotes_and_percent_signs_is_quoted_as_sbatch_reads_it(tmp_path: Path) -> None:
    _, folder, log = options(write(job_in(tmp_path)))[:3]
    assert folder == f'--chdir="{tmp_path}/a 100% \\"b\\""'
    assert log == f'--output="{tmp_path}/a 100%% \\"b\\"/slurm.txt"'


def test_a_shell_reads_the_command_as_it_is(tmp_path: Path) -> None:
    here = {"PATH": "/bin:/a b", "HOME": str(tmp_path), "TMPDIR": "/scratch/login", "CUDA_VISIBLE_DEVICES": "3"}
    script = write(job_in(tmp_path), here)
    words = shlex.split(script[script.index("exec ") :].replace("\\\n", " "))
    assert words[words.index("--") + 1 :] == [sys.executable, "a b.py", "$HOME", f"{tmp_path}/in put/weights"]
    assert words[words.index("--variable") + 1] == "MODEL=x y"
    assert f"export HOME={tmp_path}\nexport PATH='/bin:/a b'\n" in script
    assert "export TMPDIR" not in script
    assert "CUDA_VISIBLE_DEVICES" not in script, "Slurm tells a job its GPUs"


def test_no_secret_and_no_password_of_a_proxy_is_in_it(tmp_path: Path) -> None:
    proxy = "http://me:pass@proxy:8080"
    environment = {"HTTPS_PROXY": proxy, "HF_HOME": "/shared/hf", "HF_TOKEN": SECRET, "NGC_API_KEY": SECRET}
    job = job_in(tmp_path)
    script = write(job, environment)
    assert SECRET not in script
    assert "pass@" not in script
    assert "export HF_HOME=/shared/hf\n" in script
    assert private_values(job, environment) == {"HTTPS_PROXY": proxy, "HF_TOKEN": SECRET}
