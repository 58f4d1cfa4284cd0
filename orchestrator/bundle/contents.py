"""Reads everything that a bundle's files are rendered from: recipe, catalogue, lock and artifacts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from orchestrator import __version__
from orchestrator.bundle.gateway.documents import MODEL, Limits
from orchestrator.bundle.image_name import ImageName
from orchestrator.catalog.image import RuntimeName
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.target import Architecture
from orchestrator.models import ModelShape
from orchestrator.planner.kernels import arithmetic
from orchestrator.planner.known import Find, in_catalogue
from orchestrator.planner.model_on_target import ModelOnTarget, model_on_target
from orchestrator.planner.phases import serving_full
from orchestrator.planner.prediction import predict
from orchestrator.recipe.lock import LockedImage
from orchestrator.recipe.model import GeneratedModel, HubModel, LocalModel, Recipe
from orchestrator.serving.server import DRAFT, Runtime
from orchestrator.steps.registry import build_steps
from orchestrator.steps.shape import CHECKPOINT, ENGINE, Shape
from orchestrator.steps.step import Step
from orchestrator.store.artifact import Artifact, StoredFile
from orchestrator.values import frozen

PORT = 8000
"""The gateway's port in its container."""
HEALTH_PORT = 8002
"""The port for health checks only, never with TLS."""
CACHE = "/opt/nim/.cache"
"""The folder of compiled kernels, kept between two starts."""
MODEL_FOLDER = "model"
"""The folder of the model in the bundle: a single one, so that one mount or volume is enough."""
DRAFT_FOLDER = "draft"
"""The folder of a draft model beside the model's own files."""
DRAFT_PATH = str(MODEL / DRAFT_FOLDER)
"""The path of the draft model for the runtime."""
_MAX_LABEL = 40
"""Characters of a name that leave space for `-model-loader` and the like within the 63 of a DNS label."""
_LICENSE_FILE = re.compile(r"(LICEN[SC]E|COPYING)([._-].*)?", re.IGNORECASE)


@frozen
class Part:
    """Files of an artifact in a bundle."""

    name: str
    """Its folder in the bundle."""
    artifact: Artifact
    files: tuple[StoredFile, ...]
    """The files that the server reads."""

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)


@frozen
class BaseImage:
    """The image that holds the runtime."""

    reference: str
    """Repository and tag."""
    digest: str | None
    """The locked digest; None: no lock has it."""
    digests: Mapping[Architecture, str]
    """Digest of the image for each architecture, if the lock has it."""
    runtime: RuntimeName
    version: str
    """Of the runtime."""

    @property
    def pinned(self) -> str:
        """The reference to pull, with a digest if there is one."""
        return f"{self.reference}@{self.digest}" if self.digest else self.reference


@frozen
class License:
    """The licence of the base model."""

    name: str
    """As its model card gives it; `unknown` for a model from a folder."""
    url: str
    """Its URL, if the owner names one; else empty."""
    path: str
    """The file with the text, copied with the weights; empty if there is none."""
    text: str
    """The text of that file, or a sentence that names the source of the terms."""


@frozen
class BuiltStep:
    """A step and its result."""

    step: Step
    artifact: Artifact


@frozen
class BundleContents:
    """Everything that the files of one bundle are rendered from."""

    recipe: Recipe
    """The recipe, with its commits."""
    shape: Shape
    image: BaseImage
    parts: tuple[Part, ...]
    """The artifacts' files, in folders of the bundle."""
    arguments: tuple[str, ...]
    """The runtime's options, as the recipe gives them."""
    config: str
    """The runtime's configuration file; empty if it has none."""
    quality: Mapping[str, Any] | None
    """quality.json; None: not measured."""
    performance: Mapping[str, Any] | None
    """performance.json; None: not measured."""
    prediction: Mapping[str, Any] | None
    """prediction.json; None: the model's sizes are not known."""
    serving_memory: float | None
    """Bytes that serving takes on each machine, as the plan says; None: the model's sizes are not known."""
    license: License
    steps: tuple[BuiltStep, ...]
    """The steps, in the order in which they ran."""
    model_config: Mapping[str, Any]
    """config.json of the checkpoint."""
    counted: ModelShape | None
    """The checkpoint's tensors by its headers; None if they were not counted."""
    engine_config: Mapping[str, Any] | None
    """config.json of the TensorRT engine; None: the checkpoint is served."""
    targets: tuple[str, ...] = ()
    """The names of the optional targets."""
    embed_model: bool = False
    """The bundle's image includes the model, which is otherwise mounted."""
    image_name: ImageName | None = None
    """The name under which the bundle's image is pulled; None: the recipe's, which is in no registry."""
    version: str = __version__
    """Of the orchestrator."""

    @property
    def name(self) -> str:
        """The recipe's name as a DNS-1035 label, which Kubernetes and Compose accept everywhere."""
        return dns_label(self.recipe.name)

    @property
    def runtime(self) -> Runtime:
        """The runtime that serves."""
        return self.shape.runtime

    @property
    def arithmetic(self) -> str:
        """How the runtime multiplies the weights, if that is not what the format's name says."""
        return arithmetic(self.shape.image, self.shape.target, self.recipe.quantization.format)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels that the server's log named when it was checked."""
        served = (self.quality or {}).get("served") or {}
        return tuple(served.get("kernels", ()))

    @property
    def model_name(self) -> str:
        """The model's name for clients."""
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
    def parameters(self) -> float:
        """Of the model: by the headers of its files, else as the recipe says."""
        return self.counted.parameters if self.counted else self.recipe.model.parameters

    @property
    def active_parameters(self) -> float | None:
        """Those that a token reads, in a mixture of experts."""
        if self.counted is None:
            return self.recipe.model.active_parameters
        return self.counted.active_parameters if self.counted.is_moe else None

    @property
    def gpus(self) -> int:
        """GPUs of one node that serve; at least one, because a server needs it."""
        return self.shape.gpus if self.shape.target.gpu else 1

    @property
    def nodes(self) -> int:
        """Machines that serve together."""
        return self.shape.target.nodes

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)

    @property
    def model_files(self) -> Mapping[str, StoredFile]:
        """The served files, by path within the folder of the model."""
        return {
            PurePosixPath(part.name, file.path).relative_to(MODEL_FOLDER).as_posix(): file
            for part in self.parts
            for file in part.files
        }

    @property
    def limits(self) -> Limits:
        """The limits of requests: a TensorRT engine's build limits, or a checkpoint's trained length."""
        if self.engine_config is None:
            config = self.model_config.get("text_config", self.model_config)
            longer = self.recipe.serve.environment.get(self.runtime.ALLOWS_LONGER) == "1"
            return Limits(max_seq_len=None if longer else config.get("max_position_embeddings"))
        built = self.runtime.engine_limits(self.engine_config)
        return Limits(
            tensor_parallel_size=built.tensor_parallel_size or self.recipe.serve.tensor_parallel_size,
            pipeline_parallel_size=built.pipeline_parallel_size,
            max_seq_len=built.max_seq_len,
            max_batch_size=built.max_batch_size,
        )

    @property
    def digest(self) -> str:
        """Digest of the deployment, 64 hexadecimal digits: the parts, the base image and the start command."""
        fields = {
            "format": 1,
            "parts": {part.name: part.artifact.digest for part in self.parts},
            "image": self.image.pinned,
            "arguments": self.arguments,
            "config": self.config,
            "environment": dict(sorted(self.recipe.serve.environment.items())),
        }
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    @property
    def model_digest(self) -> str:
        """Digest of the model's files alone, 64 hexadecimal digits."""
        listing = [[path, file.sha256] for path, file in sorted(self.model_files.items())]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()

    @property
    def volume(self) -> str:
        """The Kubernetes volume of this model. Another model has another volume."""
        return f"{self.name}-{self.model_digest[:8]}"

    @property
    def tag(self) -> str:
        """The tag of the bundle's image. It changes with everything that is served."""
        return f"{self.digest[:12]}{'-with-model' if self.embed_model else ''}"

    @property
    def repository(self) -> str:
        """The name of the bundle's image without its tag."""
        return self.image_name.repository if self.image_name else self.recipe.name

    @property
    def image_tag(self) -> str:
        """The tag in that repository."""
        return (self.image_name.tag if self.image_name else None) or self.tag

    @property
    def built_image(self) -> str:
        """The name of the bundle's image."""
        return f"{self.repository}:{self.image_tag}"

    @property
    def pushed_image(self) -> str:
        """The name in a registry; an example if none was given."""
        return self.built_image if self.image_name else f"registry.example/{self.built_image}"

    @property
    def podman_image(self) -> str:
        """Podman's name of the image; what it builds without a registry is under `localhost`."""
        return self.built_image if self.image_name else f"localhost/{self.built_image}"


def dns_label(name: str) -> str:
    """Make a valid name for a Kubernetes Service: letters, digits and dashes, a letter first.

    A shortened name ends in six digits of its hash, so that two long names stay different.
    """
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not label[:1].isalpha():
        label = f"model-{label}"
    if len(label) > _MAX_LABEL:
        label = f"{label[: _MAX_LABEL - 7].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    return label


def read_contents(
    recipe: Recipe,
    catalog: Catalog,
    artifacts: Mapping[str, Artifact],
    *,
    images: Mapping[str, LockedImage],
    embed_model: bool = False,
    image_name: ImageName | None = None,
    find: Find = in_catalogue,
    counted: ModelShape | None = None,
) -> BundleContents:
    """Read the contents of a bundle.

    Args:
        recipe: The recipe, with its commits.
        catalog: The source of its image and target.
        artifacts: The artifact of each step, by the step's name.
        images: The image digests of the lock.
        embed_model: The bundle's image includes the model.
        image_name: The name under which the bundle's image is pulled.
        find: Looks up the sizes of models.
        counted: The checkpoint's tensors by its headers.
    """
    shape = Shape(recipe, catalog)
    model = model_on_target(recipe, shape.target, find, shape.runtime.COSTS)
    locked = images.get(recipe.image)
    return BundleContents(
        recipe=recipe,
        shape=shape,
        image=BaseImage(
            shape.image.reference,
            locked.index if locked else None,
            _image_digests(locked),
            shape.image.runtime,
            shape.image.version,
        ),
        parts=tuple(_part(shape, mount.target, artifacts[mount.step]) for mount in shape.served_inputs),
        arguments=shape.runtime.arguments(shape.server, DRAFT_PATH),
        config=shape.runtime.config(shape.server, DRAFT_PATH),
        quality=_report(artifacts, "verify", "quality.json"),
        performance=_report(artifacts, "benchmark", "performance.json"),
        prediction=predict(model),
        serving_memory=_serving_memory(model),
        license=_license(shape, artifacts),
        steps=tuple(
            BuiltStep(step, artifacts[step.name]) for step in build_steps(recipe, catalog) if step.name in artifacts
        ),
        model_config=_read_json(artifacts[shape.checkpoint_step], "config.json"),
        counted=counted,
        engine_config=_read_json(artifacts["engine"], "config.json") if recipe.backend == "tensorrt" else None,
        embed_model=embed_model,
        image_name=image_name,
    )


def _serving_memory(model: ModelOnTarget) -> float | None:
    if model.serving is None or not model.has_server:
        return None
    return serving_full(model.serving).total * model.gpus / model.target.nodes


def _image_digests(locked: LockedImage | None) -> Mapping[Architecture, str]:
    if locked is None:
        return {}
    digests: dict[Architecture, str | None] = {"amd64": locked.amd64, "arm64": locked.arm64}
    return {architecture: digest for architecture, digest in digests.items() if digest}


def _part(shape: Shape, target: str, artifact: Artifact) -> Part:
    """Leave out the weights of a checkpoint that a TensorRT engine holds: it needs only the tokenizer."""
    files, runtime = artifact.files, shape.runtime
    if target == CHECKPOINT and shape.recipe.backend == "tensorrt" and runtime.ENGINE_HOLDS_WEIGHTS:
        files = tuple(file for file in files if not file.path.endswith((".safetensors", ".safetensors.index.json")))
    inside = {CHECKPOINT: "", ENGINE: f"/{runtime.ENGINE_FOLDER}", DRAFT: f"/{DRAFT_FOLDER}"}
    return Part(MODEL_FOLDER + inside[target], artifact, files)


def _report(artifacts: Mapping[str, Artifact], step: str, name: str) -> dict[str, Any] | None:
    return _read_json(artifacts[step], name) if step in artifacts else None


def _read_json(artifact: Artifact, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((artifact.folder / name).read_bytes())
    return document


def _license(shape: Shape, artifacts: Mapping[str, Artifact]) -> License:
    name, text = _license_name_and_terms(shape.recipe)
    model = shape.recipe.model
    page = f"https://huggingface.co/{model.repo}/{{kind}}/{model.revision}" if isinstance(model, HubModel) else ""
    for step in dict.fromkeys((shape.checkpoint_step, shape.model_step)):
        for file in artifacts[step].files if step in artifacts else ():
            if _LICENSE_FILE.fullmatch(file.path):
                text = (artifacts[step].folder / file.path).read_text(encoding="utf-8", errors="replace")
                url = f"{page.format(kind='blob')}/{file.path}" if page else ""
                return License(name, url, file.path, text)
    return License(name, page.format(kind="tree"), "", text)


def _license_name_and_terms(recipe: Recipe) -> tuple[str, str]:
    """Return the licence's name, and a sentence that stands in for a missing licence file."""
    match recipe.model:
        case HubModel(license=name, repo=repo):
            return name, f"The model {repo} is published under the licence `{name}`. Its page has the terms."
        case LocalModel():
            return "unknown", "The model comes from a folder that has no licence file."
        case GeneratedModel():
            return "none", "The model is made from a seed by the recipe. It is not trained."
