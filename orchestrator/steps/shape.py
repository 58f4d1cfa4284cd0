"""Answers common questions about a recipe's steps: who writes the checkpoint, where steps run, what keys contain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.catalog.image import Image, Tool
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.target import Target
from orchestrator.errors import CatalogError
from orchestrator.executors.job import OUTPUT, Argument, Inside
from orchestrator.planner.model_on_target import model_on_target
from orchestrator.planner.server_memory import cache_memory
from orchestrator.recipe.model import (
    Calibration,
    DraftTarget,
    Eagle3,
    GeneratedModel,
    HeldOut,
    HubModel,
    LocalModel,
    Recipe,
)
from orchestrator.serving.runtimes import runtime_of
from orchestrator.serving.server import DRAFT, CacheMemory, Runtime, Server
from orchestrator.steps.step import SCRATCH, Input, Output, Step
from orchestrator.values import frozen

MODEL = "/model"
"""The published weights."""
CHECKPOINT = "/checkpoint"
"""The served weights: quantized, or as published."""
TRTLLM_CHECKPOINT = "/trtllm_checkpoint"
ENGINE = "/engine"
CALIBRATION = "/calibration"
HELD_OUT = "/held_out"
EVALUATION = "/evaluation"
CANDIDATES = "/candidates"
SOURCE = "/source"
"""A user's own folder or file."""

OUT = Inside(OUTPUT)

HF_CHECKPOINT = (Output("config.json", "json"), Output("*.safetensors", "safetensors"))
"""A checkpoint in the Hub's layout."""
TRTLLM_CHECKPOINT_FILES = (Output("config.json", "json"), Output("rank*.safetensors", "safetensors"))
"""A checkpoint in TensorRT-LLM's layout."""

OFFLINE: Mapping[str, str] = {"HF_HUB_OFFLINE": "1"}
"""Stop libraries from asking the Hub first."""


@frozen
class Shape:
    """One recipe with its image and target."""

    recipe: Recipe
    catalog: Catalog

    @property
    def image(self) -> Image:
        """The image that converts, builds, checks and serves."""
        return self.catalog.image(self.recipe.image)

    @property
    def runtime(self) -> Runtime:
        """The runtime of that image."""
        return runtime_of(self.image)

    @property
    def server(self) -> Server:
        """The recipe as its runtime sees it."""
        options = self.catalog.options(self.image, self.image.server) if self.image.serves else {}
        return Server(self.recipe, self.image, self.target, options, self._cache_memory)

    def _cache_memory(self) -> CacheMemory:
        """Calculate the memory of the KV cache from the tool's own data, so that a plan needs no model's files."""
        return cache_memory(model_on_target(self.recipe, self.target, runtime=self.runtime.COSTS))

    @property
    def target(self) -> Target:
        """The machine that serves."""
        return self.catalog.target(self.recipe.target)

    @property
    def gpus(self) -> int:
        """GPUs that a step with a GPU asks for."""
        return self.target.gpu.count if self.target.gpu else 0

    @property
    def container(self) -> str | None:
        """The image of our own code: the recipe's, or this machine's Python if the target has no GPU."""
        return self.recipe.image if self.target.gpu else None

    @property
    def quantizer_image(self) -> str:
        """The image with the recipe's quantizer: the recipe's choice, else the catalogue's first that fits.

        Raises:
            CatalogError: No image of the catalogue has hf_ptq.py for the target's processor.
        """
        quantization, architecture = self.recipe.quantization, self.target.architecture
        if quantization.method != "modelopt":
            return self.recipe.image
        if quantization.image is not None:
            return quantization.image
        for name, image in self.catalog.images.items():
            if image.has("hf_ptq.py") and architecture in image.architectures:
                return name
        message = f"{self.catalog.project.image_files[-1]}: no image has hf_ptq.py for {architecture}"
        raise CatalogError(message)

    @property
    def resources(self) -> Mapping[str, str]:
        """The variables that tell a payload its resources. None of them changes a byte."""
        resources = self.recipe.quantization.resources
        limits = {"THREADS": resources.threads, "MEMORY": resources.memory and int(resources.memory)}
        found = {f"ORCHESTRATOR_{name}": str(value) for name, value in limits.items() if value is not None}
        return found | ({"ORCHESTRATOR_SPILL": "1"} if resources.spill else {})

    @property
    def measurable(self) -> bool:
        """Whether one container can serve it. Several machines need a launcher, which one step cannot be."""
        return self.target.gpu is not None and self.target.nodes == 1

    @property
    def model_step(self) -> str:
        """The step that writes the published weights."""
        match self.recipe.model:
            case HubModel():
                return "download"
            case LocalModel():
                return "import"
            case GeneratedModel():
                return "generate"

    @property
    def checkpoint_step(self) -> str:
        """The step that writes the checkpoint in the Hub's layout. quantize.py writes another layout."""
        return "quantize" if self.recipe.quantization.method in ("onepass", "modelopt") else self.model_step

    @property
    def trtllm_checkpoint_step(self) -> str:
        """The step that writes the checkpoint in TensorRT-LLM's layout."""
        return "quantize" if self.recipe.quantization.method == "trtllm" else "convert"

    @property
    def draft(self) -> HubModel | None:
        """The draft model, if it is separate."""
        speculative = self.recipe.serve.speculative
        return speculative.draft if isinstance(speculative, DraftTarget | Eagle3) else None

    @property
    def served_inputs(self) -> tuple[Input, ...]:
        """The server's input."""
        inputs = [Input(self.checkpoint_step, CHECKPOINT)]
        if self.recipe.backend == "tensorrt":
            inputs.append(Input("engine", ENGINE))
        if self.draft:
            inputs.append(Input("download-draft", DRAFT))
        return tuple(inputs)

    @property
    def host(self) -> Mapping[str, str]:
        """The target's properties that decide a GPU's results. TensorRT engines and measurements are not portable."""
        gpu = self.target.gpu
        facts = {self.image.runtime: self.image.version, "architecture": self.target.architecture}
        return facts | self.image.libraries | ({"gpu": gpu.name, "sm": str(gpu.sm)} if gpu else {})

    def has(self, tool: Tool) -> bool:
        """Tell whether the recipe's image has a tool. If not, the plan refuses."""
        return self.image.has(tool)

    def command(self, tool: Tool) -> tuple[str, ...]:
        """Return the command that starts a tool of the recipe's image."""
        family = self.image.engine_families.get(self.recipe.model.architecture, "")
        return tuple(part.format(family=family) for part in self.image.tools[tool].command)


def payload(name: str, options: Mapping[str, Argument], *more: Argument) -> tuple[Argument, ...]:
    """Return the command that starts one of our payloads.

    Args:
        name: Its module.
        options: Options with a value, by name without dashes.
        more: Further arguments.
    """
    flags = (argument for option, value in options.items() for argument in (f"--{option}", value))
    return ("python3", "-m", f"orchestrator.payloads.{name}", *flags, *more)


def walk_step(
    shape: Shape,
    name: str,
    options: Mapping[str, Argument],
    inputs: Sequence[Input],
    outputs: Sequence[Output],
    *more: Argument,
) -> Step:
    """Declare a payload that runs samples through the model's layers, with torch and the GPUs of the target."""
    return Step(
        name=name,
        argv=payload(name, options, *more),
        outputs=tuple(outputs),
        image=shape.container,
        inputs=tuple(inputs),
        needs_code=True,
        environment=OFFLINE,
        limits=shape.resources,
        gpus=shape.gpus,
        resumable=True,
        libraries=("torch", "transformers"),
        identity=shape.host,
    )


def walk_options(samples: Calibration | HeldOut) -> dict[str, Argument]:
    """Return the options of a payload that runs samples through the model's layers."""
    return {
        "samples": str(samples.samples),
        "sequence-length": str(samples.sequence_length),
        "batch-size": str(samples.batch_size),
        "scratch": Inside(SCRATCH),
    }
