"""Turns a plan into jobs of a cluster: one for each step, each a build up to that step."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.app.make_plan import ExecutorName, PlacedStep, Plan
from orchestrator.app.planning import Planned
from orchestrator.app.settings import Settings
from orchestrator.catalog.cluster import Cluster, read_cluster
from orchestrator.catalog.schedulers import Containers, SchedulerName
from orchestrator.errors import ClusterInvalidError, machine_faults
from orchestrator.executors.job import Job
from orchestrator.executors.scheduler import Resources, Scheduler
from orchestrator.executors.slurm import SlurmScheduler
from orchestrator.planner.phases import PHASES
from orchestrator.recipe.lock import lock_text
from orchestrator.recipe.model import Recipe
from orchestrator.steps.download import TOKEN
from orchestrator.steps.step import Step
from orchestrator.store.temporary import replacing
from orchestrator.values import frozen

_ID = 12
"""Hexadecimal digits of the digest in the name of a chain's folder."""
_STEPS = "steps.json"
"""Lists the steps of a chain, for commands that find its folder."""


@frozen
class Site:
    """One scheduler with its settings."""

    name: SchedulerName
    cluster: Cluster

    @property
    def containers(self) -> Containers:
        """The program that runs the containers of steps on a node."""
        return self.cluster.slurm.containers if self.name == "slurm" and self.cluster.slurm else "none"

    @property
    def isolates(self) -> bool:
        """Whether the job of a step without network has none."""
        return self.name == "kubernetes"

    @property
    def has_token(self) -> bool:
        """Whether the jobs get the Hub's token from the cluster, so that this machine needs none."""
        return self.name == "kubernetes" and bool(self.cluster.kubernetes and TOKEN in self.cluster.kubernetes.secrets)

    def scheduler(self, resources: Callable[[Job], Resources], environment: Mapping[str, str]) -> Scheduler:
        """Return the scheduler.

        Args:
            resources: Returns what a job requests.
            environment: The source of the few inherited variables.
        """
        if self.name == "kubernetes":
            from orchestrator.executors.kubernetes import KubernetesScheduler  # noqa: PLC0415 - its client loads slowly

            assert self.cluster.kubernetes is not None  # noqa: S101 - read_cluster checks it
            return KubernetesScheduler(self.cluster, self.cluster.kubernetes, resources, environment)
        assert self.cluster.slurm is not None  # noqa: S101 - as above
        return SlurmScheduler(self.cluster, self.cluster.slurm, resources, environment)


def read_site(file: Path, name: SchedulerName) -> Site:
    """Read the settings of a scheduler.

    Raises:
        ClusterInvalidError: They are missing or not valid.
    """
    return Site(name, read_cluster(file, name))


@frozen
class Chain:
    """The jobs of one build, in a folder of their own.

    The folder holds the recipe with its commits and the lock as they were when the jobs were submitted. A later change
    of the recipe does not change jobs that wait in the queue.
    """

    folder: Path
    jobs: tuple[Job, ...]
    site: Site

    @classmethod
    def unfinished(cls, settings: Settings) -> Iterator[Chain]:
        """Find the chains that no build has finished. Their jobs have folders, but no commands."""
        for file in sorted(jobs_folder(settings).glob(f"*/{_STEPS}")):
            with suppress(OSError, ValueError, KeyError, TypeError):  # a build has just removed it
                fields = json.loads(file.read_text(encoding="utf-8"))
                recipe, steps = fields["recipe"], fields["steps"]
                site = Site(fields["scheduler"], Cluster.model_validate_json(json.dumps(fields["cluster"])))
                yield cls(file.parent, tuple(_known_job(file.parent, recipe, step) for step in steps), site)


@frozen
class ClusterPlan:
    """A plan for one cluster."""

    settings: Settings
    planned: Planned
    resolved: Plan
    site: Site
    offline: bool = False

    def folder(self, steps: Sequence[PlacedStep], forced: frozenset[str]) -> Path:
        """Name the chain's folder in the store after everything that decides what its jobs do.

        Args:
            steps: All steps of the build, those with a result included.
            forced: Steps that run even if the store has their results.
        """
        words = [placed.step.name for placed in steps], sorted(forced), self.offline, self.site.name, self._containers()
        digest = hashlib.sha256(json.dumps([self._files(), words]).encode()).hexdigest()
        return jobs_folder(self.settings) / f"{self.resolved.recipe.name}-{digest[:_ID]}"

    def chain(self, place: Path, steps: Sequence[PlacedStep], forced: frozenset[str]) -> Chain:
        """Make the jobs of some steps, in a folder.

        Args:
            place: The folder of the chain.
            steps: The steps that get a job, in the order of the plan.
            forced: Steps that run even if the store has their results.
        """
        recipe = place / f"{self.resolved.recipe.name}.yaml"
        jobs = tuple(self._job(place, recipe, placed, forced) for placed in steps)
        return Chain(place, jobs, self.site)

    def write(self, chain: Chain) -> None:
        """Write the recipe and the lock of a chain."""
        with machine_faults("writing the recipe of the jobs"):
            chain.folder.mkdir(parents=True, exist_ok=True)
            for name, text in {**self._files(), _STEPS: f"{json.dumps(self._about(chain))}\n"}.items():
                with replacing(chain.folder / name) as fresh:
                    fresh.write_text(text, encoding="utf-8")

    def _about(self, chain: Chain) -> dict[str, object]:
        return {
            "recipe": self.resolved.recipe.name,
            "steps": [job.step for job in chain.jobs],
            "scheduler": self.site.name,
            "cluster": self.site.cluster.model_dump(mode="json", exclude_defaults=True),
        }

    def resources(self, job: Job) -> Resources:
        """Return what a step's job requests: the plan's figures with the site's margins."""
        margins = self.site.cluster.margins
        stage = self.resolved.estimate.stage(PHASES.get(job.step, "download"))
        minutes = math.ceil(stage.time.most / 60 * margins.time) if stage and stage.time else margins.unknown_minutes
        peak = stage.peak.total * margins.memory if stage else 0.0
        return Resources(
            minutes=min(max(minutes, margins.shortest_minutes), margins.longest_minutes),
            memory=int(max(peak, margins.least_memory_gb * 1e9)),
            gpus=job.gpus,
        )

    def _files(self) -> dict[str, str]:
        """Return the files that the jobs read, by name."""
        name = self.resolved.recipe.name
        files = {f"{name}.yaml": recipe_text(self.resolved.recipe)}
        if self.planned.lock is not None:
            files[f"{name}.lock"] = lock_text(self.planned.lock)
        return files

    def _job(self, folder: Path, recipe: Path, placed: PlacedStep, forced: frozenset[str]) -> Job:
        step = placed.step
        secrets = self.settings.secrets
        return Job(
            step=step.name,
            key=folder.name,
            recipe=self.resolved.recipe.name,
            argv=tuple(self._words(recipe, step, forced)),
            output=folder / step.name / "out",
            secrets={name: secrets.get(name, "") for name in step.secrets if name in secrets or self.site.isolates},
            network=step.network or not self.site.isolates,  # the Hub's client finds its cache by the same variables
            gpus=step.gpus,
        )

    def _words(self, recipe: Path, step: Step, forced: frozenset[str]) -> Iterator[str]:
        yield from ("python3", "-m", "orchestrator.cli.main", *self._places())
        yield from ("build", str(recipe), "--until", step.name, "--events", *self._containers())
        if step.name in forced:
            yield from ("--from", step.name)
        if self.offline or (self.site.isolates and not step.network):
            yield "--offline"

    def _places(self) -> Iterator[str]:
        """Yield the folders of the program. A pod has its own copy of the tool's files, and no dist/."""
        settings, kubernetes = self.settings, self.site.cluster.kubernetes
        if self.site.name == "slurm" or kubernetes is None:
            yield from ("--project", str(settings.project.root), "--store", str(settings.store.root))
            yield from ("--dist", str(settings.dist))
            return
        project = settings.project
        if project.root.is_relative_to(kubernetes.volume.path):
            yield from ("--project", str(project.root))
        elif project.is_found and project.root != project.packaged:
            message = f"the project {project.root} is not on the volume that pods see at {kubernetes.volume.path}"
            raise ClusterInvalidError(message, hint="move it there, because the jobs read its files")
        yield from ("--store", str(settings.store.root))

    def _containers(self) -> tuple[str, ...]:
        """Return the options for the program that runs containers on a node."""
        if self.site.containers == "none":
            return ("--executor", "process")
        return ("--containers", self.site.containers)


def recipe_text(recipe: Recipe) -> str:
    """Write a recipe as a file that the loader reads: JSON is YAML."""
    return json.dumps(recipe.model_dump(mode="json", exclude_defaults=True), indent=1) + "\n"


def executor_on(site: Site) -> ExecutorName | None:
    """Return where portable steps run on a node."""
    return "process" if site.containers == "none" else None


def check_containers(plan: Plan, site: Site, last: str | None) -> None:
    """Refuse steps that need a container on a cluster without containers.

    Args:
        plan: The plan.
        site: The cluster.
        last: The last step that is wanted; None: all.

    Raises:
        ClusterInvalidError: There is such a step.
    """
    needing = [placed.step.name for placed in plan.between(None, last) if placed.executor == "docker"]
    if site.containers == "none" and needing:
        has = (
            "cluster.yaml has `containers: none`" if site.name == "slurm" else "a pod runs no other image than its own"
        )
        message = f"{plan.recipe.name}: {', '.join(needing)} must run in a container, and {has}"
        until = plan.steps[max(0, [placed.step.name for placed in plan.steps].index(needing[0]) - 1)].step.name
        hint = "set containers to docker, apptainer or pyxis" if site.name == "slurm" else f"add --until {until}"
        raise ClusterInvalidError(message, hint=hint)


def jobs_folder(settings: Settings) -> Path:
    """Return the folder of all chains of a store."""
    return settings.store.root / "jobs"


def _known_job(folder: Path, recipe: str, step: str) -> Job:
    return Job(step=step, key=folder.name, recipe=recipe, argv=(), output=folder / step / "out")


def remove_chain(chain: Chain) -> None:
    """Remove the folder of a chain whose jobs have ended."""
    shutil.rmtree(chain.folder, ignore_errors=True)
