"""What a recipe's steps have in common: which one leaves the checkpoint, where it runs, which facts of it count."""

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
"""The weights as they were published."""
CHECKPOINT = "/checkpoint"
"""What is served: quantized, or as published."""
TRTLLM_CHECKPOINT = "/trtllm_checkpoint"
ENGINE = "/engine"
DRAFT = "/draft"
CALIBRATION = "/calibration"
HELD_OUT = "/held_out"
EVALUATION = "/evaluation"
SOURCE = "/source"
"""What a person keeps in a folder or file of their own."""

OUT = Inside(OUTPUT)

HF_CHECKPOINT = (Output("config.json", "json"), Output("*.safetensors", "safetensors"))
"""A checkpoint in the Hub's layout."""
TRTLLM_CHECKPOINT_FILES = (Output("config.json", "json"), Output("rank*.safetensors", "safetensors"))
"""A checkpoint in TensorRT-LLM's layout."""

OFFLINE: Mapping[str, str] = {"HF_HUB_OFFLINE": "1"}
"""Libraries that would ask the Hub first, and wait for an answer, do not."""


@dataclass(frozen=True)
class Shape:
    """One recipe with its image and target."""

    recipe: Recipe
    catalog: Catalog

    @property
    def image(self) -> Image:
        """What converts, builds, checks and serves."""
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
        """The image of our own code: the recipe's, or this machine's Python where the target has no GPU."""
        return self.recipe.image if self.target.gpu else None

    @property
    def measurable(self) -> bool:
        """Whether one container can serve it: several machines need a launcher that one step is not."""
        return self.target.gpu is not None and self.target.nodes == 1

    @property
    def model_step(self) -> str:
        """The step that leaves the weights as they were published."""
        match self.recipe.model:
            case HubModel():
                return "download"
            case LocalModel():
                return "import"
            case GeneratedModel():
                return "generate"

    @property
    def checkpoint_step(self) -> str:
        """The step that leaves the checkpoint in the Hub's layout; quantize.py leaves another layout."""
        return "quantize" if self.recipe.quantization.method in ("onepass", "modelopt") else self.model_step

    @property
    def trtllm_checkpoint_step(self) -> str:
        """The step that leaves the checkpoint in TensorRT-LLM's layout."""
        return "quantize" if self.recipe.quantization.method == "trtllm" else "convert"

    @property
    def draft(self) -> HubModel | None:
        """The model that proposes tokens, where it is one of its own."""
        speculative = self.recipe.serve.speculative
        return speculative.draft if isinstance(speculative, DraftTarget | Eagle3) else None

    @property
    def served_inputs(self) -> tuple[Input, ...]:
        """What a server reads."""
        inputs = [Input(self.checkpoint_step, CHECKPOINT)]
        if self.recipe.backend == "tensorrt":
            inputs.append(Input("engine", ENGINE))
        if self.draft:
            inputs.append(Input("download-draft", DRAFT))
        return tuple(inputs)

    @property
    def host(self) -> Mapping[str, str]:
        """What of the target decides what a GPU leaves: engines and measurements are not portable."""
        gpu = self.target.gpu
        facts = {"tensorrt_llm": self.image.tensorrt_llm, "architecture": self.target.architecture}
        return facts | ({"gpu": gpu.name, "sm": str(gpu.sm)} if gpu else {})

    def has(self, tool: Tool) -> bool:
        """Tell whether the recipe's image holds a tool; where it does not, the plan refuses."""
        return self.image.has(tool)

    def command(self, tool: Tool) -> tuple[str, ...]:
        """What starts a tool of the recipe's image."""
        family = self.image.engine_families.get(self.recipe.model.architecture, "")
        return tuple(part.format(family=family) for part in self.image.tools[tool].command)


def payload(name: str, options: Mapping[str, Argument], *more: Argument) -> tuple[Argument, ...]:
    """Start one of our own payloads.

    Args:
        name: Its module.
        options: Options with a value, by name without dashes.
        more: What else follows.
    """
    flags = (argument for option, value in options.items() for argument in (f"--{option}", value))
    return ("python3", "-m", f"orchestrator.payloads.{name}", *flags, *more)
