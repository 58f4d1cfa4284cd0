"""Vision and audio towers of language models. They are not quantized, and text does not read them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from orchestrator.errors import ConfigInvalidError
from orchestrator.models.fields import Fields
from orchestrator.models.parts import Tensors, renamed
from orchestrator.models.shape import Tensor

_POSITIONS = 16384
"""The most positions that a usual tower has an embedding for."""
_CLIPPED = ("input_min", "input_max", "output_min", "output_max")
"""Gemma 4: limits that go with each linear layer."""


def beside(prefix: str, tensors: Iterable[Tensor]) -> Tensors:
    """Add a tower beside the stack."""
    return tuple(replace(tensor, name=f"{prefix}.{tensor.name}", used=0.0) for tensor in tensors)


def numbered(name: str, count: int, tensors: Tensors) -> Tensors:
    """Repeat a block's tensors."""
    return tuple(tensor for number in range(count) for tensor in renamed(tensors, f"{name}.{number}"))


def plain(name: str, *shape: int) -> Tensors:
    """Return a tensor whose name does not end in `weight`, or a weight alone."""
    return (Tensor(name, shape, "vision"),)


def affine(name: str, size: int) -> Tensors:
    """Return a normalization with a scale and an offset."""
    return (*plain(f"{name}.weight", size), *plain(f"{name}.bias", size))


def full(name: str, out: int, columns: int, *kernel: int) -> Tensors:
    """Return a linear layer or a convolution, with its bias."""
    return (*plain(f"{name}.weight", out, columns, *kernel), *plain(f"{name}.bias", out))


@dataclass(frozen=True)
class Siglip:
    """Google's SigLIP, the tower of Gemma 3 and of Phi-4 multimodal."""

    hidden: int
    inner: int
    layers: int
    positions: int
    patch: int
    channels: int = 3
    pooled: bool = False
    """It has the head that makes one vector of an image."""

    def tensors(self) -> Tensors:
        """Return the tower's tensors."""
        hidden, inner = self.hidden, self.inner
        block = (
            *affine("layer_norm1", hidden),
            *affine("layer_norm2", hidden),
            *(tensor for name in ("q", "k", "v", "out") for tensor in full(f"self_attn.{name}_proj", hidden, hidden)),
            *full("mlp.fc1", inner, hidden),
            *full("mlp.fc2", hidden, inner),
        )
        return (
            *full("embeddings.patch_embedding", hidden, self.channels, self.patch, self.patch),
            *plain("embeddings.position_embedding.weight", self.positions, hidden),
            *numbered("encoder.layers", self.layers, block),
            *affine("post_layernorm", hidden),
            *(self._pooling() if self.pooled else ()),
        )

    def _pooling(self) -> Tensors:
        hidden = self.hidden
        return (
            *plain("head.probe", 1, 1, hidden),
            *plain("head.attention.in_proj_weight", 3 * hidden, hidden),
            *plain("head.attention.in_proj_bias", 3 * hidden),
            *full("head.attention.out_proj", hidden, hidden),
            *affine("head.layernorm", hidden),
            *full("head.mlp.fc1", self.inner, hidden),
            *full("head.mlp.fc2", hidden, self.inner),
        )


def siglip_of(fields: Fields) -> Siglip:
    """Read a SigLIP from `vision_config`."""
    patch = fields.size("patch_size")
    return Siglip(
        hidden=fields.size("hidden_size"),
        inner=fields.size("intermediate_size"),
        layers=fields.size("num_hidden_layers"),
        positions=(fields.size("image_size") // patch) ** 2,
        patch=patch,
        pooled=fields.flag("vision_use_head", default=False),
    )


def gemma3_tower(fields: Fields, hidden: int) -> Tensors:
    """Return the tower of Gemma 3 and its projector to the language model."""
    tower = siglip_of(fields)
    return (
        *beside("vision_tower.vision_model", tower.tensors()),
        *beside("multi_modal_projector", plain("mm_input_projection_weight", tower.hidden, hidden)),
        *beside("multi_modal_projector", plain("mm_soft_emb_norm.weight", tower.hidden)),
    )


def pixtral_tower(fields: Fields, hidden: int, merge: int, *, bias: bool) -> Tensors:
    """Return the tower of Mistral 3 and its projector to the language model.

    Args:
        fields: `vision_config`.
        hidden: Hidden size of the language model.
        merge: Patches that become one, along a side.
        bias: The projector has one.
    """
    width, inner, patch = fields.size("hidden_size"), fields.size("intermediate_size"), fields.size("patch_size")
    block = (
        *plain("attention_norm.weight", width),
        *plain("ffn_norm.weight", width),
        *(tensor for name in "qkvo" for tensor in plain(f"attention.{name}_proj.weight", width, width)),
        *plain("feed_forward.gate_proj.weight", inner, width),
        *plain("feed_forward.up_proj.weight", inner, width),
        *plain("feed_forward.down_proj.weight", width, inner),
    )
    join = full if bias else lambda name, *shape: plain(f"{name}.weight", *shape)
    return (
        *beside("vision_tower", plain("patch_conv.weight", width, fields.size_or("num_channels", 3), patch, patch)),
        *beside("vision_tower", plain("ln_pre.weight", width)),
        *beside("vision_tower", numbered("transformer.layers", fields.size("num_hidden_layers"), block)),
        *beside("multi_modal_projector", plain("norm.weight", width)),
        *beside("multi_modal_projector", plain("patch_merger.merging_layer.weight", width, width * merge**2)),
        *beside("multi_modal_projector", join("linear_1", hidden, width)),
        *beside("multi_modal_projector", join("linear_2", hidden, hidden)),
    )


def llama4_tower(fields: Fields, hidden: int) -> Tensors:
    """Return the tower of Llama 4 and its projector to the language model."""
    width, inner, patch = fields.size("hidden_size"), fields.size("intermediate_size"), fields.size("patch_size")
    patches = (fields.size("image_size") // patch) ** 2
    into, out = fields.size("projector_input_dim"), fields.size("projector_output_dim")
    block = (
        *(tensor for name in "qkvo" for tensor in full(f"self_attn.{name}_proj", width, width)),
        *full("mlp.fc1", inner, width),
        *full("mlp.fc2", width, inner),
        *affine("input_layernorm", width),
        *affine("post_attention_layernorm", width),
    )
    tower = (
        *plain("class_embedding", width),
        *plain("positional_embedding_vlm", patches + 1, width),
        *plain("patch_embedding.linear.weight", width, fields.size_or("num_channels", 3) * patch**2),
        *affine("layernorm_pre", width),
        *affine("layernorm_post", width),
        *numbered("model.layers", fields.size("num_hidden_layers"), block),
        *plain("vision_adapter.mlp.fc1.weight", into, inner),
        *plain("vision_adapter.mlp.fc2.weight", out, into),
    )
    join = plain("multi_modal_projector.linear_1.weight", hidden, fields.size("vision_output_dim"))
    return (*beside("vision_model", tower), *(replace(tensor, used=0.0) for tensor in join))


def qwen3_tower(fields: Fields, hidden: int) -> Tensors:
    """Return the tower of Qwen 3 VL, with outputs at several layers, or of Qwen 3.5, without them."""
    width, inner, out = fields.size("hidden_size"), fields.size("intermediate_size"), fields.size("out_hidden_size")
    if out != hidden:
        message = f"{fields.where}: out_hidden_size is {out}, but the language model's hidden_size is {hidden}"
        raise ConfigInvalidError(message)
    merged = width * fields.size("spatial_merge_size") ** 2
    patch = (fields.size("in_channels"), fields.size("temporal_patch_size"), *2 * (fields.size("patch_size"),))
    block = (
        *affine("norm1", width),
        *affine("norm2", width),
        *full("attn.qkv", 3 * width, width),
        *full("attn.proj", width, width),
        *full("mlp.linear_fc1", inner, width),
        *full("mlp.linear_fc2", width, inner),
    )
    taps = len(fields.items("deepstack_visual_indexes")) if fields.has("deepstack_visual_indexes") else 0
    tower = (
        *full("patch_embed.proj", width, *patch),
        *plain("pos_embed.weight", fields.size("num_position_embeddings"), width),
        *numbered("blocks", fields.size("depth"), block),
        *_merger("merger", width, merged, out),
        *(tensor for n in range(taps) for tensor in _merger(f"deepstack_merger_list.{n}", merged, merged, out)),
    )
    return beside("model.visual", tower)


def _merger(name: str, normed: int, merged: int, out: int) -> Tensors:
    return (
        *affine(f"{name}.norm", normed),
        *full(f"{name}.linear_fc1", merged, merged),
        *full(f"{name}.linear_fc2", out, merged),
    )


def gemma4_tower(fields: Fields, hidden: int) -> Tensors:
    """Return the tower of Gemma 4 and its projector to the language model."""
    width, inner, patch = fields.size("hidden_size"), fields.size("intermediate_size"), fields.size("patch_size")
    size, heads = fields.size("head_dim"), fields.size("num_attention_heads")
    keys = fields.size_or("num_key_value_heads", heads) * size
    bounds = _CLIPPED if fields.flag("use_clipped_linears", default=False) else ()

    def clipped(name: str, out: int, columns: int) -> Tensors:
        limits = (tensor for bound in bounds for tensor in plain(f"{name}.{bound}"))
        return (*plain(f"{name}.linear.weight", out, columns), *limits)

    norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
    block = (
        *clipped("self_attn.q_proj", heads * size, width),
        *clipped("self_attn.k_proj", keys, width),
        *clipped("self_attn.v_proj", keys, width),
        *clipped("self_attn.o_proj", width, heads * size),
        *plain("self_attn.q_norm.weight", size),
        *plain("self_attn.k_norm.weight", size),
        *clipped("mlp.gate_proj", inner, width),
        *clipped("mlp.up_proj", inner, width),
        *clipped("mlp.down_proj", width, inner),
        *(tensor for norm in norms for tensor in plain(f"{norm}_layernorm.weight", width)),
    )
    standard = ("std_bias", "std_scale") if fields.flag("standardize", default=False) else ()
    tower = (
        *plain("patch_embedder.input_proj.weight", width, 3 * patch**2),
        *plain("patch_embedder.position_embedding_table", 2, fields.size("position_embedding_size"), width),
        *numbered("encoder.layers", fields.size("num_hidden_layers"), block),
        *(tensor for name in standard for tensor in plain(name, width)),
    )
    return (
        *beside("model.vision_tower", tower),
        *beside("model.embed_vision", plain("embedding_projection.weight", hidden, width)),
    )


def kimi_tower(fields: Fields, hidden: int) -> Tensors:
    """Return the tower of Kimi K2.5 (MoonViT) and its projector to the language model."""
    width = fields.size("vt_hidden_size", "hidden_size")
    inner = fields.size("vt_intermediate_size", "intermediate_size")
    patch, out = fields.size("patch_size"), fields.size("mm_hidden_size", "projection_hidden_size", "vt_hidden_size")
    merge = math.prod(side for side in fields.items("merge_kernel_size", 2) if type(side) is int and 0 < side < patch)
    positions = (fields.size("init_pos_emb_height"), fields.size("init_pos_emb_width"))
    block = (
        *affine("norm0", width),
        *affine("norm1", width),
        *full("wqkv", 3 * width, width),
        *full("wo", width, width),
        *full("mlp.fc0", inner, width),
        *full("mlp.fc1", width, inner),
    )
    tower = (
        *full("patch_embed.proj", width, 3, patch, patch),
        *plain("patch_embed.pos_emb.weight", *positions, width),
        *numbered("encoder.blocks", fields.size("vt_num_hidden_layers", "num_hidden_layers"), block),
        *affine("encoder.final_layernorm", width),
    )
    projector = (
        *affine("pre_norm", out),
        *full("proj.0", merge * out, merge * out),
        *full("proj.2", hidden, merge * out),
    )
    return (*beside("vision_tower", tower), *beside("mm_projector", projector))


def any_tower(fields: Fields, hidden: int) -> Tensors:
    """Return an upper limit of a vision transformer: gated MLPs, biases, and a projector of merged patches."""
    width = fields.size("hidden_size", "vt_hidden_size", "embed_dim", "width")
    wide = fields.named("intermediate_size", "vt_intermediate_size")
    inner = fields.size(wide) if wide else 4 * width
    patch = fields.size_or("patch_size", 16)
    block = (
        *(tensor for name in ("norm1", "norm2", "norm3", "norm4") for tensor in affine(name, width)),
        *(tensor for name in ("q", "k", "v", "o") for tensor in full(f"self_attn.{name}_proj", width, width)),
        *(tensor for name in ("gate", "up") for tensor in full(f"mlp.{name}_proj", inner, width)),
        *full("mlp.down_proj", width, inner),
    )
    merged = 4 * width
    tower = (
        *full("patch_embed", width, 3, patch, patch),
        *plain("position_embedding.weight", _POSITIONS, width),
        *numbered("layers", fields.size("num_hidden_layers", "depth", "vt_num_hidden_layers", "num_layers"), block),
        *affine("norm", width),
        *full("projector.0", merged, merged),
        *full("projector.2", hidden, merged),
    )
    return beside("vision_tower", tower)
