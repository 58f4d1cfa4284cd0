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
from orchestrator.bundle.gateway.documents import MODEL, Limits
from orchestrator.catalog.target import Architecture
from orchestrator.recipe.model import HubModel, Recipe
from orchestrator.steps.shape import Shape
from orchestrator.store.artifact import Artifact, StoredFile

CONFIG = "trtllm_config.yaml"
"""The configuration file of trtllm-serve, in the bundle."""

_LABEL = 40
"""Characters of a name that leave room for `-model-loader` and the like within the 63 of a DNS label."""
MODEL_FOLDER = "model"
"""What is served, in the bundle: one folder, so that one mount or volume brings it all."""
ENGINE_FOLDER, DRAFT_FOLDER = "trtllm_engine", "draft"
"""What is in it besides a checkpoint, or beside the files of a tokenizer."""
DRAFT_PLACE = str(MODEL / DRAFT_FOLDER)
"""Where trtllm-serve's configuration file says that the draft model is."""
_LONG = "TLLM_ALLOW_LONG_MAX_MODEL_LEN"
"""With it TensorRT-LLM serves texts that are longer than what the model was trained for."""


@dataclass(frozen=True)
class Part:
    """Files of an artifact in a bundle."""

    name: str
    """Its folder in the bundle."""
    artifact: Artifact
    files: tuple[StoredFile, ...]
    """Those of the artifact that the server reads."""

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
    """As its model card gives it; `unknown` for a model from a folder."""
    url: str
    """Where its owner says so; empty where nobody does."""
    path: str
    """The file that came with the weights and holds the text; empty where none did."""
    text: str
    """What that file says, or a sentence about where the terms are."""


@dataclass(frozen=True)
class Facts:
    """One build of one recipe."""

    recipe: Recipe
    """With its commits."""
    shape: Shape
    image: BaseImage
    parts: tuple[Part, ...]
    """What lies beside the texts, in folders of the bundle."""
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
    """config.json of the engine; None: the checkpoint is served."""
    targets: tuple[str, ...] = ()
    """The names of what is rendered besides what every bundle has."""
    embed_model: bool = False
    """The image that the bundle builds holds the model, which is mounted otherwise."""
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
        return sum(part.size for part in self.parts)

    @property
    def model_files(self) -> Mapping[str, StoredFile]:
        """What is served, by path within the folder of the model."""
        return {
            PurePosixPath(part.name, file.path).relative_to(MODEL_FOLDER).as_posix(): file
            for part in self.parts
            for file in part.files
        }

    @property
    def limits(self) -> Limits:
        """What the server can be asked for: an engine is built for a size, a checkpoint was trained for a length."""
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
        """Names what is served, 64 hexadecimal digits: the parts, the base image and how it is started."""
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
        """Names the files of the model alone, 64 hexadecimal digits."""
        listing = [[path, file.sha256] for path, file in sorted(self.model_files.items())]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()

    @property
    def volume(self) -> str:
        """The volume of Kubernetes that holds this model: another one for another model."""
        return f"{self.name}-{self.model_digest[:8]}"

    @property
    def tag(self) -> str:
        """The tag of the image that the bundle builds: another one for whatever is served otherwise."""
        return f"{self.digest[:12]}{'-with-model' if self.embed_model else ''}"

    @property
    def built_image(self) -> str:
        """What the image that the bundle builds is called on this machine; no registry is meant."""
        return f"{self.recipe.name}:{self.tag}"


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
