"""Writes the manifest of a Kubernetes Job, for the API server and for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from orchestrator.catalog.cluster import Cluster, Kubernetes, KubernetesPlacement
from orchestrator.errors import ClusterInvalidError
from orchestrator.executors.job import Job
from orchestrator.executors.job_task import task_lines
from orchestrator.executors.process import inherited_of, is_private, text_of
from orchestrator.executors.scheduler import Resources
from orchestrator.values import frozen

Object = dict[str, Any]
"""One object of Kubernetes."""

REQUEST = "job.yaml"
"""The name of a manifest in its job's folder."""
MANAGED_BY = {"app.kubernetes.io/managed-by": "orchestrator"}
FOLDER = "orchestrator.dev/folder"
"""The annotation with the folder of a job."""
NETWORK = "orchestrator.dev/network"
"""The label of a pod that a policy selects: `none` or `outgoing`."""
POLICY = "orchestrator-no-network"
QUEUE = "kueue.x-k8s.io/queue-name"

_MIB = 1 << 20
_HOME = "/tmp"  # noqa: S108 - the only folder of a pod, besides the volume, that can be written
_OF_THE_POD = frozenset({"CUDA_VISIBLE_DEVICES", "HOME", "LD_LIBRARY_PATH", "PATH", "TMPDIR"})
"""Inherited variables that a pod has its own values of."""
_PATHS = frozenset({"HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_XET_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"})
_CERTIFICATES = frozenset({"REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE"})


@frozen
class ManifestWriter:
    """Writes manifests for one site."""

    cluster: Cluster
    site: Kubernetes
    environment: Mapping[str, str]
    """The source of the few inherited variables."""
    grace: float
    """Seconds between asking a command to stop and killing it."""

    def write(self, job: Job, name: str, resources: Resources, order: int = 0) -> Object:
        """Return the manifest of a job. It holds no secret.

        Args:
            job: The job, with its folder.
            name: The name of the object.
            resources: What the job requests.
            order: Its place among the jobs of a build, from 1, for Argo CD; 0: it has none.

        Raises:
            ClusterInvalidError: A secret or folder of the job is not one that pods have.
        """
        placement = self.site.placement(job.step)
        labels = self._labels(job)
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": name,
                "namespace": self.site.namespace,
                "labels": {**labels, **({QUEUE: placement.queue} if placement.queue else {})},
                "annotations": {
                    FOLDER: str(job.output.parent),
                    **({"argocd.argoproj.io/sync-wave": str(order)} if order else {}),
                },
            },
            "spec": {
                "backoffLimit": 0,
                "ttlSecondsAfterFinished": 60 * self.site.keep_minutes,
                **({"suspend": True} if placement.queue else {}),
                "template": {
                    "metadata": {"labels": {**labels, NETWORK: "outgoing" if job.network else "none"}},
                    "spec": self._pod(job, placement, resources),
                },
            },
        }

    def _pod(self, job: Job, placement: KubernetesPlacement, resources: Resources) -> Object:
        self._require_on_volume(job.output)
        minutes = placement.minutes or resources.minutes
        who = {"runAsUser": self.site.user, "runAsGroup": self.site.group, "fsGroup": self.site.group}
        rules = {"fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"}}
        claim = {"claimName": self.site.volume.claim}
        return {
            "restartPolicy": "Never",
            # of the pod: that of the Job would count the time in the queue
            "activeDeadlineSeconds": 60 * (minutes + self.site.start_minutes),
            "terminationGracePeriodSeconds": math.ceil(self.grace) + 10,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {"runAsNonRoot": True, **who, **rules},
            **dict(_placed(placement)),
            **(
                {"imagePullSecrets": [{"name": name} for name in self.site.pull_secrets]}
                if self.site.pull_secrets
                else {}
            ),
            "containers": [self._container(job, placement, minutes, resources)],
            "volumes": [{"name": "store", "persistentVolumeClaim": claim}, {"name": "tmp", "emptyDir": {}}],
        }

    def _container(self, job: Job, placement: KubernetesPlacement, minutes: int, resources: Resources) -> Object:
        secrets = tuple(self._references(job))
        inside = replace(job, network=True)  # the pod is isolated, and its variables are for the command
        task = (word for line in task_lines(inside, minutes, self.cluster, self.grace) for word in line)
        named = (word for secret in secrets for word in ("--secret", secret["name"]))
        words = (self.site.python, *task, *named, "--", *(text_of(job, word) for word in job.argv))
        return {
            "name": "step",
            "image": placement.image,
            "command": [*map(_literal, words)],
            "workingDir": str(job.output),
            "env": [*self._variables(job), *secrets],
            "resources": _amounts(placement, resources),
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            },
            "volumeMounts": [
                {"name": "store", "mountPath": self.site.volume.path},
                {"name": "tmp", "mountPath": _HOME},
            ],
        }

    def _labels(self, job: Job) -> dict[str, str]:
        own = {"orchestrator.dev/recipe": _label(job.recipe), "orchestrator.dev/step": _label(job.step)}
        return {"app.kubernetes.io/name": "orchestrator-step", **MANAGED_BY, **own}

    def _variables(self, job: Job) -> Iterator[dict[str, str]]:
        """Yield the variables of the pod: its home, the Hub's cache on the volume, and those for the network."""
        own = {"HOME": _HOME, "TMPDIR": _HOME, "HF_HOME": str(Path(self.site.volume.path) / "huggingface")}
        if not job.network:
            own["HF_HUB_OFFLINE"] = "1"
        for name, value in inherited_of(job, self.environment).items():
            if name in _OF_THE_POD or (name in _PATHS | _CERTIFICATES | {"HF_HOME"} and not self._is_on_volume(value)):
                continue
            if is_private(value):
                message = f"{name} holds a password, which no manifest may show"
                hint = f"put it into a Secret, and name it in cluster.yaml: kubernetes.secrets.{name}"
                if name not in self.site.secrets:
                    raise ClusterInvalidError(message, hint=hint)
                continue
            own[name] = value
        yield from ({"name": name, "value": _literal(value)} for name, value in sorted(own.items()))

    def _references(self, job: Job) -> Iterator[Object]:
        """Yield the variables whose values Kubernetes takes from Secrets."""
        for name, value in job.secrets.items():
            if value and name not in self.site.secrets:
                message = f"{job.step} uses {name}, and cluster.yaml names no Secret for it"
                hint = f"name one: kubernetes.secrets.{name}: {{name: SECRET, key: KEY}}; or unset {name}"
                raise ClusterInvalidError(message, hint=hint)
        inherited = inherited_of(job, self.environment)
        for name, secret in self.site.secrets.items():
            if name in job.secrets or name in inherited:
                reference = {"name": secret.name, "key": secret.key}
                yield {"name": name, "valueFrom": {"secretKeyRef": reference}}

    def _is_on_volume(self, path: str) -> bool:
        return Path(path).is_relative_to(self.site.volume.path)

    def _require_on_volume(self, folder: Path) -> None:
        if not self._is_on_volume(str(folder)):
            message = f"{folder} is not on the volume that pods see at {self.site.volume.path}"
            hint = "mount the volume here at the same path, and name folders on it: --store FOLDER, --render FOLDER"
            raise ClusterInvalidError(message, hint=hint)


def network_policy(namespace: str) -> Object:
    """Return the policy that lets pods of steps without network neither send nor receive."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": POLICY, "namespace": namespace, "labels": {**MANAGED_BY}},
        "spec": {
            "podSelector": {"matchLabels": {**MANAGED_BY, NETWORK: "none"}},
            "policyTypes": ["Ingress", "Egress"],
        },
    }


def as_yaml(document: Object) -> str:
    """Write an object as Kubernetes' tools read it."""
    return yaml.safe_dump(document, sort_keys=False, width=1000, allow_unicode=True)


def submit_text(jobs: Sequence[tuple[Job, str]], site: Kubernetes) -> str:
    """Return a script that applies the manifests of jobs by hand, each after the success of the one before.

    Args:
        jobs: The jobs with the names of their objects.
        site: The site's settings.
    """
    context = f" --context {site.context}" if site.context else ""
    lines = [
        "#!/bin/bash",
        f"# Applies the steps of {jobs[0][0].recipe} in their order. Each waits for the success of the one before.",
        "set -euo pipefail",
        'cd "$(dirname "$0")"',
        "rm -f */ending  # of an earlier run",
        "# waits until a job has ended, and ends if it failed",
        "succeeds() {",
        """  until kubectl get "$1" -o 'jsonpath={.status.conditions[*].type}' | grep -qE 'Complete|Failed'; do""",
        "    sleep 2",
        "  done",
        '  kubectl wait "$1" --for=condition=complete --timeout=1s',
        "}",
        f'kubectl() {{ command kubectl{context} --namespace {site.namespace} "$@"; }}',
        "kubectl apply -f network-policy.yaml",
    ]
    for job, name in jobs:
        lines += [
            f"kubectl apply -f {job.step}/{REQUEST}",
            f"succeeds job/{name}",
        ]
    return "\n".join(lines) + "\n"


def _placed(placement: KubernetesPlacement) -> Iterator[tuple[str, object]]:
    if placement.node_selector:
        yield "nodeSelector", dict(placement.node_selector)
    if placement.tolerations:
        yield "tolerations", [each.model_dump(exclude_none=True) for each in placement.tolerations]
    if placement.priority_class:
        yield "priorityClassName", placement.priority_class
    if placement.runtime_class:
        yield "runtimeClassName", placement.runtime_class


def _amounts(placement: KubernetesPlacement, resources: Resources) -> Object:
    memory = placement.memory_gb * 1e9 if placement.memory_gb else resources.memory
    amount = {"memory": f"{math.ceil(memory / _MIB)}Mi"}
    gpus = {placement.gpu: resources.gpus} if resources.gpus else {}
    cpus = {"cpu": str(placement.cpus)} if placement.cpus else {}
    return {"requests": {**cpus, **amount}, "limits": {**amount, **gpus}}


def _literal(word: str) -> str:
    """Keep Kubernetes from replacing `$(NAME)` by a variable."""
    return word.replace("$(", "$$(")


def _label(name: str) -> str:
    """Cut a name to what a label may hold."""
    return name[:63].strip("-._")
