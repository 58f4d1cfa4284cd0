"""Talks to a Kubernetes API server about Jobs and their pods."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast
from uuid import uuid4

import httpx2
import yaml

from orchestrator.catalog.cluster import Kubernetes
from orchestrator.errors import (
    ClusterAccessError,
    DependencyMissingError,
    JobRefusedError,
    KubernetesUnavailableError,
    NoPermissionError,
)
from orchestrator.executors.kubernetes_manifest import FOLDER, MANAGED_BY, Object
from orchestrator.executors.kubernetes_state import is_finished, state_of, words_of
from orchestrator.executors.scheduler import JobState
from orchestrator.values import frozen

if TYPE_CHECKING:
    from lightkube import ApiError, Client
    from lightkube.config.kubeconfig import SingleConfig
    from lightkube.resources.batch_v1 import Job as KubernetesJob
    from lightkube.resources.core_v1 import Pod

_TIMEOUT = 10.0
"""Seconds to wait for one answer."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0
"""Seconds between two attempts, doubled each time."""
_ATTEMPT = "orchestrator.dev/attempt"
"""The annotation that tells the Job of a request from an earlier one of the same name."""
_TAIL = 12
_NOT_FOUND, _CONFLICT, _TOO_MANY, _INTERNAL = 404, 409, 429, 500

_Answer = TypeVar("_Answer")


@frozen
class KubernetesClient:
    """Asks one namespace.

    Args:
        config: The server and the login.
        namespace: The namespace.
        seconds: Seconds to retry while the server does not answer.
    """

    config: SingleConfig
    namespace: str
    seconds: float

    @classmethod
    def of(cls, environment: Mapping[str, str], site: Kubernetes, seconds: float) -> KubernetesClient:
        """Find the server in a pod's own files, else by the kubeconfig.

        Raises:
            DependencyMissingError: The client is not installed.
            KubernetesUnavailableError: There is no kubeconfig, or it is not valid.
        """
        try:
            from lightkube.config.kubeconfig import KubeConfig  # noqa: PLC0415 - an extra
            from lightkube.core.exceptions import ConfigError  # noqa: PLC0415
        except ImportError as error:
            message = "the Python package lightkube is missing, which --executor kubernetes needs"
            hint = "install the extra: pip install 'trtllm-orchestrator[kubernetes]'"
            raise DependencyMissingError(message, hint=hint) from error
        hint = "set KUBECONFIG, and try: kubectl get jobs"
        try:
            in_pod = "KUBERNETES_SERVICE_HOST" in environment and "KUBECONFIG" not in environment
            found = KubeConfig.from_service_account() if in_pod else KubeConfig.from_file(_kubeconfig(environment))
            config = found.get(site.context)
        except (ConfigError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError, OSError) as error:
            message = f"no Kubernetes cluster is configured: {error}"
            raise KubernetesUnavailableError(message, hint=hint) from error
        if config is None or config.user is None:
            message = "the kubeconfig names no user for its context"
            raise KubernetesUnavailableError(message, hint=hint)
        return cls(config, site.namespace, seconds)

    @cached_property
    def _api(self) -> Client:
        from lightkube import Client  # noqa: PLC0415 - an extra

        with _translated("logging in"):
            api = Client(config=self.config, namespace=self.namespace, timeout=httpx2.Timeout(_TIMEOUT))
        weakref.finalize(self, api.close)  # one client, so that a login by a program is asked for once
        return api

    def jobs(self) -> dict[str, str]:
        """Return our Jobs that wait or run: the name by the UID."""
        from lightkube.resources.batch_v1 import Job  # noqa: PLC0415

        found = self._ask("listing jobs", lambda: list(self._api.list(Job, labels=dict(MANAGED_BY))))
        return {_uid(job): _name(job) for job in found if not is_finished(job)}

    def create(self, manifest: Object) -> str:
        """Create a Job and return its UID. An earlier Job of the same folder is replaced.

        Raises:
            JobRefusedError: A value of it is not allowed, a quota is exceeded, or its name is taken.
        """
        from lightkube.resources.batch_v1 import Job  # noqa: PLC0415

        name, about = manifest["metadata"]["name"], manifest["metadata"]["annotations"]
        about[_ATTEMPT] = str(uuid4())
        deadline = time.monotonic() + self.seconds
        wanted = cast("KubernetesJob", Job.from_dict(manifest))
        while True:
            try:
                return _uid(self._ask(f"creating the job {name}", lambda: self._api.create(wanted)))
            except _TakenError as error:
                there = self._job(name)
                if there is None:
                    continue
                found = (there.metadata.annotations if there.metadata else None) or {}
                if found.get(FOLDER) != about[FOLDER]:
                    message = f"the job {name} of another folder is in the namespace {self.namespace}"
                    raise JobRefusedError(message, hint=f"look at it: kubectl describe job {name}") from error
                if found.get(_ATTEMPT) == about[_ATTEMPT]:  # it was created, and the answer was lost
                    return _uid(there)
                if there.metadata and not there.metadata.deletionTimestamp:
                    self.delete(_uid(there), name)
                if time.monotonic() > deadline:
                    message = f"the job {name} of an earlier build does not end"
                    raise JobRefusedError(message, hint=f"look at it: kubectl describe job {name}") from error
                time.sleep(_FIRST_PAUSE)

    def require_policy(self, manifest: Object) -> None:
        """Create a network policy if it is missing.

        Raises:
            JobRefusedError: There is one of its name with other rules.
            ClusterAccessError: This account may neither read nor create it.
        """
        from lightkube.resources.networking_v1 import NetworkPolicy  # noqa: PLC0415

        wanted, name = cast("NetworkPolicy", NetworkPolicy.from_dict(manifest)), manifest["metadata"]["name"]
        doing = f"creating the network policy {name}"
        with suppress(_TakenError):
            there = self._ask(doing, lambda: self._found(lambda: self._api.get(NetworkPolicy, name)))
            if there is None:
                self._ask(doing, lambda: self._api.create(wanted))
                return
            if there.spec != wanted.spec:
                message = f"the network policy {name} does not isolate steps: it has other rules than ours"
                raise JobRefusedError(message, hint=f"remove it: kubectl delete networkpolicy {name}")

    def state(self, number: str, name: str) -> JobState | None:
        """Return the state of a Job; None if there is none of this UID."""
        job = self._job(name)
        if job is None or _uid(job) != number:
            return None
        pod = self._pod(name)
        words = "" if pod or is_finished(job) else self._why_no_pod(name)
        return state_of(job, pod, words)

    def delete(self, number: str, name: str, *, now: bool = False) -> None:
        """Delete a Job of this UID with its pods. With `now`, the pods are killed."""
        from lightkube.resources.batch_v1 import Job  # noqa: PLC0415
        from lightkube.resources.core_v1 import Pod  # noqa: PLC0415
        from lightkube.types import CascadeType  # noqa: PLC0415

        job = self._job(name)
        if job is None or _uid(job) != number:
            return
        doing = f"deleting the job {name}"
        self._ask(doing, lambda: self._found(lambda: self._api.delete(Job, name, cascade=CascadeType.FOREGROUND)))
        pod = self._pod(name) if now else None
        if pod is not None:
            self._ask(doing, lambda: self._found(lambda: self._api.delete(Pod, _name(pod), grace_period=0)))

    def output_of(self, name: str) -> str:
        """Return the last lines of a pod's log, and why its container did not start."""
        with suppress(KubernetesUnavailableError, ClusterAccessError, JobRefusedError):
            pod = self._pod(name)
            if pod is not None:
                said = self._found(lambda: "".join(self._api.log(_name(pod), tail_lines=_TAIL))) or ""
                return "\n".join(filter(None, (words_of(pod), said.rstrip())))
        return ""

    def _job(self, name: str) -> KubernetesJob | None:
        from lightkube.resources.batch_v1 import Job  # noqa: PLC0415

        return self._ask(f"reading the job {name}", lambda: self._found(lambda: self._api.get(Job, name)))

    def _pod(self, job: str) -> Pod | None:
        from lightkube.resources.core_v1 import Pod  # noqa: PLC0415

        pods = self._ask(
            "listing pods", lambda: list(self._api.list(Pod, labels={"batch.kubernetes.io/job-name": job}))
        )
        return next(iter(pods), None)

    def _why_no_pod(self, job: str) -> str:
        """Return the words with which the creation of a Job's pod was refused, if it was."""
        from lightkube.resources.core_v1 import Event  # noqa: PLC0415

        of_job = {"involvedObject.name": job, "involvedObject.kind": "Job", "reason": "FailedCreate"}
        with suppress(ClusterAccessError):  # who may not read events sees no reason
            events = self._ask("listing events", lambda: list(self._api.list(Event, fields=dict(of_job))))
            return (events[-1].message or "") if events else ""
        return ""

    def _found(self, ask: Callable[[], _Answer]) -> _Answer | None:
        """Return an answer; None if there is no such object."""
        from lightkube import ApiError  # noqa: PLC0415

        try:
            return ask()
        except ApiError as error:
            if error.status.code == _NOT_FOUND:
                return None
            raise

    def _ask(self, doing: str, ask: Callable[[], _Answer]) -> _Answer:
        """Ask until there is an answer, with longer and longer pauses.

        Raises:
            KubernetesUnavailableError: There is none within the time.
        """
        deadline, pause = time.monotonic() + self.seconds, _FIRST_PAUSE
        while True:
            try:
                with _translated(doing):
                    return ask()
            except KubernetesUnavailableError:
                if time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


class _TakenError(Exception):
    """An object of this name exists."""


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Turn the client's errors into ours."""
    from lightkube import ApiError  # noqa: PLC0415
    from lightkube.core.exceptions import ConfigError  # noqa: PLC0415

    try:
        yield
    except ApiError as error:
        raise _of_status(error, doing) from error
    except ConfigError as error:
        message = f"this login does not work: {error}"
        raise ClusterAccessError(message, hint="log in again, and try: kubectl get jobs") from error
    except httpx2.HTTPStatusError as error:
        raise _of_code(error.response.status_code, error.response.text[:300], doing) from error
    except httpx2.HTTPError as error:
        message = f"Kubernetes does not answer while {doing}: {error}"
        raise KubernetesUnavailableError(message, hint="try: kubectl get jobs") from error
    except OSError as error:
        message = f"the certificate or key of the kubeconfig cannot be read: {error}"
        raise NoPermissionError(message) from error


def _of_status(error: ApiError, doing: str) -> Exception:
    status = error.status
    if status.code == _CONFLICT and status.reason == "AlreadyExists":
        return _TakenError()
    return _of_code(status.code or _INTERNAL, status.message or status.reason or "", doing)


def _of_code(code: int, words: str, doing: str) -> Exception:
    if code == httpx2.codes.UNAUTHORIZED:
        message = f"Kubernetes does not accept this login while {doing}; it may have expired ({words})"
        return ClusterAccessError(message, hint="log in again, then build again: jobs that run are adopted")
    if code == httpx2.codes.FORBIDDEN and " cannot " in words:
        message = f"Kubernetes does not allow it to this account: {doing} ({words})"
        return ClusterAccessError(message, hint="ask for a Role with the rules of docs/how-to/kubernetes.md")
    if code == _TOO_MANY or code >= _INTERNAL:
        message = f"Kubernetes does not answer while {doing}: {words} ({code})"
        return KubernetesUnavailableError(message, hint="try: kubectl get jobs")
    return JobRefusedError(
        f"Kubernetes refuses it: {doing}: {words}", hint="compare cluster.yaml with: kubectl describe quota"
    )


def _kubeconfig(environment: Mapping[str, str]) -> Path:
    """Return the first file of KUBECONFIG that is there, else that of the user."""
    named = [Path(each) for each in environment.get("KUBECONFIG", "").split(os.pathsep) if each]
    home = Path(environment.get("HOME") or "/") / ".kube" / "config"
    return next((file for file in named if file.is_file()), named[0] if named else home)


def _uid(job: KubernetesJob) -> str:
    return (job.metadata.uid if job.metadata else None) or ""


def _name(found: KubernetesJob | Pod) -> str:
    return (found.metadata.name if found.metadata else None) or ""
