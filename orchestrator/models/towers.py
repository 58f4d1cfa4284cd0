"""Calculates vision towers of language models, with what joins them to the language model."""

from __future__ import annotations

import math
from collections.abc import Mapping

from orchestrator.errors import ConfigInvalidError
from orchestrator.models.fields import Fields
from orchestrator.models.parts import Tensors, renamed, weights
from orchestrator.models.shape import Tensor
from orchestrator.values import frozen

_POSITIONS = 16384
"""The most positions that a usual tower has an embedding for."""
_CLIPPED = ("input_min", "input_max", "output_min", "output_max")
"""Gemma 4: limits that go with each linear layer."""


def numbered(name: str, count: int, tensors: Tensors) -> Tensors:
    """Repeat a block's tensors."""
    return tuple(tensor for number in range(count) for tensor in renamed(tensors, f"{name}.{number}"))


def biased(shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """Return weights that each have a bias: linear layers, convolutions, normalizations with an offset."""
    return weights(shapes, bias=True)


def each(names: str, *shape: int) -> dict[str, tuple[int, ...]]:
    """Return one shape for several modules: `self_attn.{}_proj: q k v`."""
    pattern, _, words = names.partition(": ")
    return {pattern.format(word): shape for word in words.split()}


@frozen
class Siglip:
    """Google's SigLIP, the tower of Gemma 3 and of Phi-4 multimodal."""

    hidden: int
    inner: int
    layers: int
    positions: int
    patch: int
    pooled: bool = False
    """It has the head that makes one vector of an image."""

    def tensors(self) -> Tensors:
        """Return the tower's tensors."""
        hidden = self.hidden
        mlp = {"mlp.fc1": (self.inner, hidden), "mlp.fc2": (hidden, self.inner)}
        projections = each("self_attn.{}_proj: q k v out", hidden, hidden)
        block = biased({**each("layer_norm{}: 1 2", hidden), **projections, **mlp})
        whole = (
            *biased({"embeddings.patch_embedding": (hidden, 3, self.patch, self.patch)}),
            *weights({"embeddings.position_embedding": (self.positions, hidden)}),
            *numbered("encoder.layers", self.layers, block),
            *biased({"post_layernorm": (hidden,)}),
        )
        if not self.pooled:
            return whole
        head = (
            Tensor("probe", (1, 1, hidden)),
            Tensor("attention.in_proj_weight", (3 * hidden, hidden)),
            Tensor("attention.in_proj_bias", (3 * hidden,)),
            *biased({"attention.out_proj": (hidden, hidden), "layernorm": (hidden,), **mlp}),
        )
        return (*whole, *renamed(head, "head"))


def gemma3_tower(fields: Fields, hidden: int) -> Tensors:
    """Return the tower of Gemma 3 and its projector to the language model."""
    width, patch = fields.size("hidden_size"), fields.size("patch_size")
    tower = Siglip(
        hidden=width,
        inner=fields.size("intermediate_size"),
        layers=fields.size("num_hidden_layers"),
        positions=(fields.size("image_size") // patch) ** 2,
        patch=patch,
        pooled=fields.flag("vision_use_head", default=False),
    )
    return (
        *renamed(tower.tensors(), "vision_tower.vision_model"),
        Tensor("multi_modal_projector.mm_input_projection_weight", (width, hidden)),
        *weights({"multi_modal_projector.mm_soft_emb_norm": (width,)}),
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
    block = {
        **each("{}_norm: attention ffn", width),
        **each("attention.{}_proj: q k v o", width, width),
        **each("feed_forward.{}_proj: gate up", inner, width),
        "feed_forward.down_proj": (width, inner),
    }
    around = {"patch_conv": (width, fields.size_or("num_channels", 3), patch, patch), "ln_pre": (width,)}
    tower = (*weights(around), *numbered("transformer.layers", fields.size("num_hidden_layers"), weights(block)))
    joined = (
        *weights({"norm": (width,), "patch_merger.merging_layer": (width, width * merge**2)}),
        *weights({"linear_1": (hidden, width), "linear_2": (hidden, hidden)}, bias=bias),
    )
    return (*renamed(tower, "vision_tower"), *renamed(joined, "multi_modal_projector"))


def llama4_tower(fields: Fields, hidden: int) -> Tensors:
    """Return the tower of Llama 4 and its projector to the language model."""
    width, inner, patch = fields.size("hidden_size"), fields.size("intermediate_size"), fields.size("patch_size")
    patches = (fields.size("image_size") // patch) ** 2
    into, out = fields.size("projector_input_dim"), fields.size("projector_output_dim")
    block = {
        **each("self_attn.{}_proj: q k v o", width, width),
        "mlp.fc1": (inner, width),
        "mlp.fc2": (width, inner),
        **each("{}_layernorm: input post_attention", width),
    }
    tower = (
        Tensor("class_embedding", (width,)),
        Tensor("positional_embedding_vlm", (patches + 1, width)),
        *weights({"patch_embedding.linear": (width, fields.size_or("num_channels", 3) * patch**2)}),
        *biased(each("layernorm_{}: pre post", width)),
        *numbered("model.layers", fields.size("num_hidden_layers"), biased(block)),
        *weights({"vision_adapter.mlp.fc1": (into, inner), "vision_adapter.mlp.fc2": (out, into)}),
    )
    joined = weights({"multi_modal_projector.linear_1": (hidden, fields.size("vision_output_dim"))})
    return (*renamed(tower, "vision_model"), *joined)


def qwen3_tower(fields: Fields, hidden: int) -> Tensors:
    """Return the tower of Qwen 3 VL, with outputs at several layers, or of Qwen 3.5, without them."""
    width, inner, out = fields.size("hidden_size"), fields.size("intermediate_size"), fields.size("out_hidden_size")
    if out != hidden:
        message = f"{fields.where}: out_hidden_size is {out}, but the language model's hidden_size is {hidden}"
        raise ConfigInvalidError(message)
    merged = width * fields.size("spatial_merge_size") ** 2
    patch = (fields.size("in_channels"), fields.size("temporal_patch_size"), *2 * (fields.size("patch_size"),))
    block = {
        **each("norm{}: 1 2", width),
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.linear_fc1": (inner, width),
        "mlp.linear_fc2": (width, inner),
    }
    merger = {"linear_fc1": (merged, merged), "linear_fc2": (out, merged)}
    taps = len(fields.items("deepstack_visual_indexes")) if fields.has("deepstack_visual_indexes") else 0
    tower = (
        *biased({"patch_embed.proj": (width, *patch)}),
        *weights({"pos_embed": (fields.size("num_position_embeddings"), width)}),
        *numbered("blocks", fields.size("depth"), biased(block)),
        *renamed(biased({"norm": (width,), **merger}), "merger"),
        *numbered("deepstack_merger_list", taps, biased({"norm": (merged,), **merger})),
    )
    return renamed(tower, "model.visual")


def gemma4_tower(fields: Fields, hidden: int) -> Tensors:
    """Return the tower of Gemma 4 and its projector to the language model."""
    width, inner, patch = fields.size("hidden_size"), fields.size("intermediate_size"), fields.size("patch_size")
    size, heads = fields.size("head_dim"), fields.size("num_attention_heads")
    keys = fields.size_or("num_key_value_heads", heads) * size
    clipped = {
        "self_attn.q_proj": (heads * size, width),
        **each("self_attn.{}_proj: k v", keys, width),
        "self_attn.o_proj": (width, heads * size),
        **each("mlp.{}_proj: gate up", inner, width),
        "mlp.down_proj": (width, inner),
    }
    bounds = _CLIPPED if fields.flag("use_clipped_linears", default=False) else ()
    norms = each("{}_layernorm: input post_attention pre_feedforward post_feedforward", width)
    block = (
        *weights({f"{name}.linear": shape for name, shape in clipped.items()}),
        *(Tensor(f"{name}.{bound}", ()) for name in clipped for bound in bounds),
        *weights({**each("self_attn.{}_norm: q k", size), **norms}),
    )
    standard = ("std_bias", "std_scale") if fields.flag("standardize", default=False) else ()
    tower = (
        *weights({"patch_embedder.input_proj": (width, 3 * patch**2)}),
        Tensor("patch_embedder.position_embedding_table", (2, fields.size("position_embedding_size"), width)),
        *numbered("encoder.layers", fields.size("num_hidden_layers"), block),
        *(Tensor(name, (width,)) for name in standard),
    )
    joined = weights({"model.embed_vision.embedding_projection": (hidden, width)})
    return (*renamed(tower, "model.vision_tower"), *joined)


def kimi_tower(fields: Fields, hidden: int) -> Tensors:
    """Return the tower of Kimi K2.5 (MoonViT) and its projector to the language model."""
    width = fields.size("vt_hidden_size", "hidden_size")
    inner = fields.size("vt_intermediate_size", "intermediate_size")
    patch, out = fields.size("patch_size"), fields.size("mm_hidden_size", "projection_hidden_size", "vt_hidden_size")
    merge = math.prod(side for side in fields.items("merge_kernel_size", 2) if type(side) is int and 0 < side < patch)
    positions = (fields.size("init_pos_emb_height"), fields.size("init_pos_emb_width"))
    block = {
        **each("norm{}: 0 1", width),
        "wqkv": (3 * width, width),
        "wo": (width, width),
        "mlp.fc0": (inner, width),
        "mlp.fc1": (width, inner),
    }
    tower = (
        *biased({"patch_embed.proj": (width, 3, patch, patch), "encoder.final_layernorm": (width,)}),
        *weights({"patch_embed.pos_emb": (*positions, width)}),
        *numbered("encoder.blocks", fields.size("vt_num_hidden_layers", "num_hidden_layers"), biased(block)),
    )
    joined = {"pre_norm": (out,), "proj.0": (merge * out, merge * out), "proj.2": (hidden, merge * out)}
    return (*renamed(tower, "vision_tower"), *renamed(biased(joined), "mm_projector"))


def any_tower(fields: Fields, hidden: int) -> Tensors:
    """Return an upper limit of a vision transformer: gated MLPs, biases, and a projector of merged patches."""
    width = fields.size("hidden_size", "vt_hidden_size", "embed_dim", "width")
    wide = fields.named("intermediate_size", "vt_intermediate_size")
    inner = fields.size(wide) if wide else 4 * width
    patch, merged = fields.size_or("patch_size", 16), 4 * width
    block = {
        **each("norm{}: 1 2 3 4", width),
        **each("self_attn.{}_proj: q k v o", width, width),
        **each("mlp.{}_proj: gate up", inner, width),
        "mlp.down_proj": (width, inner),
    }
    layers = fields.size("num_hidden_layers", "depth", "vt_num_hidden_layers", "num_layers")
    joined = {"norm": (width,), "projector.0": (merged, merged), "projector.2": (hidden, merged)}
    tower = (
        *biased({"patch_embed": (width, 3, patch, patch), **joined}),
        *weights({"position_embedding": (_POSITIONS, width)}),
        *numbered("layers", layers, biased(block)),
    )
    return renamed(tower, "vision_tower")
