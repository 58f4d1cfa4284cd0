"""Places jobs by Kubernetes: one Job for each step.

A Job of Kubernetes cannot wait for another one, so the later steps are submitted one by one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from pathlib import Path

import yaml

from orchestrator.catalog.cluster import Cluster, Kubernetes
from orchestrator.executors.cluster import GRACE, job_name
from orchestrator.executors.job import Job
from orchestrator.executors.job_folder import JobFolder
from orchestrator.executors.kubernetes_client import KubernetesClient
from orchestrator.executors.kubernetes_manifest import (
    NETWORK,
    REQUEST,
    ManifestWriter,
    as_yaml,
    network_policy,
    submit_text,
)
from orchestrator.executors.scheduler import GivesUp, JobState, Resources, never
from orchestrator.values import frozen

_BRIEF = 5.0
"""Seconds to retry a question about a job that has ended, or whose state is only shown."""


@frozen
class KubernetesScheduler:
    """One namespace of a cluster with a site's settings. It fulfils `Scheduler`.

    Args:
        cluster: The settings of every scheduler.
        site: Those of Kubernetes.
        resources: Returns what a job requests.
        environment: The source of the few inherited variables, and of KUBECONFIG.
        grace: Seconds between asking a command to stop and killing it.
        seconds: Seconds to retry while the API server does not answer.
    """

    cluster: Cluster
    site: Kubernetes
    resources: Callable[[Job], Resources]
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    grace: float = GRACE
    seconds: float = 60.0

    name = "kubernetes"
    title = "Kubernetes"
    chains = False
    request_name = REQUEST

    @cached_property
    def _client(self) -> KubernetesClient:
        return KubernetesClient.of(self.environment, self.site, self.seconds)

    def brief(self) -> KubernetesScheduler:
        """Return the same with little patience."""
        return replace(self, seconds=min(_BRIEF, self.seconds))

    def check(self) -> None:
        """Check that the API server answers, and lets this account look at jobs."""
        self._client.jobs()

    def command_line(self, request: Path) -> tuple[str, ...]:
        """Return the command that applies a manifest."""
        context = ("--context", self.site.context) if self.site.context else ()
        return ("kubectl", *context, "apply", "-f", str(request))

    def request(self, job: Job, name: str) -> str:
        """Write the manifest of a job."""
        return self._manifest(job, name, 0)

    def _manifest(self, job: Job, name: str, order: int) -> str:
        writer = ManifestWriter(self.cluster, self.site, self.environment, self.grace)
        return f"# {job.recipe}: the step {job.step}\n{as_yaml(writer.write(job, name, self.resources(job), order))}"

    def by_hand(self, jobs: Sequence[Job]) -> Mapping[str, str]:
        """Return the manifests in their order, the network policy, and a script that applies them."""
        manifests = {
            f"{job.step}/{REQUEST}": self._manifest(job, job_name(job), number)
            for number, job in enumerate(jobs, start=1)
        }
        return {
            **manifests,
            "network-policy.yaml": as_yaml(network_policy(self.site.namespace)),
            "submit.sh": submit_text([(job, job_name(job)) for job in jobs], self.site),
        }

    def private_values(self, job: Job) -> Mapping[str, str]:  # noqa: ARG002 - of the protocol
        """Return nothing: secrets reach a pod by reference."""
        return {}

    def submit(self, request: Path, after: str | None = None) -> str:  # noqa: ARG002 - it has no dependencies
        """Create a Job, and before it the policy for pods without network. Return its UID."""
        manifest = yaml.safe_load(request.read_text(encoding="utf-8"))
        if manifest["spec"]["template"]["metadata"]["labels"][NETWORK] == "none":
            self._client.require_policy(network_policy(self.site.namespace))
        return self._client.create(manifest)

    def state(self, number: str, name: str, gives_up: GivesUp = never) -> JobState | None:  # noqa: ARG002 - it asks once
        """Return a Job's state."""
        return self._client.state(number, name)

    def find(self, *names: str) -> Mapping[str, str]:
        """Return our Jobs of these names that wait or run."""
        return {number: name for number, name in self._client.jobs().items() if name in names}

    def ask_to_stop(self, number: str, name: str) -> None:
        """Delete the Job: its pod gets SIGTERM."""
        self._client.delete(number, name)

    def cancel(self, number: str, name: str, *, now: bool = False) -> None:
        """Delete the Job. It stays until its pod has ended."""
        self._client.delete(number, name, now=now)

    def unblock(self, number: str, state: JobState, ended: str | None) -> None:
        """Do nothing: no job waits for another one."""

    def start_without(self, number: str) -> None:
        """Do nothing: no job waits for another one."""

    def output_of(self, number: str, name: str, folder: JobFolder) -> str:  # noqa: ARG002 - of the protocol
        """Return the last lines that the pod printed, and the reason why its container did not start."""
        return self._client.output_of(name)
