"""The long run: `python -m tests.chaos --kills 500 --seed 7`; without Docker, only processes."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from orchestrator.errors import MachineError
from orchestrator.store.store import remove_tree
from tests.chaos.harness import Chaos, ViolationError, tell
from tests.chaos.worlds import container_world, download_world, process_world
from tests.support.docker_daemon import Daemon, NoDaemonError, own_daemon_in
from tests.support.hub import Hub, serve
from tests.support.rehearsal import build_images

_PER_ROUND = 12


def main() -> int:
    """Run until so many builds were killed; exit status 1 at the first violation, whose files are kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=500, help="how many builds to kill")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="what to repeat")
    parser.add_argument("--containers", type=int, default=25, metavar="PERCENT", help="of the kills; 0: none")
    parser.add_argument("--downloads", type=int, default=35, metavar="PERCENT", help="of the kills; 0: none")
    asked = parser.parse_args()
    sys.stdout.write(f"chaos: seed {asked.seed}\n")
    folder = Path(tempfile.mkdtemp(prefix="orch-chaos-"))
    started, killed = time.monotonic(), 0
    try:
        in_containers = _in_containers(folder / "c", asked.seed, asked.kills * asked.containers // 100)
        in_downloads = _in_downloads(folder / "d", asked.seed, asked.kills * asked.downloads // 100)
        rest = asked.kills - in_containers - in_downloads
        killed = in_containers + in_downloads + _rounds(Chaos(process_world(folder), folder / "p", asked.seed), rest)
    except ViolationError as error:
        sys.stdout.write(f"VIOLATION: {error}\n")
        return 1
    remove_tree(folder)
    sys.stdout.write(f"chaos: {killed} kills, 0 violations, {time.monotonic() - started:.0f} s, seed {asked.seed}\n")
    return 0


def _in_containers(folder: Path, seed: int, kills: int) -> int:
    if not kills:
        return 0
    with ExitStack() as stack:
        daemon = Daemon("")
        try:
            daemon.connect().close()
        except MachineError:
            try:
                daemon = stack.enter_context(own_daemon_in()).daemon
            except NoDaemonError as error:
                sys.stdout.write(f"chaos: no containers: {error}\n")
                return 0
        build_images(daemon)
        return _rounds(Chaos(container_world(daemon, folder / "project"), folder, seed), kills)


def _in_downloads(folder: Path, seed: int, kills: int) -> int:
    if not kills:
        return 0
    folder.mkdir()
    with serve(Hub()) as hub:
        return _rounds(Chaos(download_world(hub, folder), folder, seed), kills)


def _rounds(chaos: Chaos, kills: int) -> int:
    what = "containers" if chaos.world.containers else "downloads" if chaos.world.downloads else "processes"
    while chaos.tally.kills < kills:
        for orchestrators in (1, 2):
            chaos.round(orchestrators, min(_PER_ROUND, max(1, kills - chaos.tally.kills)))
        tell(chaos.tally, chaos.seed, what)
    return chaos.tally.kills


if __name__ == "__main__":
    sys.exit(main())
