"""Describes a container image: its tools, their options, formats by GPU, and known faults."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.catalog.target import Architecture

Tool = Literal[
    "trtllm-build",
    "convert_checkpoint.py",
    "quantize.py",
    "hf_ptq.py",
    "trtllm-serve",
    "trtllm-bench",
    "vllm",
    "tensorrt-edgellm-build",
    "tensorrt-edgellm-serve",
]
RuntimeName = Literal["tensorrt_llm", "vllm", "edge_llm"]
SERVERS: dict[RuntimeName, Tool] = {
    "tensorrt_llm": "trtllm-serve",
    "vllm": "vllm",
    "edge_llm": "tensorrt-edgellm-serve",
}
"""The tool of each runtime that serves."""
BUILDERS: tuple[Tool, ...] = ("trtllm-build", "tensorrt-edgellm-build")
"""The tools that build TensorRT engines."""


class _Part(BaseModel):
    # Validators are built when a model is first used: most are parts of another, and need none of their own.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class ToolEntry(_Part):
    """One tool of an image."""

    command: tuple[str, ...] = Field(min_length=1)
    """The command that starts it. `{family}` stands for the model family's folder of examples."""
    options: str
    """The table of its options: docker/tools/NAME.json."""


class Build(_Part):
    """An image that the project builds itself."""

    dockerfile: str
    """Relative to the project folder, or to the tool's data if the project has no such file."""
    base: str
    """The catalogue's name of the image it starts FROM."""
    arguments: dict[str, str] = {}
    """Build arguments."""


class Fault(_Part):
    """A known fault: if every given condition holds, the plan refuses or warns."""

    code: str = Field(pattern=r"^[A-Z][A-Z0-9_]*$")
    effect: Literal["refuse", "warn"]
    message: str
    hint: str
    source: str
    """Issue, release note or document as its source."""
    sm: tuple[int, ...] = ()
    formats: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    """Model architectures (`LlamaForCausalLM`, …)."""
    speculative: tuple[str, ...] = ()
    """Kinds of speculative decoding (`mtp`, …)."""
    kv_cache: tuple[str, ...] = ()
    """Formats of the KV cache whose scales are in the checkpoint."""
    min_nodes: int = 1
    unless_variable: str | None = None
    """The fault is avoided by this variable of `serve.environment`, whatever its value."""


class Image(_Part):
    """One image of docker/images.yaml."""

    reference: str
    """Repository and tag; the lock pins the digest."""
    description: str
    architectures: tuple[Architecture, ...] = Field(min_length=1)
    runtime: RuntimeName = "tensorrt_llm"
    """The software that serves."""
    version: str
    """The version of the runtime; `runtimes.json` has what a version serves."""
    modelopt: str | None = None
    build: Build | None = None
    """How the project builds it; None: it is pulled."""
    any_user: bool = True
    """Its tools work for a user that the image does not know."""
    tools: dict[Tool, ToolEntry]
    formats: dict[str, tuple[str, ...]]
    """By SM (`sm_121`), the weight formats with kernels: a recipe's formats and `fp8_block_scale`."""
    kv_cache_formats: dict[str, tuple[str, ...]]
    """By SM, the KV cache formats besides BF16."""
    weight_only: dict[str, dict[str, str]] = {}
    """By SM, the formats whose weights are unpacked and multiplied with 16-bit activations, each with its kernel."""
    entrypoint: tuple[str, ...] | None = None
    """What has to run before any command, such as a script that sets up CUDA. Empty: the image's own is the server,
    and must not run before another command. None: the image's own is left as it is, and a bundle replaces it."""
    engine_families: dict[str, str] = {}
    """Model architectures that it builds engines of, each with its folder of examples or its `model_type`
    (`LlamaForCausalLM: llama`); empty if it builds none."""
    expert_formats: tuple[str, ...] | None = None
    """The formats of experts in the engines that it builds; None: those of other weights."""
    validated_parameters: float | None = None
    """The parameters of dense models below which its maker supports engines; None: no limit is known."""
    misread_formats: dict[str, str] = {}
    """Formats that it accepts without a word and multiplies in another way, each with what it does."""
    activations: str = ""
    """The type that it computes in, whatever the checkpoint's is (`FP16`); empty: the checkpoint's."""
    libraries: dict[str, str] = {}
    """Versions besides the runtime's that decide the bytes of an engine (`tensorrt: 10.16.1.11`)."""
    experimental: str = ""
    """Why it is called experimental; empty if it is not."""
    llm_api: tuple[str, ...] = ()
    """Top-level keys of trtllm-serve's configuration file that a recipe may give as `serve.options`."""
    faults: tuple[Fault, ...] = ()

    @property
    def server(self) -> Tool:
        """The tool that serves, if the image serves."""
        return SERVERS[self.runtime]

    @property
    def serves(self) -> bool:
        """Whether the image can serve. An image of a quantizer cannot."""
        return self.server in self.tools

    @property
    def builder(self) -> Tool | None:
        """The tool that builds TensorRT engines, if the image has one."""
        return next((tool for tool in BUILDERS if tool in self.tools), None)

    def has(self, tool: Tool) -> bool:
        """Tell whether the image has a tool."""
        return tool in self.tools
