"""Gathers all facts for a bundle's files once. Targets read only these facts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from orchestrator import __version__
from orchestrator.bundle.gateway.documents import MODEL, Limits
from orchestrator.catalog.target import Architecture
from orchestrator.recipe.model import HubModel, Recipe
from orchestrator.steps.shape import Shape
from orchestrator.store.artifact import Artifact, StoredFile

CONFIG = "trtllm_config.yaml"
"""The configuration file of trtllm-serve, in the bundle."""

_LABEL = 40
"""Characters of a name that leave space for `-model-loader` and the like within the 63 of a DNS label."""
MODEL_FOLDER = "model"
"""The folder of the model in the bundle: a single one, so that one mount or volume is enough."""
ENGINE_FOLDER, DRAFT_FOLDER = "trtllm_engine", "draft"
"""Its folders besides a checkpoint, or beside the files of a tokenizer."""
DRAFT_PLACE = str(MODEL / DRAFT_FOLDER)
"""The path of the draft model in trtllm-serve's configuration file."""
_LONG = "TLLM_ALLOW_LONG_MAX_MODEL_LEN"
"""It lets TensorRT-LLM serve sequences that are longer than the model's trained length."""


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class BaseImage:
    """The image that holds TensorRT-LLM."""

    reference: str
    """Repository and tag."""
    digest: str | None
    """The locked digest; None: no lock has it."""
    digests: Mapping[Architecture, str]
    """Digest of the image for each architecture, if the lock has it."""
    tensorrt_llm: str

    @property
    def pinned(self) -> str:
        """The reference to pull, with a digest if there is one."""
        return f"{self.reference}@{self.digest}" if self.digest else self.reference


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Facts:
    """One build of one recipe."""

    recipe: Recipe
    """With its commits."""
    shape: Shape
    image: BaseImage
    parts: tuple[Part, ...]
    """The artifacts' files, in folders of the bundle."""
    arguments: tuple[str, ...]
    """trtllm-serve's options, as the recipe gives them."""
    config: str
    """trtllm-serve's configuration file."""
    quality: Mapping[str, Any] | None
    """quality.json; None: not measured."""
    performance: Mapping[str, Any] | None
    """performance.json; None: not measured."""
    prediction: Mapping[str, Any] | None
    """prediction.json; None: the model's sizes are not known."""
    license: License
    model_config: Mapping[str, Any]
    """config.json of the checkpoint."""
    engine_config: Mapping[str, Any] | None
    """config.json of the TensorRT engine; None: the checkpoint is served."""
    targets: tuple[str, ...] = ()
    """The names of the optional targets."""
    embed_model: bool = False
    """The bundle's image includes the model, which is otherwise mounted."""
    version: str = __version__
    """Of the orchestrator."""

    @property
    def name(self) -> str:
        """The recipe's name as a DNS-1035 label, which Kubernetes and Compose accept everywhere."""
        return dns_label(self.recipe.name)

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
    def gpus(self) -> int:
        """GPUs of one node that serve; at least one, because trtllm-serve needs it."""
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
            text = self.model_config.get("text_config", self.model_config)
            longer = self.recipe.serve.environment.get(_LONG) == "1"
            return Limits(max_seq_len=None if longer else text.get("max_position_embeddings"))
        build = self.engine_config.get("build_config", {})
        mapping = self.engine_config.get("pretrained_config", {}).get("mapping", {})
        return Limits(
            tensor_parallel_size=mapping.get("tp_size", self.recipe.serve.tensor_parallel_size),
            pipeline_parallel_size=mapping.get("pp_size", 1),
            max_seq_len=build.get("max_seq_len"),
            max_batch_size=build.get("max_batch_size"),
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
    def built_image(self) -> str:
        """The local name of the bundle's image, without a registry."""
        return f"{self.recipe.name}:{self.tag}"


def dns_label(name: str) -> str:
    """Make a valid name for a Kubernetes Service: letters, digits and dashes, a letter first.

    A shortened name ends in six digits of its hash, so that two long names stay different.
    """
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not label[:1].isalpha():
        label = f"model-{label}"
    if len(label) > _LABEL:
        label = f"{label[: _LABEL - 7].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    return label
