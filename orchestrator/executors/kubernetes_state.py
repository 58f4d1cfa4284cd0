"""Reads the state of a Job from what Kubernetes says about it and its pod."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.executors.kubernetes_manifest import QUEUE
from orchestrator.executors.scheduler import Cause, JobState

if TYPE_CHECKING:
    from lightkube.models.batch_v1 import JobCondition
    from lightkube.models.core_v1 import ContainerStateTerminated, PodCondition
    from lightkube.resources.batch_v1 import Job as KubernetesJob
    from lightkube.resources.core_v1 import Pod

_STUCK = frozenset(
    {
        *("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"),
        *("CreateContainerConfigError", "CreateContainerError", "RunContainerError"),
    }
)
"""Reasons why a container waits that seldom pass by themselves."""
_SIGNAL = 128


def is_finished(job: KubernetesJob) -> bool:
    """Tell whether a Job has ended."""
    return _ended(job) is not None


def state_of(job: KubernetesJob, pod: Pod | None, refused: str) -> JobState:
    """Return the state of a Job.

    Args:
        job: The Job.
        pod: Its pod, if there is one.
        refused: Why no pod could be created; empty if that is not so.
    """
    ended = _ended(job)
    if ended is not None:
        return _over(ended, pod)
    if job.spec and job.spec.suspend:
        queue = (job.metadata.labels or {} if job.metadata else {}).get(QUEUE)
        return JobState("waiting", f"in the queue {queue}" if queue else "suspended")
    if pod is None:
        return JobState("waiting", refused or "no pod yet", stuck=bool(refused) and "exceeded quota" not in refused)
    phase = pod.status.phase if pod.status else None
    return _waiting(pod) if phase in (None, "Pending") else JobState("running")


def words_of(pod: Pod) -> str:
    """Return why the container of a pod did not start; empty if it did."""
    done = _terminated(pod)
    return f"{done.reason}: {done.message}" if done and done.message else ""


def _ended(job: KubernetesJob) -> JobCondition | None:
    conditions = (job.status.conditions if job.status else None) or ()
    return next((each for each in conditions if each.type in ("Complete", "Failed") and each.status == "True"), None)


def _over(ended: JobCondition, pod: Pod | None) -> JobState:
    """Return how a Job ended: by the words of its pod, else by its own."""
    own: Cause = "time_limit" if ended.reason == "DeadlineExceeded" else "ended"
    if ended.type == "Failed" and pod is None and own == "ended":
        return JobState("over", f"{ended.reason}: its pod is gone", "node_lost")
    if pod is None or pod.status is None or own == "time_limit":
        return JobState("over", _words(ended.reason, ended.message), own)
    disrupted = _condition(pod.status.conditions, "DisruptionTarget", "True")
    if pod.status.reason == "DeadlineExceeded":
        return JobState("over", pod.status.reason, "time_limit")
    done = _terminated(pod)
    if done and done.reason == "OOMKilled":
        return JobState("over", done.reason, "out_of_memory", _signal(done))
    if pod.status.reason or disrupted:  # evicted, preempted, lost, or the node shut down
        words = [_words(pod.status.reason, pod.status.message)]
        words += [_words(disrupted.reason, disrupted.message)] if disrupted else []
        return JobState("over", next(filter(None, words)), "node_lost")
    return JobState("over", (done.reason if done else None) or "", "ended", _signal(done))


def _signal(done: ContainerStateTerminated | None) -> int:
    return max(0, done.exitCode - _SIGNAL) if done else 0


def _waiting(pod: Pod) -> JobState:
    assert pod.status is not None  # noqa: S101 - it has a phase or none
    for container in pod.status.containerStatuses or ():
        found = container.state.waiting if container.state else None
        if found and found.reason in _STUCK:
            return JobState("waiting", _words(found.reason, found.message), stuck=True)
    unscheduled = _condition(pod.status.conditions, "PodScheduled", "False")
    if unscheduled:
        return JobState("waiting", _words(unscheduled.reason, unscheduled.message))
    return JobState("waiting", "its container is being created")


def _terminated(pod: Pod) -> ContainerStateTerminated | None:
    for container in (pod.status.containerStatuses if pod.status else None) or ():
        if container.state and container.state.terminated:
            return container.state.terminated
    return None


def _condition(conditions: Sequence[PodCondition] | None, kind: str, status: str) -> PodCondition | None:
    return next((each for each in conditions or () if (each.type, each.status) == (kind, status)), None)


def _words(reason: str | None, message: str | None) -> str:
    return ": ".join(filter(None, (reason, message)))
