"""Disturbs a Kubernetes and builds on it, at random. The cluster is a stand-in, because no real one starts here."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.cluster import ClusterChaos, Fault
from tests.support.bench import wait_for
from tests.support.kubernetes import Kubernetes, cluster_text


@dataclass(kw_only=True)
class KubernetesChaos(ClusterChaos):
    """On the stand-in, whose API server keeps its objects when it restarts, as with etcd."""

    kubernetes: Kubernetes

    executor = "kubernetes"

    @property
    def kinds(self) -> Mapping[str, Fault]:
        return {
            "server": self.restart_server,
            "busy": self.refuse_for_a_while,
            "eviction": self.evict,
            "pod": self.delete_pod,
            "object": self.delete_job,
            "process": self.kill_job,
            "orchestrator": self.kill_build,
        }

    @property
    def variables(self) -> Mapping[str, str]:
        return {"KUBECONFIG": self.kubernetes.environment["KUBECONFIG"]}

    def settings(self) -> str:
        return cluster_text(self.folder, settle_seconds=0.5, minutes=5)

    def queue(self) -> list[str]:
        return self.kubernetes.queue()

    def begin_round(self) -> None:
        self.kubernetes.empty()

    def wait_until_it_answers(self) -> None:
        wait_for(lambda: not self.kubernetes.away)

    def restart_server(self, _build: subprocess.Popen[bytes], _place: Path) -> None:
        """Close every connection, and refuse new ones for a while."""
        self.kubernetes.stop_server()
        time.sleep(self._random.uniform(0, 1.0))
        self.kubernetes.start_server()

    def refuse_for_a_while(self, _build: subprocess.Popen[bytes], _place: Path) -> None:
        """Answer with 503 only."""
        self.kubernetes.away = True
        time.sleep(self._random.uniform(0, 1.0))
        self.kubernetes.away = False

    def evict(self, _build: subprocess.Popen[bytes], _place: Path) -> None:
        self.kubernetes.evict("The node was low on resource: memory.")

    def delete_pod(self, _build: subprocess.Popen[bytes], _place: Path) -> None:
        self._delete("pods")

    def delete_job(self, _build: subprocess.Popen[bytes], _place: Path) -> None:
        self._delete("jobs")

    def _delete(self, plural: str) -> None:
        for found in self.kubernetes.all(plural)[-1:]:
            self.kubernetes.kubectl_delete(plural, found["metadata"]["name"])
