"""A stand-in for a Kubernetes cluster of one node: an API server in memory whose kubelet runs pods as processes.

It does what the real one does with Jobs, Pods, NetworkPolicies and Events: strict schemas, 401, 403, 404, 409 and 422
with the words of the real server, deletion in the foreground and background, conditions, deadlines, eviction, TTL. It
enforces no network policy and no user. No real cluster can be installed here. The fixture is `kubernetes`.
"""

from __future__ import annotations

import copy
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from orchestrator.catalog.cluster import Cluster
from orchestrator.executors.cluster import ClusterExecutor
from orchestrator.executors.kubernetes import KubernetesScheduler
from orchestrator.executors.scheduler import Resources
from tests.support.manifests import VERSIONS, Object, core_problems

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "registry.example/orchestrator:1"
CLAIM = "models"
NAMESPACE = "builds"
_TOKEN = "canary-token-of-the-cluster"
_TICK = 0.03
_KINDS = {"jobs": "Job", "pods": "Pod", "networkpolicies": "NetworkPolicy", "events": "Event"}
_GROUPS = {"jobs": "batch/", "networkpolicies": "networking.k8s.io/"}
_GPUS = 1
_JOB_NAME = "batch.kubernetes.io/job-name"
_SMALL = Resources(minutes=30, memory=200 << 20)


class _StatusError(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.document = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"} | {
            "code": code, "reason": reason, "message": message
        }  # fmt: skip
        self.code = code


def cluster_text(folder: Path, **settings: object) -> str:
    """Write a cluster.yaml for small jobs on a volume, with more settings."""
    everywhere = {name: settings.pop(name) for name in ("margins", "jobs_of_a_step") if name in settings}
    settle = settings.pop("settle_seconds", 1.0)
    volume = {"claim": CLAIM, "path": str(folder)}
    site = {"image": IMAGE, "namespace": NAMESPACE, "volume": volume, "memory_gb": 0.5, **settings}
    return json.dumps({"schema_version": 1, "settle_seconds": settle, **everywhere, "kubernetes": site}, indent=1)


@dataclass
class Kubernetes:
    """The cluster. Its attributes are what a test may spoil."""

    folder: Path
    images: set[str] = field(default_factory=lambda: {IMAGE})
    claims: set[str] = field(default_factory=lambda: {CLAIM})
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    quota: str = ""
    """The words with which the creation of a job is refused."""
    pods_refused: str = ""
    """The words with which the creation of a pod is refused."""
    forbidden: set[str] = field(default_factory=set)
    """What the account may not do: `create jobs`."""
    away: bool = False
    """The API server answers nothing but 503."""
    expired: bool = False
    """The login has expired."""
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    """By plural and name, all in one namespace."""
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _started: dict[str, float] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _ended: threading.Event = field(default_factory=threading.Event)
    _version: int = 0
    _port: int = 0

    def start(self) -> None:
        """Listen, and start the controllers and the kubelet."""
        self.start_server()
        threading.Thread(target=self._work, daemon=True).start()
        user = {"name": "me", "user": {"token": _TOKEN}}
        server = {"name": "here", "cluster": {"server": f"http://127.0.0.1:{self._server.server_port}"}}
        context = {"name": "here", "context": {"cluster": "here", "user": "me"}}
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "here"}
        lists = {"clusters": [server], "users": [user], "contexts": [context]}
        (self.folder / "config").write_text(json.dumps({**config, **lists}))
        (self.folder / "bin").mkdir()
        (self.folder / "bin" / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (self.folder / "bin" / "python3").chmod(0o755)

    def start_server(self) -> None:
        """Listen at the port that it had before."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), _handler(self))
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(_TICK,), daemon=True).start()

    def stop_server(self) -> None:
        """End the API server. The objects stay, and so do pods and controllers."""
        self._server.shutdown()
        self._server.server_close()

    def close(self) -> None:
        """Stop everything."""
        self.empty()
        self._ended.set()
        self.stop_server()

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a program that uses this cluster."""
        return {**os.environ, "KUBECONFIG": str(self.folder / "config")}

    def executor(self, volume: Path, grace: float = 3.0, patience: float = 20.0, **settings: object) -> ClusterExecutor:
        """Make an executor for small jobs, with settings of the site."""
        seconds = float(str(settings.pop("seconds", 20.0)))
        cluster = Cluster.model_validate_json(cluster_text(volume, **settings))
        assert cluster.kubernetes
        scheduler = KubernetesScheduler(
            cluster, cluster.kubernetes, lambda _job: _SMALL, self.environment, grace=grace, seconds=seconds
        )
        return ClusterExecutor(scheduler, settle=cluster.settle_seconds, grace=grace, patience=patience)

    def all(self, plural: str) -> list[Object]:
        """Return copies of all objects of a kind."""
        with self._lock:
            return [copy.deepcopy(found) for (kind, _), found in self.objects.items() if kind == plural]

    def queue(self) -> list[str]:
        """Name the jobs that wait or run."""
        return [job["metadata"]["name"] for job in self.all("jobs") if not _finished(job)]

    def empty(self) -> None:
        """Remove everything, and undo what a test spoiled."""
        with self._lock:
            for process in self._processes.values():
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            fresh = Kubernetes(self.folder)
            for name in ("images", "claims", "secrets", "quota", "pods_refused", "forbidden", "away", "expired"):
                setattr(self, name, getattr(fresh, name))
            for held in (self.objects, self._processes, self._started):
                held.clear()

    # what a test does to the cluster

    def kubectl_delete(self, plural: str, name: str, **options: str) -> None:
        """Delete an object as another person would."""
        self._delete(plural, name, options)

    def evict(self, message: str) -> None:
        """End every pod as a node that is short of disk space does."""
        self._end_pods(reason="Evicted", message=message)

    def kill_for_memory(self) -> None:
        """End the container of every pod as the kernel does, with the whole group."""
        with self._lock:
            for pod in self._live_pods():
                pod["oom"] = True
                os.killpg(self._processes[pod["metadata"]["uid"]].pid, signal.SIGKILL)

    def pass_the_deadline(self) -> None:
        """Let the time of every pod be over."""
        with self._lock:
            for pod in self._live_pods():
                pod["spec"]["activeDeadlineSeconds"] = 0

    def lose_node(self) -> None:
        """Let the control plane delete the pods of a node that is silent, while their processes are gone."""
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
        message = "Taint manager: deleting due to NoExecute taint"
        self._end_pods(conditions=[{**condition, "message": message}])

    def admit(self) -> None:
        """Start suspended jobs, as Kueue does."""
        with self._lock:
            for (kind, _), job in self.objects.items():
                if kind == "jobs":
                    job["spec"]["suspend"] = False

    def _end_pods(self, **status: Any) -> None:  # noqa: ANN401 - fields of a status
        with self._lock:
            for pod in self._live_pods():
                pod["status"] |= {"phase": "Failed", **status}
                os.killpg(self._processes[pod["metadata"]["uid"]].pid, signal.SIGKILL)

    def _live_pods(self) -> list[Object]:
        return [pod for (kind, _), pod in self.objects.items() if kind == "pods" and self._runs(pod)]

    def _runs(self, pod: Object) -> bool:
        process = self._processes.get(pod["metadata"]["uid"])
        return process is not None and process.poll() is None

    # the API server

    def answer(self, method: str, url: str, token: str | None, body: bytes) -> Object | str:
        """Answer a request.

        Raises:
            _StatusError: It is refused.
        """
        parts = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        found = re.fullmatch(r"/apis?/(?:(.+)/)?v1/namespaces/([^/]+)/([^/]+)(?:/([^/]+)(/log)?)?", parts.path)
        if self.away:
            raise _StatusError(503, "ServiceUnavailable", "the server is currently unable to handle the request")
        if self.expired or token != f"Bearer {_TOKEN}":
            raise _StatusError(401, "Unauthorized", "Unauthorized")
        if found is None or found[3] not in _KINDS:
            raise _StatusError(404, "NotFound", "the server could not find the requested resource")
        _, namespace, plural, name, log = found.groups()
        verb = {"POST": "create", "DELETE": "delete"}.get(method, "get" if name else "list")
        self._authorize(verb, plural, namespace)
        with self._lock:
            if method == "POST":
                return self._create(plural, namespace, json.loads(body))
            if method == "DELETE":
                return self._delete(plural, name, query)
            if log:
                return self._log(self._get("pods", name), int(query.get("tailLines", 1000)))
            return copy.deepcopy(self._get(plural, name)) if name else self._list(plural, query)

    def _authorize(self, verb: str, plural: str, namespace: str) -> None:
        if f"{verb} {plural}" in self.forbidden:
            group = _GROUPS.get(plural, "").rstrip("/")
            message = (
                f'{plural}.{group} is forbidden: User "me" cannot {verb} resource "{plural}" in API group "{group}" '
                f'in the namespace "{namespace}"'
            )
            raise _StatusError(403, "Forbidden", message)

    def _get(self, plural: str, name: str) -> Object:
        try:
            return self.objects[plural, name]
        except KeyError:
            raise _StatusError(404, "NotFound", f'{plural} "{name}" not found') from None

    def _list(self, plural: str, query: dict[str, str]) -> Object:
        labels = dict(pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair)
        fields = dict(pair.split("=") for pair in query.get("fieldSelector", "").split(",") if pair)
        items = [
            copy.deepcopy(each)
            for (kind, _), each in self.objects.items()
            if kind == plural
            and labels.items() <= each["metadata"].get("labels", {}).items()
            and all(_field(each, path) == value for path, value in fields.items())
        ]
        version = {"resourceVersion": str(self._version)}
        return {"kind": f"{_KINDS[plural]}List", "apiVersion": "v1", "metadata": version, "items": items}

    def _create(self, plural: str, namespace: str, document: Object) -> Object:
        name = document["metadata"]["name"]
        if namespace != NAMESPACE:
            raise _StatusError(404, "NotFound", f'namespaces "{namespace}" not found')
        if problems := core_problems(document, VERSIONS[-1]):
            raise _StatusError(422, "Invalid", f'{_KINDS[plural]} "{name}" is invalid: {problems[0]}')
        if plural == "jobs" and self.quota:
            raise _StatusError(403, "Forbidden", f'jobs.batch "{name}" is forbidden: {self.quota}')
        if (plural, name) in self.objects:
            raise _StatusError(409, "AlreadyExists", f'{plural} "{name}" already exists')
        return copy.deepcopy(self._add(plural, name, document))

    def _add(self, plural: str, name: str, document: Object) -> Object:
        self._version += 1
        own = {"uid": str(uuid.uuid4()), "resourceVersion": str(self._version), "creationTimestamp": _now()}
        document["metadata"] |= {"name": name, "namespace": NAMESPACE, **own}
        document.setdefault("status", {})
        self.objects[plural, name] = document
        return document

    def _delete(self, plural: str, name: str, options: dict[str, str]) -> Object:
        with self._lock:
            found = self._get(plural, name)
            policy = options.get("propagationPolicy", "Background")
            if plural == "jobs" and policy != "Foreground":
                del self.objects[plural, name]
            elif plural in ("jobs", "pods"):
                found["metadata"].setdefault("deletionTimestamp", _now())
            else:
                del self.objects[plural, name]
            if plural == "jobs" and policy != "Orphan":
                for pod in self._pods_of(name):
                    pod["metadata"].setdefault("deletionTimestamp", _now())
            if options.get("gracePeriodSeconds") == "0":
                found["grace"] = 0
            return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

    def _log(self, pod: Object, tail: int) -> str:
        file = self.folder / f"{pod['metadata']['uid']}.log"
        lines = file.read_text(errors="replace").splitlines(keepends=True) if file.exists() else []
        return "".join(lines[-tail:])

    def _pods_of(self, job: str) -> list[Object]:
        pods = [each for (kind, _), each in self.objects.items() if kind == "pods"]
        return [pod for pod in pods if pod["metadata"]["labels"].get(_JOB_NAME) == job]

    # the controllers and the kubelet

    def _work(self) -> None:
        while not self._ended.wait(_TICK):
            with self._lock:
                for (kind, name), found in tuple(self.objects.items()):
                    if kind == "jobs":
                        self._control(name, found)
                    elif kind == "pods":
                        self._keep(name, found)

    def _control(self, name: str, job: Object) -> None:
        """Do for a Job what its controller does."""
        pods, spec = self._pods_of(name), job["spec"]
        if "deletionTimestamp" in job["metadata"]:
            if not pods:
                del self.objects["jobs", name]
        elif _finished(job):
            if time.monotonic() - job["finished"] > spec.get("ttlSecondsAfterFinished", float("inf")):
                self._delete("jobs", name, {"propagationPolicy": "Background"})
        elif any(pod["status"].get("phase") == "Succeeded" for pod in pods):
            self._finish(job, "Complete", "CompletionsReached", "Reached expected number of succeeded pods")
        elif any(pod["status"].get("phase") == "Failed" for pod in pods) or (not pods and job.get("had_pod")):
            words = "Job has reached the specified backoff limit"
            self._finish(job, "Failed", "BackoffLimitExceeded", words)
        elif not pods and not spec.get("suspend"):
            self._create_pod(name, job)

    def _finish(self, job: Object, kind: str, reason: str, message: str) -> None:
        job["status"]["conditions"] = [{"type": kind, "status": "True", "reason": reason, "message": message}]
        job["finished"] = time.monotonic()

    def _create_pod(self, name: str, job: Object) -> None:
        if self.pods_refused:
            about = {"kind": "Job", "name": name, "namespace": NAMESPACE, "uid": job["metadata"]["uid"]}
            event = {"involvedObject": about, "reason": "FailedCreate", "type": "Warning"}
            self._add("events", f"{name}.1", {**event, "metadata": {}, "message": self.pods_refused})
            return
        template = copy.deepcopy(job["spec"]["template"])
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": name,
            "uid": job["metadata"]["uid"],
            "controller": True,
        }
        template["metadata"]["labels"] |= {_JOB_NAME: name, "job-name": name}
        template["metadata"]["ownerReferences"] = [owner]
        template |= {"kind": "Pod", "apiVersion": "v1", "status": {"phase": "Pending"}}
        self._add("pods", f"{name}-{secrets.token_hex(3)}", template)
        job["had_pod"] = True

    def _keep(self, name: str, pod: Object) -> None:
        """Do for a pod what the scheduler and the kubelet do."""
        uid, spec, status = pod["metadata"]["uid"], pod["spec"], pod["status"]
        process = self._processes.get(uid)
        if "deletionTimestamp" in pod["metadata"]:
            self._terminate(name, pod, process)
        elif process is not None:
            if process.poll() is not None:
                self._reap(pod, process)
            elif time.monotonic() - self._started[uid] > spec.get("activeDeadlineSeconds", float("inf")):
                status |= {
                    "phase": "Failed",
                    "reason": "DeadlineExceeded",
                    "message": "Pod was active on the node longer",
                }
                process.terminate()
        elif status["phase"] == "Pending":
            if words := self._why_unscheduled(spec):
                status["conditions"] = [_condition("PodScheduled", "False", "Unschedulable", words)]
            elif waiting := self._why_not_started(spec["containers"][0]):
                status["containerStatuses"] = [{**_CONTAINER, "state": {"waiting": waiting}}]
            else:
                self._run(pod)

    def _why_unscheduled(self, spec: Object) -> str:
        wanted = int(spec["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0))
        for volume in spec["volumes"]:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName", CLAIM)
            if claim not in self.claims:
                return f'0/1 nodes are available: persistentvolumeclaim "{claim}" not found.'
        return "0/1 nodes are available: 1 Insufficient nvidia.com/gpu." if wanted > _GPUS else ""

    def _why_not_started(self, container: Object) -> dict[str, str]:
        image = container["image"]
        if image not in self.images:
            message = f'Back-off pulling image "{image}": ErrImagePull: not found'
            return {"reason": "ImagePullBackOff", "message": message}
        for each in container["env"]:
            reference = each.get("valueFrom", {}).get("secretKeyRef")
            if reference and reference["name"] not in self.secrets:
                message = f'secret "{reference["name"]}" not found'
                return {"reason": "CreateContainerConfigError", "message": message}
        return {}

    def _run(self, pod: Object) -> None:
        """Start a container. Its image holds this checkout and this Python."""
        uid, container = pod["metadata"]["uid"], pod["spec"]["containers"][0]
        image = {"PATH": f"{self.folder / 'bin'}:{os.defpath}", "PYTHONPATH": str(ROOT)}
        variables = {**image, "KUBERNETES_SERVICE_HOST": "127.0.0.1"}
        for each in container["env"]:
            reference = each.get("valueFrom", {}).get("secretKeyRef")
            value = self.secrets[reference["name"]][reference["key"]] if reference else each["value"]
            variables[each["name"]] = _expanded(value, variables)
        with (self.folder / f"{uid}.log").open("wb") as log:
            self._processes[uid] = subprocess.Popen(
                [_expanded(word, variables) for word in container["command"]],
                cwd=container["workingDir"],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started[uid] = time.monotonic()
        pod["status"] |= {"phase": "Running", "containerStatuses": [{**_CONTAINER, "state": {"running": {}}}]}

    def _reap(self, pod: Object, process: subprocess.Popen[bytes]) -> None:
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        reason = "OOMKilled" if pod.get("oom") else "Error" if code else "Completed"
        done = {"exitCode": code, "reason": reason}
        pod["status"]["containerStatuses"] = [{**_CONTAINER, "state": {"terminated": done}}]
        if pod["status"]["phase"] == "Running":
            pod["status"]["phase"] = "Failed" if code else "Succeeded"

    def _terminate(self, name: str, pod: Object, process: subprocess.Popen[bytes] | None) -> None:
        if process is None or process.poll() is not None:
            del self.objects["pods", name]
            return
        first = pod.setdefault("asked", time.monotonic())
        grace = pod.get("grace", pod["spec"]["terminationGracePeriodSeconds"])
        if not pod.get("told"):
            pod["told"] = True
            process.terminate()
        if time.monotonic() - first > grace or grace == 0:
            os.killpg(process.pid, signal.SIGKILL)


_CONTAINER = {"name": "step", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0}


def _condition(kind: str, status: str, reason: str, message: str) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def _finished(job: Object) -> bool:
    return bool(job["status"].get("conditions"))


def _field(document: Object, path: str) -> object:
    for name in path.split("."):
        document = document.get(name, {})
    return document


def _expanded(word: str, variables: dict[str, str]) -> str:
    """Replace `$(NAME)` as the kubelet does; `$$` is a dollar."""
    pattern = re.compile(r"\$\$|\$\(([A-Za-z_][\w.-]*)\)")
    return pattern.sub(lambda found: "$" if found[0] == "$$" else variables.get(found[1], found[0]), word)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _handler(cluster: Kubernetes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, answer = (201 if self.command == "POST" else 200), None
            try:
                answer = cluster.answer(self.command, self.path, self.headers.get("Authorization"), body)
            except _StatusError as error:
                code, answer = error.code, error.document
            text = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = _serve  # noqa: N815 - the names are those of http.server

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def kubernetes_in(folder: Path) -> Iterator[Kubernetes]:
    """Run a cluster until the block ends."""
    found = Kubernetes(folder)
    found.start()
    try:
        yield found
    finally:
        found.close()


@pytest.fixture(scope="session")
def shared_kubernetes() -> Iterator[Kubernetes]:
    """One cluster for all tests of a process."""
    with tempfile.TemporaryDirectory(prefix="orch-k8s-") as folder, kubernetes_in(Path(folder)) as found:
        yield found


@pytest.fixture
def kubernetes(shared_kubernetes: Kubernetes) -> Iterator[Kubernetes]:
    """The shared cluster, without jobs of other tests."""
    yield shared_kubernetes
    shared_kubernetes.empty()
