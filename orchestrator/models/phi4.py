"""Reads Phi-4 multimodal: Phi-3's layers, each with adapters for images and speech, and two towers."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.errors import ConfigInvalidError
from orchestrator.models.fields import Fields
from orchestrator.models.parts import Tensors, renamed, weights
from orchestrator.models.shape import ModelShape, Tensor
from orchestrator.models.towers import Siglip, biased, each, numbered

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
    if ".layers." not in tensor.name or len(tensor.shape) == 1:
        return (tensor,)
    module, (out, columns) = tensor.module, tensor.shape
    adapters = {
        f"{module}.lora_{side}.{kind}": shape
        for kind, rank in ranks.items()
        for side, shape in (("A", (rank, columns)), ("B", (out, rank)))
    }
    return (replace(tensor, name=f"{module}.base_layer.weight"), *weights(adapters))


def _pictures(hidden: int) -> Tensors:
    width = _TOWER.hidden
    tensors = (
        *renamed(_TOWER.tensors(), "img_processor"),
        Tensor("glb_GN", (1, 1, width)),
        Tensor("sub_GN", (1, 1, 1, width)),
        *biased({"img_projection.0": (hidden, width), "img_projection.2": (hidden, hidden)}),
    )
    return renamed(tensors, f"{_ROOT}.image_embed")


def _speech(processor: Fields, hidden: int) -> Tensors:
    """Return the speech conformer, and projections for speech alone and for speech about an image."""
    fields = processor.part("config")
    width, inputs, reduction = fields.size("attention_dim"), fields.size("input_size"), fields.size("time_reduction")
    channels = fields.part("nemo_conv_settings").size("conv_channels")
    if reduction & (reduction - 1):
        message = f"{fields.where}: time_reduction: found {reduction}, expected a power of two"
        raise ConfigInvalidError(message)
    distance = fields.part("relative_attention_bias_args").size("t5_bias_max_distance")
    halvings = {"conv.0": (channels, 1, 3, 3)}
    for step in range(1, reduction.bit_length() - 1):  # one convolution per channel, one across them
        halvings |= {f"conv.{3 * step - 1}": (channels, 1, 3, 3), f"conv.{3 * step}": (channels, channels, 1, 1)}
    encoder = (
        Tensor("encoder_embedding.global_mean", (inputs,)),
        Tensor("encoder_embedding.global_invstd", (inputs,)),
        *renamed(biased({**halvings, "out": (width, channels * -(-inputs // reduction))}), "embed"),
        *weights(
            {
                "relative_attention_bias_layer.bias_values": (
                    _BUCKETS_PER_DISTANCE * distance,
                    fields.size("attention_heads"),
                )
            }
        ),
        *numbered("encoders", fields.size("num_blocks"), _conformer(fields, width)),
    )
    projections = {
        **each("audio_projection.{}.0: speech vision", hidden, width),
        **each("audio_projection.{}.2: speech vision", hidden, hidden),
    }
    return renamed((*renamed(encoder, "encoder"), *biased(projections)), f"{_ROOT}.audio_embed")


def _conformer(fields: Fields, width: int) -> Tensors:
    inner, kernel = fields.size("linear_units"), fields.size("kernel_size")
    across = fields.size("ext_pw_out_channel")
    feed = {"layer_norm": (width,), "net.0.linear": (2 * inner, width), "net.2": (width, inner)}
    convolution = {
        "layer_norm": (width,),
        "glu.ext_pw_conv_1d": (2 * across, width, 1),
        "dw_sep_conv_1d.dw_conv": (width, 1, kernel),
        "dw_sep_conv_1d.pw_conv": (fields.size("depthwise_seperable_out_channel"), width, 1),
        "ext_pw_conv_1d": (across, width, 1),
    }
    return (
        *renamed(biased(feed), "feed_forward_in"),
        *biased(each("self_attn.linear_{}: q k v out", width, width)),
        *renamed(biased(convolution), "conv"),
        *(Tensor(f"conv.glu.b{number}", (1, across, 1)) for number in (1, 2)),
        *renamed(biased(feed), "feed_forward_out"),
        *biased(each("{}: layer_norm_att layer_norm", width)),
    )
