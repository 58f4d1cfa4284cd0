"""Defines the fields of a recipe as frozen types.

Names and values are those of ModelOpt, TensorRT-LLM and the Hugging Face Hub. The only dicts are the
`options` tables, whose keys are another tool's option names and are checked against the image's catalogue entry.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ByteSize, ConfigDict, Discriminator, Field, Tag, model_validator

from orchestrator.recipe.names import NAME_PATTERN

_REPO_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"
_REVISION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/-]*$"
_OBJECT_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
"""Names of objects of Kubernetes, and hosts."""
KNOWN_INGRESS_CLASSES = ("nginx", "traefik", "alb")
"""Their annotations are known."""

Format = Literal["bf16", "fp8", "nvfp4", "w4a16_nvfp4", "mxfp4", "int4_awq", "auto"]
Method = Literal["onepass", "modelopt", "trtllm", "none"]
Backend = Literal["tensorrt", "pytorch"]
Rounding = Literal["nearest", "gptq"]
Smoothing = Literal["none", "norms"]
DataFreeSearch = Literal["max", "mse", "four_over_six"]
InputScales = Literal["max", "headroom"]
LayerInputs = Literal["original", "quantized"]
ScaleSearch = Literal["max", "mse", "four_over_six", "weighted", "local_hessian"]
KvCacheFormat = Literal["none", "fp8", "nvfp4"]
OptionValue = bool | int | float | str


class _Part(BaseModel):
    """A frozen part of a recipe. An unknown key is an error."""

    # Validators are built when a model is first used: most are parts of another, and need none of their own.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)


class Trust(_Part):
    """Files that may carry code and are fetched nevertheless, from one commit that the user has read."""

    commit: str = Field(pattern="^[0-9a-f]{40}$")
    """The commit that you have read. Another one is refused."""
    files: tuple[str, ...] = ()
    """Files besides safetensors, JSON, tokenizer and text, e.g. `*.bin`; shell patterns."""
    remote_code: bool = False
    """Its Python files are fetched, and `auto_map` and `trust_remote_code` are allowed."""


class HubModel(_Part):
    """A model on the Hugging Face Hub."""

    repo: str = Field(pattern=_REPO_PATTERN, max_length=192)
    """`owner/name` on the Hub."""
    revision: str = Field(default="main", pattern=_REVISION_PATTERN, max_length=128)
    """Branch, tag or commit. `lock` resolves it to a commit."""
    license: str
    """The licence's short name as its model card gives it."""
    gated: bool = False
    """Its owner must grant access first, and a token is needed."""
    trust: Trust | None = None
    """Without it, no file that can carry code is fetched."""
    architecture: str
    """`architectures[0]` of its config.json."""
    parameters: float = Field(gt=0)
    """Parameters in total, as its model card gives them."""
    active_parameters: float | None = Field(default=None, gt=0)
    """Parameters read per token, for a mixture of experts."""


class LocalModel(_Part):
    """A model in a local folder, in the Hub's layout."""

    path: str = Field(min_length=1)
    """The folder: absolute, beginning with `~` for your home, or relative to the project folder. For a recipe file
    outside a project, the project folder is the file's own folder."""
    architecture: str
    """`architectures[0]` of its config.json."""
    parameters: float = Field(gt=0)
    """Parameters in total."""
    active_parameters: float | None = Field(default=None, gt=0)
    """Parameters read per token, for a mixture of experts."""


class GenerateOptions(_Part):
    """The shape of a small model that is generated from a seed."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    architecture: Literal["LlamaForCausalLM"] = "LlamaForCausalLM"
    hidden_size: int = Field(default=256, ge=16, le=8192, multiple_of=16)
    intermediate_size: int = Field(default=512, ge=16, le=32768, multiple_of=16)
    num_hidden_layers: int = Field(default=4, ge=1, le=128)
    num_attention_heads: int = Field(default=4, ge=1, le=128)
    num_key_value_heads: int = Field(default=2, ge=1, le=128)
    vocab_size: int = Field(default=1024, ge=320, le=262144)
    max_position_embeddings: int = Field(default=2048, ge=16, le=1048576)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.num_attention_heads or self.num_attention_heads % self.num_key_value_heads:
            msg = "num_attention_heads must divide hidden_size, and num_key_value_heads must divide num_attention_heads"
            raise ValueError(msg)
        return self


class GeneratedModel(_Part):
    """A small model that is generated from a seed, with the same bytes every time: no network, no account."""

    generate: GenerateOptions

    @property
    def architecture(self) -> str:
        """`architectures[0]` of the config.json that will be written."""
        return self.generate.architecture

    @property
    def parameters(self) -> float:
        """Parameters in total: embeddings, head, layers and norms of the Llama architecture, untied."""
        shape = self.generate
        key_value = shape.hidden_size * shape.num_key_value_heads // shape.num_attention_heads
        attention = 2 * shape.hidden_size * (shape.hidden_size + key_value)
        layer = attention + 3 * shape.hidden_size * shape.intermediate_size + 2 * shape.hidden_size
        return float(2 * shape.vocab_size * shape.hidden_size + shape.num_hidden_layers * layer + shape.hidden_size)

    @property
    def active_parameters(self) -> None:
        """Every parameter is read for each token."""
        return


def _model_kind(value: object) -> str | None:
    keys = value if isinstance(value, dict) else getattr(type(value), "model_fields", {})
    return next((kind for kind in ("repo", "path", "generate") if kind in keys), None)


Model = Annotated[
    Annotated[HubModel, Tag("repo")] | Annotated[LocalModel, Tag("path")] | Annotated[GeneratedModel, Tag("generate")],
    Discriminator(
        _model_kind,
        custom_error_type="model_kind",
        custom_error_message="expected one of `repo` (on the Hub), `path` (a folder) or `generate` (from a seed)",
    ),
]


class Calibration(_Part):
    """Text that runs through the model to measure the range of its activations."""

    dataset: str = "cnn_dailymail"
    """A name that ModelOpt knows, a local text or JSONL file, or `random`: tokens from a seed."""
    chat_template: bool = False
    """Run conversations in the form of the model's chat template: the `messages` of each line, or its text as a
    user's message. Only with method onepass."""
    revision: str = Field(default="main", pattern=_REVISION_PATTERN, max_length=128)
    """Branch, tag or commit of a data set on the Hub. `lock` resolves it to a commit."""
    samples: int = Field(default=512, ge=1, le=65536)
    sequence_length: int = Field(default=512, ge=1, le=131072)
    """Most tokens of each sample."""
    batch_size: int = Field(default=1, ge=1, le=1024)


class Budget(_Part):
    """The size of a model in several formats; one of the two is given."""

    bits_per_weight: float | None = Field(default=None, gt=0, le=16)
    """For all weights that can be quantized, scales included. NVFP4 takes 4.5, FP8 takes 8."""
    bytes: int | None = Field(default=None, ge=1)
    """For all tensors of the checkpoint, embeddings included."""

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Self:
        if (self.bits_per_weight is None) == (self.bytes is None):
            msg = "give either bits_per_weight or bytes"
            raise ValueError(msg)
        return self


class Resources(_Part):
    """Resources of `onepass` and comparing. Another device rounds products differently; the rest changes no byte."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device that runs the model and encodes weights; `auto`: the GPU if there is one."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """Threads of the processor; by default all that the step may use."""
    memory: ByteSize | None = Field(default=None, ge=1)
    """The memory budget, such as `16GB` or `12GiB`; by default the available memory when the step starts."""
    spill: bool = False
    """Keep hidden states in a file even if the budget is large enough for them."""


class Quantization(_Part):
    """The format of the weights, and the tool that quantizes."""

    format: Format
    """ModelOpt's name of the format; `auto`: NVFP4, FP8 or BF16 for each group of modules, as `budget` allows."""
    budget: Budget | None = None
    """The size of the result of `auto`."""
    method: Method
    """`onepass`: ours; `modelopt`: its hf_ptq.py; `trtllm`: TensorRT-LLM's quantize.py; `none`: already quantized."""
    image: str | None = None
    """The image that quantizes, if it is not the recipe's image (see docker/images.yaml)."""
    kv_cache: KvCacheFormat = "none"
    """Format of the KV cache whose scales are in the checkpoint."""
    calibration: Calibration = Calibration()
    shared_scales: bool = False
    """FP8 of method onepass: one weight scale for fused modules, so that runtimes need no second rounding. ModelOpt,
    and so the default, has one for each."""
    scale_search: ScaleSearch = "max"
    """NVFP4 of method onepass: how the scale of each block of 16 is chosen. `max`: from its largest magnitude, as
    ModelOpt's default; `mse`: the least squared error of 13 scales; `four_over_six`: of two; `weighted`: as `mse`, with
    errors weighted by how large inputs are in calibration, which then runs for `w4a16_nvfp4` as well; `local_hessian`:
    by how the inputs of a block go together, too; its search takes up to twice as long."""
    rounding: Rounding = "nearest"
    """NVFP4 of method onepass: how numbers are rounded. `nearest`: each to the nearest; `gptq`: each column makes up
    for the errors of those before it, by what calibration shows of the inputs. It needs 4 bytes for every two inputs of
    a module."""
    smoothing: Smoothing = "none"
    """NVFP4 of method onepass: which inputs are divided by powers of two, so that large ones cost those beside them
    less. `norms`: those that a norm puts out; its weight is divided, and the weights that get them are multiplied. The
    model calculates the same; layout and speed stay. Calibration then runs for `w4a16_nvfp4` as well, over text."""
    input_scales: InputScales = "max"
    """NVFP4 with 4-bit inputs, of method onepass: how each `input_scale` is chosen. `max`: from the largest input of
    calibration, as ModelOpt's default; `headroom`: from the small ones, so that larger inputs than those of calibration
    are not cut off, ModelOpt's nvfp4_act_headroom. Padding does not count for it."""
    layer_inputs: LayerInputs = "original"
    """Calibration of method onepass: which layers calculate the inputs of later ones. `original`: the model's own;
    `quantized`: those that are quantized so far, as a runtime computes them, ModelOpt's
    get_qdq_activations_from_prev_layer. It runs each layer twice."""
    resources: Resources = Resources()
    exclude: tuple[str, ...] = ()
    """Modules to leave in BF16 besides ModelOpt's own exclusions; shell patterns."""
    options: dict[str, OptionValue] = {}
    """Further options of hf_ptq.py or quantize.py, by name without dashes."""

    @model_validator(mode="after")
    def _only_onepass_can(self) -> Self:
        if self.shared_scales and (self.method, self.format) != ("onepass", "fp8"):
            msg = "shared_scales is a choice of method onepass with format fp8; NVFP4 always shares them"
            raise ValueError(msg)
        if self.scale_search != "max" and self.method != "onepass":
            msg = (
                f"scale_search is a choice of method onepass; method {self.method} chooses scales itself:"
                f" leave scale_search out, or set method: onepass"
            )
            raise ValueError(msg)
        if self.scale_search != "max" and self.format not in ("nvfp4", "w4a16_nvfp4", "auto"):
            msg = (
                f"scale_search {self.scale_search} chooses the scales of NVFP4's blocks, and {self.format} has none:"
                f" leave scale_search out, or set format: nvfp4, w4a16_nvfp4 or auto"
            )
            raise ValueError(msg)
        self._check_following_text("rounding", "nearest", ("nvfp4", "w4a16_nvfp4", "auto"))
        self._check_following_text("smoothing", "none", ("nvfp4", "w4a16_nvfp4"))
        self._check_input_scales()
        self._check_layer_inputs()
        if self.calibration.chat_template and self.method != "onepass":
            msg = "calibration.chat_template: NVIDIA's quantizers read text alone; use method onepass"
            raise ValueError(msg)
        if self.calibration.chat_template and self.calibration.dataset == "random":
            msg = "calibration.chat_template: tokens from a seed say nothing; name a data set"
            raise ValueError(msg)
        return self

    @property
    def choices(self) -> tuple[str, ...]:
        """How method onepass makes NVFP4; some choices need a run of the model, see `format_names.MEASURED`."""
        return self.scale_search, self.rounding, self.smoothing, self.input_scales, self.layer_inputs

    def _check_input_scales(self) -> None:
        if self.input_scales == "max":
            return
        if self.method != "onepass":
            msg = (
                f"input_scales is a choice of method onepass, which method {self.method} does not have:"
                f" leave input_scales out, or set method: onepass"
            )
            raise ValueError(msg)
        if self.format not in ("nvfp4", "auto"):
            msg = (
                f"input_scales {self.input_scales} chooses the scales of 4-bit inputs, and {self.format} has none:"
                f" leave input_scales out, or set format: nvfp4 or auto"
            )
            raise ValueError(msg)

    def _check_layer_inputs(self) -> None:
        """Check that formats are known while layers run."""
        chosen = f"layer_inputs {self.layer_inputs}"
        if self.layer_inputs == "original":
            return
        if self.method != "onepass":
            msg = (
                f"{chosen} is a choice of method onepass, which method {self.method} does not have:"
                f" leave layer_inputs out, or set method: onepass"
            )
            raise ValueError(msg)
        if self.format == "auto":
            msg = (
                f"{chosen} needs the format of each layer before the next one runs, and auto chooses formats when all"
                f" layers have run: leave layer_inputs out, or set format: nvfp4, fp8 or w4a16_nvfp4"
            )
            raise ValueError(msg)

    def _check_following_text(self, field: str, default: str, formats: tuple[str, ...]) -> None:
        """Check a choice that follows the inputs of text."""
        chosen = getattr(self, field)
        if chosen == default:
            return
        if self.method != "onepass":
            msg = (
                f"{field} is a choice of method onepass, which method {self.method} does not have:"
                f" leave {field} out, or set method: onepass"
            )
            raise ValueError(msg)
        if self.format not in formats:
            *others, last = formats
            msg = (
                f"{field} {chosen} goes with formats {', '.join(others)} and {last}, not with {self.format}:"
                f" leave {field} out, or set format: {', '.join(others)} or {last}"
            )
            raise ValueError(msg)
        if self.calibration.dataset == "random":
            msg = (
                f"{field} {chosen} follows the inputs of real text, and tokens from a seed are none:"
                f" name a data set in calibration.dataset, or leave {field} out"
            )
            raise ValueError(msg)

    @model_validator(mode="after")
    def _format_and_method_agree(self) -> Self:
        if self.format == "bf16" and self.method != "none":
            msg = "bf16 is not quantized: use method none"
            raise ValueError(msg)
        if (self.format == "auto") != (self.budget is not None):
            msg = "format auto needs a budget, and no other format has one"
            raise ValueError(msg)
        if self.format == "auto" and self.method != "onepass":
            msg = "format auto is chosen by method onepass alone"
            raise ValueError(msg)
        return self


class Engine(_Part):
    """How the checkpoint becomes a TensorRT engine; only with `backend: tensorrt`."""

    convert: dict[str, OptionValue] = {}
    """Options of convert_checkpoint.py, by name without dashes; TensorRT Edge-LLM converts nothing."""
    build: dict[str, OptionValue] = {}
    """Options of trtllm-build or tensorrt-edgellm-build, by name without dashes."""


class HeldOut(_Part):
    """Text on which the quantized model is compared with its original. Calibration does not use it."""

    dataset: str = "cnn_dailymail"
    """As in `quantization.calibration`: a known name, a local text or JSONL file, or `random`."""
    revision: str = Field(default="main", pattern=_REVISION_PATTERN, max_length=128)
    """Branch, tag or commit of a data set on the Hub. `lock` resolves it to a commit."""
    samples: int = Field(default=64, ge=1, le=65536)
    sequence_length: int = Field(default=512, ge=2, le=131072)
    """Most tokens of each sample."""
    batch_size: int = Field(default=1, ge=1, le=1024)


class Checks(_Part):
    """Requirements before a deployment."""

    min_snr_db: float | None = None
    """The least signal-to-noise ratio of any layer's dequantized weights, in decibels."""
    max_kl_divergence: float | None = Field(default=None, gt=0)
    """Largest Kullback-Leibler divergence of next-token probabilities from the original's, in nats a token. By default
    what is normal for the format decides: twice as much is a warning, three times as much fails."""
    max_perplexity_increase: float | None = Field(default=None, gt=0)
    """Largest relative increase of perplexity on `held_out`: 0.01 is one percent. By default as for divergence."""
    held_out: HeldOut | None = None
    """If given, both models run over this text, and limits are in force. This needs torch, which images have."""
    compare: tuple[DataFreeSearch, ...] = ()
    """Searches for NVFP4's scales that the recipe's own is compared with on `held_out`, such as `[max]`, as `quality`
    does: divergence, perplexity and agreement with 95 % intervals, and each layer's error. It calibrates once more and
    runs the original and each way."""
    chat_template: bool = True
    """The tokenizer must have a chat template."""
    serve: bool = True
    """Start the server, ask for one answer and stop it (in a container with a GPU)."""
    startup_timeout: int = Field(default=1800, ge=1, le=86400)
    """Seconds until the server must be healthy."""

    @model_validator(mode="after")
    def _gates_need_text(self) -> Self:
        gates = (self.max_kl_divergence, self.max_perplexity_increase)
        if self.held_out is None and any(gate is not None for gate in gates):
            msg = "max_kl_divergence and max_perplexity_increase are measured on held_out, which is missing"
            raise ValueError(msg)
        if self.held_out is None and self.compare:
            msg = "compare needs text to compare on, and held_out is missing: add held_out, or leave compare out"
            raise ValueError(msg)
        return self


class Benchmark(_Part):
    """The measurements of trtllm-bench."""

    input_tokens: int = Field(default=128, ge=1, le=1048576)
    output_tokens: int = Field(default=128, ge=1, le=1048576)
    requests: int = Field(default=16, ge=1, le=100000)
    """Requests per level of concurrency."""
    concurrency: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = (1,)
    """Levels of concurrency, one run each."""
    seed: int = Field(default=420, ge=0)
    precision: float | None = Field(default=None, gt=0, le=0.5)
    """Repeat each level until the 95 % interval of its tokens per second is this narrow: its half width relative to the
    mean, such as 0.03. By default each level runs once."""
    max_runs: int | None = Field(default=None, ge=3, le=30)
    """With `precision`: most runs of a level; by default 10."""

    @model_validator(mode="after")
    def _runs_need_a_precision(self) -> Self:
        if self.max_runs is not None and self.precision is None:
            msg = "max_runs bounds the runs until `precision` is reached, which is missing"
            raise ValueError(msg)
        return self


class DraftTarget(_Part):
    """A small model of the same vocabulary proposes tokens, the large one checks them."""

    type: Literal["draft_target"]
    draft: HubModel
    max_draft_len: int = Field(default=4, ge=1, le=64)


class Eagle3(_Part):
    """An EAGLE-3 head proposes tokens from the large model's hidden states."""

    type: Literal["eagle3"]
    draft: HubModel
    max_draft_len: int = Field(default=5, ge=1, le=64)


class Mtp(_Part):
    """The model's own multi-token-prediction layers propose tokens."""

    type: Literal["mtp"]
    num_nextn_predict_layers: int = Field(default=1, ge=1, le=16)


Speculative = Annotated[DraftTarget | Eagle3 | Mtp, Field(discriminator="type")]


class KvCache(_Part):
    """TensorRT-LLM's `kv_cache_config`."""

    dtype: Literal["auto", "fp8", "nvfp4"] = "auto"
    free_gpu_memory_fraction: float = Field(default=0.8, gt=0, le=0.95)
    """Share of the memory that is free after the weights. On unified memory the system needs the rest."""
    max_tokens: int | None = Field(default=None, ge=1)
    enable_block_reuse: bool = True
    """Off for hybrid (Mamba) models."""


class Workload(_Part):
    """What users send: it decides the predicted speed, not the server."""

    input_tokens: int = Field(default=3584, ge=1, le=16777216)
    """Tokens of each prompt."""
    output_tokens: int = Field(default=512, ge=1, le=16777216)
    """Tokens of each answer."""
    concurrency: int | None = Field(default=None, ge=1, le=4096)
    """Users, each of whom sends the next request when the answer is complete; by default one."""
    rate: float | None = Field(default=None, gt=0, le=1e6)
    """Requests per second that arrive, in place of a number of users."""

    @property
    def context(self) -> int:
        """Tokens of a request and its answer."""
        return self.input_tokens + self.output_tokens

    def within(self, context: int) -> Self:
        """Shorten the usual prompt and answer, in their proportion, to a context; lengths that were given stay."""
        if self.context <= context or {"input_tokens", "output_tokens"} & self.model_fields_set:
            return self
        answer = max(1, context * self.output_tokens // self.context)
        return self.model_copy(update={"input_tokens": max(1, context - answer), "output_tokens": answer})

    @model_validator(mode="after")
    def _users_or_rate(self) -> Self:
        if self.concurrency is not None and self.rate is not None:
            msg = "give either concurrency or rate"
            raise ValueError(msg)
        return self


class GatewayRoute(_Part):
    """An HTTPRoute leads clients from a Gateway of the cluster (Gateway API) to the server. Its listener ends TLS."""

    type: Literal["gateway"]
    host: str = Field(pattern=_OBJECT_PATTERN, max_length=253)
    """The name that clients call."""
    gateway: str = Field(pattern=_OBJECT_PATTERN, max_length=253)
    """The Gateway's name."""
    gateway_namespace: str = Field(pattern=_OBJECT_PATTERN, max_length=63)
    listener: str = Field(default="https", pattern=_OBJECT_PATTERN, max_length=253)
    """The Gateway's listener with TLS; without one, keys and prompts cross the network in the clear."""
    proxy_namespace: str = Field(pattern=_OBJECT_PATTERN, max_length=63)
    """The namespace of the pods that forward requests. The network policy lets them in."""


class IngressRoute(_Part):
    """An Ingress leads clients to the server, for clusters without the Gateway API. Its controller ends TLS."""

    type: Literal["ingress"]
    host: str = Field(pattern=_OBJECT_PATTERN, max_length=253)
    """The name that clients call."""
    ingress_class: str = Field(pattern=_OBJECT_PATTERN, max_length=253)
    """The IngressClass, such as `nginx`, `traefik` or `alb`."""
    tls_secret: str = Field(pattern=_OBJECT_PATTERN, max_length=253)
    """The Secret with certificate and key of `host`."""
    annotations: dict[str, str] | None = None
    """By default those that let streamed answers take their time, for `nginx`, `traefik` and `alb`. Another class
    needs its own here; `{}` if it cuts nothing off."""
    proxy_namespace: str = Field(pattern=_OBJECT_PATTERN, max_length=63)
    """The namespace of the pods that forward requests. The network policy lets them in."""

    @model_validator(mode="after")
    def _annotations_are_known(self) -> Self:
        if self.annotations is None and self.ingress_class not in KNOWN_INGRESS_CLASSES:
            msg = (
                f"how {self.ingress_class} lets streamed answers take their time is not known, only for "
                f"{', '.join(KNOWN_INGRESS_CLASSES)}: give its annotations, or {{}} if it needs none"
            )
            raise ValueError(msg)
        return self


Route = Annotated[GatewayRoute | IngressRoute, Field(discriminator="type")]


class Cluster(_Part):
    """How a cluster serves. Other ways to deploy refuse a recipe that changes this."""

    replicas: int = Field(default=1, ge=1, le=1000)
    """Servers at once, on different nodes if possible."""
    route: Route | None = None
    """How clients outside the cluster reach the servers; by default they do not."""


class Serve(_Part):
    """The settings of trtllm-serve."""

    port: int = Field(default=8000, ge=1, le=65535)
    max_batch_size: int = Field(default=8, ge=1, le=4096)
    max_num_tokens: int = Field(default=8192, ge=1, le=1048576)
    max_seq_len: int | None = Field(default=None, ge=1, le=16777216)
    """Tokens of a request and its answer; by default the model's own limit."""
    tensor_parallel_size: int = Field(default=1, ge=1, le=64)
    served_model_name: str | None = None
    """The id that clients send, if the image's trtllm-serve can set it."""
    reasoning_parser: str | None = None
    tool_parser: str | None = None
    kv_cache: KvCache = KvCache()
    speculative: Speculative | None = None
    workload: Workload | None = None
    """What the server is planned for; by default one user with 3,584 tokens in and 512 out, or what the model allows
    in that proportion."""
    options: dict[str, OptionValue | dict[str, OptionValue | list[OptionValue] | None] | None] = {}
    """Further keys of trtllm-serve's configuration file (the LLM API's arguments)."""
    environment: dict[str, str] = {}
    """Further environment of the server, e.g. TLLM_ALLOW_LONG_MAX_MODEL_LEN."""
    cluster: Cluster = Cluster()

    @model_validator(mode="after")
    def _tls_ends_once(self) -> Self:
        mode = self.environment.get("NIM_SSL_MODE", "disabled")
        if self.cluster.route is not None and mode.lower() not in ("", "disabled"):
            msg = (
                f"cluster.route ends TLS and speaks plain HTTP to the server, which expects TLS by "
                f"environment.NIM_SSL_MODE={mode}: leave one of them out"
            )
            raise ValueError(msg)
        return self


class Recipe(_Part):
    """One model in one format for one target."""

    schema_version: Literal[1]
    """The version of this schema."""
    name: str = Field(pattern=NAME_PATTERN)
    description: str = Field(min_length=1, max_length=400)
    formerly: tuple[Annotated[str, Field(pattern=NAME_PATTERN)], ...] = ()
    """Earlier names of this recipe. A command with one of them answers with the new name."""
    model: Model
    target: str = Field(pattern=NAME_PATTERN)
    """A target of the catalogue: the machine that serves."""
    image: str = Field(pattern=NAME_PATTERN)
    """An image of docker/images.yaml: it converts, builds, checks and serves."""
    quantization: Quantization
    backend: Backend = "pytorch"
    """`tensorrt` builds a TensorRT engine, `pytorch` serves the checkpoint."""
    engine: Engine = Engine()
    checks: Checks = Checks()
    benchmark: Benchmark | None = Benchmark()
    """null: no measurement."""
    serve: Serve = Serve()
    expected_refusals: tuple[str, ...] = ()
    """Codes of the refusals that this recipe demonstrates. The dry-run of the catalogue expects exactly these."""

    @model_validator(mode="after")
    def _comparing_needs_an_original(self) -> Self:
        if self.checks.held_out is not None and self.quantization.method not in ("onepass", "modelopt"):
            msg = (
                "checks.held_out: compares with the unquantized model, which only the methods onepass and modelopt"
                f" start from; quantization.method is {self.quantization.method}"
            )
            raise ValueError(msg)
        return self
