"""A short set of seeds; `python -m tests.chaos` runs long ones."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from tests.chaos import crashing, downloading
from tests.chaos.cluster import run
from tests.chaos.harness import Chaos, tell
from tests.chaos.kubernetes import KubernetesChaos
from tests.chaos.slurm import SlurmChaos
from tests.chaos.worlds import container_world, download_world, process_world
from tests.support.docker_daemon import Daemon
from tests.support.hub import Hub, serve
from tests.support.kubernetes import Kubernetes
from tests.support.rehearsal import build_images
from tests.support.slurm import Slurm

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


def test_every_point_at_which_a_build_may_be_killed_is_in_the_program() -> None:
    places = [*crashing.BEFORE.values(), *crashing.AFTER.values()]
    in_downloads = [downloading.place_of(spelled) for spelled in (downloading.BEFORE | downloading.AFTER).values()]
    for owner, name in (*chain.from_iterable(places), *in_downloads):
        assert callable(getattr(owner, name)), f"{owner}: {name}"


@pytest.mark.parametrize("orchestrators", [1, 2])
def test_builds_in_processes_survive_being_killed(tmp_path: Path, orchestrators: int) -> None:
    chaos = Chaos(process_world(tmp_path), tmp_path, seed=orchestrators)
    while chaos.tally.kills < 6 * orchestrators:
        chaos.round(orchestrators, kills=6 * orchestrators)
    tell(chaos.tally, chaos.seed, f"processes, {orchestrators} at once")


@pytest.mark.parametrize("orchestrators", [1, 2])
def test_downloads_survive_being_killed_and_fetch_no_more_than_a_chunk_again(
    tmp_path: Path, orchestrators: int
) -> None:
    with serve(Hub()) as hub:
        chaos = Chaos(download_world(hub, tmp_path), tmp_path, seed=orchestrators)
        while chaos.tally.kills < 3 * orchestrators:
            chaos.round(orchestrators, kills=3 * orchestrators)
    tell(chaos.tally, chaos.seed, f"downloads, {orchestrators} at once")


@pytest.mark.docker
@pytest.mark.parametrize("orchestrators", [1, 2])
def test_builds_in_containers_survive_being_killed(tmp_path: Path, daemon: Daemon, orchestrators: int) -> None:
    build_images(daemon)
    chaos = Chaos(container_world(daemon, tmp_path / "project"), tmp_path, seed=orchestrators)
    while chaos.tally.kills < 3 * orchestrators:
        chaos.round(orchestrators, kills=3 * orchestrators)
    tell(chaos.tally, chaos.seed, f"containers, {orchestrators} at once")


def test_builds_on_slurm_survive_the_death_of_each_part(tmp_path: Path, own_slurm: Slurm) -> None:
    run(SlurmChaos(tmp_path, seed=1, slurm=own_slurm), faults=12)


def test_builds_on_kubernetes_survive_what_a_cluster_does_to_them(tmp_path: Path, kubernetes: Kubernetes) -> None:
    run(KubernetesChaos(tmp_path, seed=1, kubernetes=kubernetes), faults=6)
