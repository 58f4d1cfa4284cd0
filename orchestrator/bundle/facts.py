"""All that a bundle's files are rendered from, gathered once; a target reads this and nothing else."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from orchestrator import __version__
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.target import Architecture
from orchestrator.planner.prediction import predict
from orchestrator.recipe.lock import LockedImage
from orchestrator.recipe.model import HubModel, Recipe
from orchestrator.serving.command import serve_command
from orchestrator.serving.config import config_text, llm_api_config
from orchestrator.steps.shape import CHECKPOINT, DRAFT, ENGINE, Shape
from orchestrator.store.artifact import Artifact

CONFIG = "trtllm_config.yaml"
"""The configuration file of trtllm-serve, in the bundle."""
CONFIG_FOLDER = "/etc/orchestrator"
"""Where the server's container finds it."""

_LABEL = 40
"""Characters of a name that leave room for `-model-loader` and the like within the 63 of a DNS label."""
_NAMES = {CHECKPOINT: "model", ENGINE: "trtllm_engine", DRAFT: "draft"}


@dataclass(frozen=True)
class Part:
    """An artifact's files in a bundle."""

    name: str
    """Its folder in the bundle."""
    target: str
    """Where the server's container finds it."""
    artifact: Artifact


@dataclass(frozen=True)
class BaseImage:
    """The image that holds TensorRT-LLM."""

    reference: str
    """Repository and tag."""
    digest: str | None
    """What the lock pulls it by; None: no lock names it."""
    digests: Mapping[Architecture, str]
    """Of the image for each architecture, as far as the lock knows."""
    tensorrt_llm: str

    @property
    def pinned(self) -> str:
        """What to pull: by digest where there is one."""
        return f"{self.reference}@{self.digest}" if self.digest else self.reference


@dataclass(frozen=True)
class License:
    """The licence of the base model."""

    name: str
    """As its model card gives it; `unknown` for a model of one's own."""
    url: str | None
    """Where its owner says so."""


@dataclass(frozen=True)
class Facts:
    """One build of one recipe."""

    recipe: Recipe
    """With its commits."""
    shape: Shape
    image: BaseImage
    parts: tuple[Part, ...]
    """What lies beside the texts, in folders of the bundle."""
    command: tuple[str, ...]
    """trtllm-serve's command line."""
    config: str
    """trtllm-serve's configuration file."""
    quality: Mapping[str, Any] | None
    """quality.json; None: not measured."""
    performance: Mapping[str, Any] | None
    """performance.json; None: not measured."""
    prediction: Mapping[str, Any] | None
    """prediction.json; None: the model's sizes are not known."""
    license: License | None
    """None for a model that was generated."""
    targets: tuple[str, ...] = ()
    """The names of what is rendered besides what every bundle has."""
    version: str = __version__
    """Of the orchestrator."""

    @property
    def name(self) -> str:
        """The recipe's name as a DNS-1035 label, which everything in Kubernetes and Compose may be called."""
        return dns_label(self.recipe.name)

    @property
    def model_name(self) -> str:
        """What clients call the model."""
        return self.recipe.serve.served_model_name or self.recipe.name

    @property
    def model_source(self) -> str:
        """The repository on the Hub, or the recipe's name for a model from elsewhere."""
        return self.recipe.model.repo if isinstance(self.recipe.model, HubModel) else self.recipe.name

    @property
    def commit(self) -> str | None:
        """The commit of the model on the Hub."""
        return self.recipe.model.revision if isinstance(self.recipe.model, HubModel) else None

    @property
    def gpus(self) -> int:
        """GPUs of one node that serve; trtllm-serve never runs without one, whatever the model was made on."""
        return self.shape.gpus if self.shape.target.gpu else 1

    @property
    def nodes(self) -> int:
        """Machines that serve together."""
        return self.shape.target.nodes

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.artifact.size for part in self.parts)

    @property
    def digest(self) -> str:
        """Names what is served, 64 hexadecimal digits: the parts, the base image and how it is started."""
        fields = {
            "format": 1,
            "parts": {part.name: part.artifact.digest for part in self.parts},
            "image": self.image.pinned,
            "command": self.command,
            "config": self.config,
            "environment": dict(sorted(self.recipe.serve.environment.items())),
        }
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    @property
    def tag(self) -> str:
        """The tag of the image that the bundle builds: another one for whatever is served otherwise."""
        return self.digest[:12]

    @property
    def built_image(self) -> str:
        """What the image that the bundle builds is called on this machine; no registry is meant."""
        return f"{self.recipe.name}:{self.tag}"


def gather(
    recipe: Recipe,
    catalog: Catalog,
    artifacts: Mapping[str, Artifact],
    *,
    images: Mapping[str, LockedImage],
) -> Facts:
    """Look everything up that a bundle is rendered from.

    Args:
        recipe: The recipe, with its commits.
        catalog: Where its image and target are described.
        artifacts: What each step left, by the step's name.
        images: What the lock says of images.
    """
    shape = Shape(recipe, catalog)
    locked = images.get(recipe.image)
    return Facts(
        recipe=recipe,
        shape=shape,
        image=BaseImage(
            shape.image.reference,
            locked.index if locked else None,
            _digests(locked),
            shape.image.tensorrt_llm,
        ),
        parts=tuple(
            Part(_NAMES[mount.target], _place(recipe, mount.target), artifacts[mount.step])
            for mount in shape.served_inputs
        ),
        command=_command(shape),
        config=config_text(llm_api_config(recipe, shape.image)),
        quality=_report(artifacts, "verify", "quality.json"),
        performance=_report(artifacts, "benchmark", "performance.json"),
        prediction=predict(recipe, catalog),
        license=_license(recipe),
    )


def dns_label(name: str) -> str:
    """Make a name that a Service of Kubernetes may have: letters, digits and dashes, a letter first.

    A name that is cut short ends in six digits of its hash, so that two long ones stay two.
    """
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not label[:1].isalpha():
        label = f"model-{label}"
    if len(label) > _LABEL:
        label = f"{label[: _LABEL - 7].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    return label


def _digests(locked: LockedImage | None) -> Mapping[Architecture, str]:
    known: dict[Architecture, str | None] = (
        {"amd64": locked.amd64, "arm64": locked.arm64} if locked else {"amd64": None, "arm64": None}
    )
    return {architecture: digest for architecture, digest in known.items() if digest}


def _served(recipe: Recipe) -> str:
    """Name what trtllm-serve opens: the engine, or the checkpoint."""
    return ENGINE if recipe.backend == "tensorrt" else CHECKPOINT


def _place(recipe: Recipe, target: str) -> str:
    """Where the server's container finds an artifact; clients see the last part of what is served as its name."""
    return f"/models/{recipe.name}" if target == _served(recipe) else target


def _command(shape: Shape) -> tuple[str, ...]:
    recipe = shape.recipe
    return serve_command(
        recipe,
        shape.image,
        shape.catalog,
        model=_place(recipe, _served(recipe)),
        tokenizer=CHECKPOINT if recipe.backend == "tensorrt" else None,
        config=str(PurePosixPath(CONFIG_FOLDER) / CONFIG),
        host="0.0.0.0",  # noqa: S104 - inside the container; Compose publishes it on loopback only
        port=recipe.serve.port,
    )


def _report(artifacts: Mapping[str, Artifact], step: str, name: str) -> dict[str, Any] | None:
    if step not in artifacts:
        return None
    found: dict[str, Any] = json.loads((artifacts[step].folder / name).read_bytes())
    return found


def _license(recipe: Recipe) -> License | None:
    match recipe.model:
        case HubModel() as model:
            return License(model.license, f"https://huggingface.co/{model.repo}")
        case _:
            return None
