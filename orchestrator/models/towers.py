"""Vision and audio towers of language models. They are not quantized, and text does not read them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from orchestrator.errors import ConfigInvalidError
from orchestrator.models.fields import Fields
from orchestrator.models.parts import Tensors, renamed
from orchestrator.models.shape import Tensor


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


def qwen3_tower(fields: Fields, hidden: int, *, tapped: bool = True) -> Tensors:
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
    taps = len(fields.items("deepstack_visual_indexes")) if tapped else 0
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
