"""Reads Phi-4 multimodal: Phi-3's layers, each with adapters for images and speech, and two towers."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.errors import ConfigInvalidError
from orchestrator.models.fields import Fields
from orchestrator.models.parts import Tensors
from orchestrator.models.shape import ModelShape, Tensor
from orchestrator.models.towers import Siglip, affine, beside, full, numbered, plain

_TOWER = Siglip(hidden=1152, inner=4304, layers=27, positions=1024, patch=14, pooled=True)
"""SigLIP So400M for 448 pixels. Its sizes are not in config.json but in the model's own code."""
_ROOT = "model.embed_tokens_extend"
_BUCKETS_PER_DISTANCE = 2


def with_adapters(shape: ModelShape, fields: Fields) -> ModelShape:
    """Add adapters and towers to Phi-4, as its own code stores them."""
    ranks = {kind: fields.part(f"{kind}_lora").size("r") for kind in ("speech", "vision")}
    tensors = tuple(part for tensor in shape.tensors for part in _adapted(tensor, ranks))
    hidden = shape.hidden_size
    return replace(shape, tensors=(*tensors, *_pictures(hidden), *_speech(fields.part("audio_processor"), hidden)))


def _adapted(tensor: Tensor, ranks: dict[str, int]) -> Tensors:
    """Return a linear layer with its adapters, which only images and speech use."""
    if tensor.layer is None or not tensor.linear:
        return (tensor,)
    module, (out, columns) = tensor.module, tensor.shape
    adapters = (
        adapter
        for kind, rank in ranks.items()
        for adapter in (
            Tensor(f"{module}.lora_A.{kind}.weight", (rank, columns), "adapter", tensor.layer, used=0.0),
            Tensor(f"{module}.lora_B.{kind}.weight", (out, rank), "adapter", tensor.layer, used=0.0),
        )
    )
    return (replace(tensor, name=f"{module}.base_layer.weight"), *adapters)


def _pictures(hidden: int) -> Tensors:
    width = _TOWER.hidden
    return (
        *beside(f"{_ROOT}.image_embed.img_processor", _TOWER.tensors()),
        *beside(f"{_ROOT}.image_embed", plain("glb_GN", 1, 1, width)),
        *beside(f"{_ROOT}.image_embed", plain("sub_GN", 1, 1, 1, width)),
        *beside(f"{_ROOT}.image_embed.img_projection", (*full("0", hidden, width), *full("2", hidden, hidden))),
    )


def _speech(processor: Fields, hidden: int) -> Tensors:
    """Return the speech conformer, and projections for speech alone and for speech about an image."""
    fields = processor.part("config")
    width, inputs, reduction = fields.size("attention_dim"), fields.size("input_size"), fields.size("time_reduction")
    channels = fields.part("nemo_conv_settings").size("conv_channels")
    if reduction & (reduction - 1):
        message = f"{fields.where}: time_reduction: found {reduction}, expected a power of two"
        raise ConfigInvalidError(message)
    halvings = reduction.bit_length() - 1
    distance = fields.part("relative_attention_bias_args").size("t5_bias_max_distance")
    encoder = (
        *plain("encoder_embedding.global_mean", inputs),
        *plain("encoder_embedding.global_invstd", inputs),
        *full("embed.conv.0", channels, 1, 3, 3),
        *(tensor for step in range(1, halvings) for tensor in _halving(3 * step - 1, channels)),
        *full("embed.out", width, channels * -(-inputs // reduction)),
        *plain(
            "relative_attention_bias_layer.bias_values.weight",
            _BUCKETS_PER_DISTANCE * distance,
            fields.size("attention_heads"),
        ),
        *numbered("encoders", fields.size("num_blocks"), _conformer(fields, width)),
    )
    projections = (
        tensor
        for kind in ("speech", "vision")
        for tensor in (*full(f"{kind}.0", hidden, width), *full(f"{kind}.2", hidden, hidden))
    )
    return (
        *beside(f"{_ROOT}.audio_embed.encoder", encoder),
        *beside(f"{_ROOT}.audio_embed.audio_projection", projections),
    )


def _halving(number: int, channels: int) -> Tensors:
    """Return a step that halves the frames: one convolution per channel, one across them."""
    return (
        *full(f"embed.conv.{number}", channels, 1, 3, 3),
        *full(f"embed.conv.{number + 1}", channels, channels, 1, 1),
    )


def _conformer(fields: Fields, width: int) -> Tensors:
    inner, kernel = fields.size("linear_units"), fields.size("kernel_size")
    across = fields.size("ext_pw_out_channel")

    def feed(name: str) -> Tensors:
        return (
            *affine(f"{name}.layer_norm", width),
            *full(f"{name}.net.0.linear", 2 * inner, width),
            *full(f"{name}.net.2", width, inner),
        )

    return (
        *feed("feed_forward_in"),
        *(tensor for name in ("q", "k", "v", "out") for tensor in full(f"self_attn.linear_{name}", width, width)),
        *affine("conv.layer_norm", width),
        *plain("conv.glu.b1", 1, across, 1),
        *plain("conv.glu.b2", 1, across, 1),
        *full("conv.glu.ext_pw_conv_1d", 2 * across, width, 1),
        *full("conv.dw_sep_conv_1d.dw_conv", width, 1, kernel),
        *full("conv.dw_sep_conv_1d.pw_conv", fields.size("depthwise_seperable_out_channel"), width, 1),
        *full("conv.ext_pw_conv_1d", across, width, 1),
        *feed("feed_forward_out"),
        *affine("layer_norm_att", width),
        *affine("layer_norm", width),
    )
