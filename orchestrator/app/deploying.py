"""Starts the server of a built recipe on this machine, and removes it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.app.memory_guard import Kernel
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.app.signing import verify_bundle
from orchestrator.bundle.keyless import Identity, TrustedIdentity
from orchestrator.deployment import two_sparks
from orchestrator.deployment.compose_file import ComposeFile, read
from orchestrator.deployment.container import FOLDER
from orchestrator.deployment.deployed_containers import containers, remove_deployment
from orchestrator.deployment.gateway_client import API_KEY, Answer, Gateway
from orchestrator.deployment.images import BuiltFrom
from orchestrator.deployment.memory import ServerMemory, server_memory
from orchestrator.deployment.observer import Done, Observer, Phase
from orchestrator.deployment.record import forget, lock_of, remember
from orchestrator.deployment.server import gateway_of, limit_of, wait_until_ready
from orchestrator.deployment.start import Deployment
from orchestrator.errors import ComposeUnsupportedError
from orchestrator.executors.docker_client import connect, images_folder
from orchestrator.units import in_time
from orchestrator.values import frozen

if TYPE_CHECKING:
    from docker import DockerClient


@frozen
class Deployed:
    """A server that is ready."""

    folder: Path
    """The bundle's folder."""
    gateway: Gateway
    seconds_to_ready: float
    answer: Answer | None
    """Its answer to one question; None if it requires a client certificate."""


def deploy(
    settings: Settings,
    recipe: RecipeName,
    profiles: Sequence[str],
    observer: Observer,
    *,
    trusted: Path | TrustedIdentity | None = None,
) -> Deployed:
    """Start the server of a recipe's bundle, wait until it is ready and ask it one question.

    Args:
        settings: The environment and the folders. The key of the server's API is taken from the environment.
        recipe: The recipe.
        profiles: The profiles of further services.
        observer: Gets the phases of the deployment.
        trusted: The public key or the identity that must have signed the bundle; None: it need not be signed.

    Raises:
        BundleIncompleteError: The recipe has no bundle.
        SignatureInvalidError: It is not signed by whom it must be, or not as it was signed. Nothing was started.
        DockerUnavailableError: Docker does not answer.
        MemoryBudgetError: The weights do not fit into memory. The running server was not stopped.
        ServerEndedError: The server ended before it was ready.
        ServerNotReadyError: The server was not ready in time.
    """
    target = settings.load(recipe).recipe.target  # an unknown name must not become a path
    folder = settings.dist / recipe.name
    compose = read_compose(folder, profiles)
    if trusted:
        verified = verify_bundle(folder, trusted, observer)
        owner = verified.signer if isinstance(verified.signer, Identity) else f"the owner of {trusted}"
        observer(Done("signature", f"{verified.files} files are signed by {owner}"))
    with closing(connect()) as client:
        remember(settings.store.root, recipe.name)
        waits = Phase("server", "waiting: another command works on this deployment")
        with settings.store.lock(lock_of(recipe.name), lambda: observer(waits)):
            memory = _memory(settings, target, folder, client)
            container = Deployment(client, folder, compose, tuple(profiles), observer, memory).start()
        gateway = gateway_of(folder, compose, settings.environment.get(API_KEY))
        waited = wait_until_ready(container, gateway, limit_of(compose), observer)
        observer(Done("server", f"ready after {in_time(waited)}"))
        observer(Phase("server", "asking it one question"))
        return Deployed(folder, gateway, waited, None if gateway.mutual else gateway.ask())


def _memory(settings: Settings, target: str, folder: Path, client: DockerClient) -> ServerMemory | None:
    """Compare memory only where Docker runs on this machine, and the GPU uses this machine's memory."""
    found = Kernel().memory()
    if found is None or not settings.catalog.target(target).unified_memory or images_folder(client) is None:
        return None
    return server_memory(folder, found[0])


def undeploy(
    settings: Settings, recipe: RecipeName, waiting: Callable[[], None], *, volumes: bool = False
) -> Iterator[str]:
    """Stop and remove what `deploy` created in Docker from this `dist/`, and yield the name of each removed thing.

    Args:
        settings: The environment and the folders.
        recipe: The recipe.
        waiting: Called if another command works on the deployment.
        volumes: Remove the servers' volumes as well.

    Raises:
        DockerUnavailableError: Docker does not answer.
    """
    locked = settings.store.lock(lock_of(recipe.name), waiting)
    with closing(connect()) as client, locked:
        yield from remove_deployment(client, recipe.name, settings.dist / recipe.name, volumes=volumes)
        forget(settings.store.root, recipe.name)


def other_deployments(recipe: RecipeName) -> list[tuple[str, str]]:
    """List the containers of a recipe that run here, each with the bundle's folder that it is from."""
    with closing(connect()) as client:
        return [(container.name or "", container.labels[FOLDER]) for container in containers(client, recipe.name)]


def read_compose(folder: Path, profiles: Sequence[str]) -> ComposeFile:
    """Read a bundle's compose.yaml, and check that it has these profiles.

    Raises:
        ComposeUnsupportedError: It does not have a profile.
    """
    compose = read(folder)
    for profile in profiles:
        if profile not in compose.profiles:
            message = f"{folder} has no profile `{profile}`"
            raise ComposeUnsupportedError(message, hint=f"its profiles are: {', '.join(compose.profiles) or 'none'}")
    return compose


def images_of(folder: Path, profiles: Sequence[str]) -> list[BuiltFrom]:
    """List the images that serve a bundle, on one machine or on two Sparks.

    Raises:
        ComposeUnsupportedError: It does not have a profile.
    """
    if two_sparks.is_for_two(folder):
        return two_sparks.images_of(folder, profiles)
    services = read_compose(folder, profiles).chosen(tuple(profiles))
    return [BuiltFrom(service, folder) for service in services.values()]
