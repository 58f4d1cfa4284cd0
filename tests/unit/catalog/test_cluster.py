"""cluster.yaml: what it may say, and how a mistake is answered."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from orchestrator.catalog.cluster import Cluster, Slurm, cluster_schema_text, read_cluster
from orchestrator.catalog.schedulers import SchedulerName
from orchestrator.documents.schema import is_current
from orchestrator.errors import ClusterInvalidError

ROOT = Path(__file__).resolve().parents[3]
WHOLE = """\
schema_version: 1
margins: {time: 2.0, stop_seconds: 60}
slurm:
  containers: apptainer
  partition: gpu
  account: team-a
  qos: normal
  constraint: h100&ib
  gpu: gpu:h100
  cpus: 8
  options: [--exclude=node7]
  steps:
    download: {partition: transfer, minutes: 600, memory_gb: 8}
"""
LEAST = "schema_version: 1\nslurm:\n  containers: none\n"


def read(folder: Path, text: str) -> Cluster:
    file = folder / "cluster.yaml"
    file.write_text(text)
    return read_cluster(file, "slurm")


def slurm(folder: Path, text: str) -> Slurm:
    found = read(folder, text).slurm
    assert found
    return found


def test_the_settings_of_a_step_replace_those_of_all_steps(tmp_path: Path) -> None:
    cluster = slurm(tmp_path, WHOLE)
    download, quantize = cluster.placement("download"), cluster.placement("quantize")
    assert (download.partition, download.minutes, download.memory_gb) == ("transfer", 600, 8)
    assert (download.account, download.gpu, download.options) == ("team-a", "gpu:h100", ("--exclude=node7",))
    assert (quantize.partition, quantize.minutes, quantize.memory_gb) == ("gpu", None, None)


def test_two_keys_are_enough(tmp_path: Path) -> None:
    assert slurm(tmp_path, LEAST).placement("quantize").partition is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterInvalidError, match=r"cluster.yaml: there is no such file") as refused:
        read_cluster(tmp_path / "cluster.yaml", "slurm")
    least = re.findall("`([^`]+)`", refused.value.hint)
    assert read(tmp_path, "\n".join(least)) == read(tmp_path, LEAST)


def test_a_misspelled_key_is_answered_with_its_line_and_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(ClusterInvalidError, match=r"(?s)cluster.yaml:4:.*partitoin.*partition"):
        read(tmp_path, f"{LEAST}  partitoin: gpu\n")


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    text = "schema_version: 1\npbs: {}\nslurm: {containers: podman, steps: {quantize: {minutes: 0}}}\n"
    with pytest.raises(ClusterInvalidError) as raised:
        read(tmp_path, text)
    assert all(word in raised.value.message for word in ("pbs", "slurm.containers", "slurm.steps.quantize.minutes"))


@pytest.mark.parametrize("value", ["gpu --wrap=evil", 'gpu"', "gpu\n#SBATCH --uid=0", "$(id)", ""])
def test_a_value_cannot_become_another_line_of_a_script(tmp_path: Path, value: str) -> None:
    with pytest.raises(ClusterInvalidError, match="partition"):
        read(tmp_path, f"{LEAST}  partition: {json.dumps(value)}\n")


def test_the_shipped_schema_is_current_and_accepts_what_the_program_accepts(tmp_path: Path) -> None:
    assert is_current(ROOT / "recipes" / "cluster.schema.json", cluster_schema_text())
    schema = json.loads(cluster_schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    cluster = read(tmp_path, WHOLE)
    jsonschema.Draft202012Validator(schema).validate(cluster.model_dump(mode="json", exclude_unset=True))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate({"schema_version": 1, "slurm": {}})


PODS = "schema_version: 1\nkubernetes:\n  image: registry.example/tool:1\n  volume: {claim: models, path: /models}\n"


def test_the_settings_of_a_step_of_kubernetes_replace_those_of_all_steps(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(
        f"{PODS}  queue: team\n  steps: {{quantize: {{image: 'tool:2', node_selector: {{gpu: h100}}}}}}\n"
    )
    site = read_cluster(tmp_path / "cluster.yaml", "kubernetes").kubernetes
    assert site
    quantize, verify = site.placement("quantize"), site.placement("verify")
    assert (quantize.image, quantize.queue, quantize.node_selector) == ("tool:2", "team", {"gpu": "h100"})
    assert (verify.image, verify.node_selector) == ("registry.example/tool:1", {})


@pytest.mark.parametrize(("text", "other", "here"), [(PODS, "slurm", "kubernetes"), (LEAST, "kubernetes", "slurm")])
def test_a_section_that_is_missing_is_named(tmp_path: Path, text: str, other: SchedulerName, here: str) -> None:
    (tmp_path / "cluster.yaml").write_text(text)
    with pytest.raises(ClusterInvalidError, match=f"no section `{other}`, which --executor {other} needs") as refused:
        read_cluster(tmp_path / "cluster.yaml", other)
    assert here not in refused.value.hint


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("  user: 0", "kubernetes.user"),
        ("  namespace: Team_A", "kubernetes.namespace"),
        ("  gpu: h100", "kubernetes.gpu"),
        ("  node_selctor: {a: b}", "node_selector"),
        ("  secrets: {HF_TOKEN: hf_canary}", "kubernetes.secrets.HF_TOKEN"),
    ],
)
def test_a_mistake_in_the_section_of_kubernetes_is_answered_with_its_key(tmp_path: Path, line: str, place: str) -> None:
    (tmp_path / "cluster.yaml").write_text(f"{PODS}{line}\n")
    with pytest.raises(ClusterInvalidError, match=rf"(?s)cluster.yaml:5:.*{place}"):
        read_cluster(tmp_path / "cluster.yaml", "kubernetes")
