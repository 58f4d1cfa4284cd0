"""Answers common questions about a recipe's steps: who writes the checkpoint, where steps run, what keys contain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.catalog.image import Image, Tool
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.target import Target
from orchestrator.executors.job import OUTPUT, Argument, Inside
from orchestrator.recipe.model import DraftTarget, Eagle3, GeneratedModel, HubModel, LocalModel, Recipe
from orchestrator.steps.step import Input, Output

MODEL = "/model"
"""The published weights."""
CHECKPOINT = "/checkpoint"
"""The served weights: quantized, or as published."""
TRTLLM_CHECKPOINT = "/trtllm_checkpoint"
ENGINE = "/engine"
DRAFT = "/draft"
CALIBRATION = "/calibration"
HELD_OUT = "/held_out"
EVALUATION = "/evaluation"
SOURCE = "/source"
"""A user's own folder or file."""

OUT = Inside(OUTPUT)

HF_CHECKPOINT = (Output("config.json", "json"), Output("*.safetensors", "safetensors"))
"""A checkpoint in the Hub's layout."""
TRTLLM_CHECKPOINT_FILES = (Output("config.json", "json"), Output("rank*.safetensors", "safetensors"))
"""A checkpoint in TensorRT-LLM's layout."""

OFFLINE: Mapping[str, str] = {"HF_HUB_OFFLINE": "1"}
"""Stop libraries from asking the Hub first."""


@dataclass(frozen=True)
class Shape:
    """One recipe with its image and target."""

    recipe: Recipe
    catalog: Catalog

    @property
    def image(self) -> Image:
        """The image that converts, builds, checks and serves."""
        return self.catalog.image(self.recipe.image)

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
        facts = {"tensorrt_llm": self.image.tensorrt_llm, "architecture": self.target.architecture}
        return facts | ({"gpu": gpu.name, "sm": str(gpu.sm)} if gpu else {})

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
