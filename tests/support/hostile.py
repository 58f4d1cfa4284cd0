"""Checkpoints that are damaged or lie, each made from a sound one: the table of what nothing may accept."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from orchestrator.models.weight_files import INDEX
from orchestrator.quantization import header as headers
from orchestrator.quantization.files import read_json, write_json

Change = Callable[[Path], object]
"""Spoils a checkpoint."""
Entries = dict[str, Any]
"""The header of a file."""

FIRST, LAST = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
UP = "model.layers.0.mlp.up_proj.weight"
"""A matrix in the first file."""
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


@dataclass(frozen=True)
class Hostile:
    """One way to spoil a checkpoint."""

    change: Change
    names: tuple[str, ...]
    """What the error must name: the file, the tensor, the field."""
    quantize: bool = True
    """The quantizer must refuse it; False: it does not read this."""
    verify: bool = True
    """The checks must fail; False: to serve it is no fault."""


def parts_of(file: Path) -> tuple[bytes, bytes]:
    """Return a file's header and its data."""
    content = file.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    return content[8:end], content[end:]


def write_parts(file: Path, header: bytes, data: bytes, length: int | None = None) -> None:
    file.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def file_of(folder: Path, tensor: str) -> Path:
    """Find the file of a tensor."""
    return folder / str(read_json(folder / INDEX)["weight_map"][tensor])


def cut(size: Callable[[int, int], int]) -> Change:
    """Cut off the first file behind so many bytes, of its header's end and of its size."""

    def change(folder: Path) -> None:
        content = (folder / FIRST).read_bytes()
        (folder / FIRST).write_bytes(content[: size(8 + struct.unpack("<Q", content[:8])[0], len(content))])

    return change


def length(value: Callable[[int, int], int]) -> Change:
    """Lie about the length of the header: of its true length, and of the file's size."""

    def change(folder: Path) -> None:
        header, data = parts_of(folder / FIRST)
        write_parts(folder / FIRST, header, data, value(len(header), 8 + len(header) + len(data)))

    return change


def huge_header(folder: Path) -> None:
    """Announce a header of more than the safetensors library accepts; the file is as large as that."""
    length(lambda *_: 100_000_001)(folder)
    os.truncate(folder / FIRST, 200_000_000)


def raw_header(text: bytes) -> Change:
    return lambda folder: write_parts(folder / FIRST, text, parts_of(folder / FIRST)[1])


def appended(data: bytes) -> Change:
    return lambda folder: (folder / FIRST).write_bytes((folder / FIRST).read_bytes() + data)


def entries(edit: Callable[[Entries], object]) -> Change:
    """Change the header of the file that has `UP`."""

    def change(folder: Path) -> None:
        file = file_of(folder, UP)
        header, data = parts_of(file)
        found = json.loads(header)
        edit(found)
        write_parts(file, json.dumps(found).encode(), data)

    return change


def entry(**fields: object) -> Change:
    """Change the entry of `UP`."""
    return entries(lambda found: found[UP].update(fields))


def renamed(name: str) -> Change:
    """Give `UP` another name, in the header and in the index."""

    def change(folder: Path) -> None:
        file = file_of(folder, UP)
        header, data = parts_of(file)
        write_parts(file, header.replace(json.dumps(UP).encode(), json.dumps(name).encode()), data)
        index = read_json(folder / INDEX)
        index["weight_map"][name] = index["weight_map"].pop(UP)
        (folder / INDEX).write_text(json.dumps(index))

    return change


def index(edit: Callable[[dict[str, Any]], object]) -> Change:
    def change(folder: Path) -> None:
        found = json.loads((folder / INDEX).read_bytes())
        edit(found)
        (folder / INDEX).write_text(json.dumps(found))

    return change


def placed(tensor: str, file: object) -> Change:
    """Place a tensor in another file, in the index."""
    return index(lambda found: found["weight_map"].update({tensor: file}))


def config(**fields: object) -> Change:
    return lambda folder: (folder / "config.json").write_text(
        json.dumps({**read_json(folder / "config.json"), **fields}), encoding="ascii"
    )


def without(*names: str) -> Change:
    def change(folder: Path) -> None:
        found = read_json(folder / "config.json")
        write_json(folder / "config.json", {key: value for key, value in found.items() if key not in names})

    return change


def both(first: Change, second: Change) -> Change:
    return lambda folder: (first(folder), second(folder))


def content(name: str, data: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(data)


def only(name: str, data: bytes) -> Change:
    """Leave no weights but one file."""

    def change(folder: Path) -> None:
        for file in folder.glob("*.safetensors*"):
            file.unlink()
        (folder / name).write_bytes(data)

    return change


def replaced(name: str, make: Callable[[Path], object]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def number(tensor: str, value: float) -> Change:
    """Put a number into the middle of a tensor in BF16."""

    def change(folder: Path) -> None:
        file = file_of(folder, tensor)
        header, data = parts_of(file)
        begin, end = json.loads(header)[tensor]["data_offsets"]
        place = (begin + end) // 4 * 2
        write_parts(file, header, data[:place] + np.array(value, ml_dtypes.bfloat16).tobytes() + data[place + 2 :])

    return change


def lost(tensor: str) -> Change:
    """Leave out a tensor everywhere."""

    def change(folder: Path) -> None:
        file = file_of(folder, tensor)
        found = headers.read(file)
        data = file.read_bytes()
        kept = {name: data[one.begin : one.begin + one.size] for name, one in found.items() if name != tensor}
        start, begins = headers.build([one for name, one in found.items() if name in kept])
        ordered = sorted(kept, key=lambda name: begins[name])
        file.write_bytes(start + b"".join(kept[name] for name in ordered))
        index(lambda document: document["weight_map"].pop(tensor))(folder)

    return change


def twice(folder: Path) -> None:
    """Store all tensors of a file in the other one, too."""
    (folder / LAST).write_bytes((folder / FIRST).read_bytes())


def far_offsets(found: Entries) -> None:
    found[UP]["data_offsets"] = [2**63, 2**63 + 64 * 96 * 2]


def overlapping(found: Entries) -> None:
    begin, end = found[UP]["data_offsets"]
    found[UP]["data_offsets"] = [begin - 2, end - 2]


def same_place(found: Entries) -> None:
    other = next(name for name, one in found.items() if name != UP and one.get("shape") == found[UP]["shape"])
    found[UP]["data_offsets"] = found[other]["data_offsets"]


def gapped(found: Entries) -> None:
    last = max((one["data_offsets"][1], name) for name, one in found.items() if name != "__metadata__")[1]
    begin, end = found[last]["data_offsets"]
    found[last]["data_offsets"] = [begin + 8, end + 8]


def larger(found: Entries) -> None:
    found[UP]["shape"] = [2 * found[UP]["shape"][0], found[UP]["shape"][1]]


def _hidden(*tensors: str) -> Change:
    """Rename the leaf of matrices, as quantizers name what they packed."""

    def change(folder: Path) -> None:
        for file in folder.glob("*.safetensors"):
            header, data = parts_of(file)
            for old, new in zip(tensors[::2], tensors[1::2], strict=True):
                header = header.replace(old.encode(), new.encode())
            write_parts(file, header, data)
        text = (folder / INDEX).read_text()
        for old, new in zip(tensors[::2], tensors[1::2], strict=True):
            text = text.replace(old, new)
        (folder / INDEX).write_text(text)

    return change


def vocabulary(edit: Callable[[dict[str, int]], dict[str, int]]) -> Change:
    """Change the numbers of the tokens."""

    def change(folder: Path) -> None:
        tokenizer = read_json(folder / "tokenizer.json")
        tokenizer["model"]["vocab"] = edit(tokenizer["model"]["vocab"])
        write_json(folder / "tokenizer.json", tokenizer)

    return change


_DEEP = b'{"a":' * 100_000
_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"

IMPOSSIBLE: Mapping[str, tuple[object, ...]] = {
    "hidden_act": ("gelu_magic", 3),
    "rms_norm_eps": ("x", -1e-5, float("nan")),
    "rope_theta": (0, "1e6", float("inf"), True),
    "rope_scaling": ([1, 2], "linear"),
    "rope_scaling.rope_type": ("magic", 7),
    "rope_scaling.factor": (-4, float("nan"), "2"),
    "rope_parameters.rope_theta": (-1,),
    "partial_rotary_factor": (0, 2.0),
    "tie_word_embeddings": ("yes", 1),
}
"""Values of fields with which no runtime computes what the model is."""

HOSTILE: Mapping[str, Hostile] = {
    # --- truncated ---
    "an empty file": Hostile(cut(lambda *_: 0), (FIRST,)),
    "one byte": Hostile(cut(lambda *_: 1), (FIRST,)),
    "seven bytes": Hostile(cut(lambda *_: 7), (FIRST,)),
    "a length and nothing else": Hostile(cut(lambda *_: 8), (FIRST,)),
    "a header of one byte": Hostile(cut(lambda *_: 9), (FIRST,)),
    "half a header": Hostile(cut(lambda end, _: end // 2), (FIRST,)),
    "a header without its last byte": Hostile(cut(lambda end, _: end - 1), (FIRST,)),
    "a header without data": Hostile(cut(lambda end, _: end), (FIRST,)),
    "one byte of data": Hostile(cut(lambda end, _: end + 1), (FIRST,)),
    "half the data": Hostile(cut(lambda end, size: (end + size) // 2), (FIRST,)),
    "the last byte missing": Hostile(cut(lambda _, size: size - 1), (FIRST,)),
    "a byte too many": Hostile(appended(b"\0"), (FIRST, "followed by")),
    # --- lengths ---
    "a header of no bytes": Hostile(length(lambda *_: 0), (FIRST,)),
    "a header of one byte too few": Hostile(length(lambda true, _: true - 1), (FIRST,)),
    "a header of eight bytes too many": Hostile(length(lambda true, _: true + 8), (FIRST,)),
    "a header as long as the file": Hostile(length(lambda _, size: size), (FIRST,)),
    "a header of 2^63 bytes": Hostile(length(lambda *_: 2**63), (FIRST,)),
    "a header of 2^64 - 1 bytes": Hostile(length(lambda *_: 2**64 - 1), (FIRST,)),
    "a header of more than 100 MB": Hostile(
        huge_header, (FIRST,)
    ),
    # --- headers ---
    "a header that is not JSON": Hostile(raw_header(b"{]"), (FIRST, "not JSON")),
    "a header in no encoding": Hostile(raw_header(b'{"\xff\xfe": 1}'), (FIRST, "not JSON")),
    "a header of spaces": Hostile(raw_header(b" " * 64), (FIRST, "not JSON")),
    "a header behind a space": Hostile(raw_header(b" {}"), (FIRST,)),
    "a list as header": Hostile(raw_header(b"[]"), (FIRST,)),
    "null as header": Hostile(raw_header(b"null"), (FIRST,)),
    "a header nested without end": Hostile(raw_header(_DEEP), (FIRST, "not JSON")),
    "an empty header over data": Hostile(raw_header(b"{}"), (FIRST,)),
    "metadata that is no text": Hostile(
        entries(lambda found: found.update(__metadata__={"format": {"pt": 1}})), ("__metadata__",)
    ),
    # --- entries ---
    "an entry that is a number": Hostile(entries(lambda found: found.update({UP: 7})), (UP,)),
    "an entry without a type": Hostile(entries(lambda found: found[UP].pop("dtype")), (UP,)),
    "an entry without a shape": Hostile(entries(lambda found: found[UP].pop("shape")), (UP,)),
    "an entry without a place": Hostile(entries(lambda found: found[UP].pop("data_offsets")), (UP,)),
    "an unknown type": Hostile(entry(dtype="F128"), (UP, "F128")),
    "a type in small letters": Hostile(entry(dtype="bf16"), (UP, "bf16")),
    "a type that is a number": Hostile(entry(dtype=16), (UP, "dtype")),
    "another type of the same size": Hostile(entry(dtype="I16"), (UP, "safetensors", "I16")),
    "a type of another size": Hostile(entry(dtype="F32"), (UP, "F32")),
    "a negative size": Hostile(entry(shape=[-96, -64]), (UP, "shape")),
    "a fraction as size": Hostile(entry(shape=[96.0, 64]), (UP, "shape")),
    "a size that is true": Hostile(entry(shape=[True, 6144]), (UP, "shape")),
    "a shape that is a text": Hostile(entry(shape="96x64"), (UP, "shape")),
    "a shape whose product overflows": Hostile(entry(shape=[2**32, 2**32]), (UP,)),
    "a shape whose product overflows to its bytes": Hostile(entry(shape=[2**63, 2, 96, 64]), (UP,)),
    "a shape with a million sizes": Hostile(entry(shape=[2**62] * 1_000_000), (UP, "shape")),
    "a shape of twice the bytes": Hostile(entries(larger), (UP,)),
    "a shape that is transposed": Hostile(entry(shape=[64, 96]), (UP, "safetensors", "[64, 96]")),
    "a shape of one row": Hostile(entry(shape=[6144]), (UP, "safetensors", "[6144]")),
    "a shape of three sizes": Hostile(entry(shape=[2, 48, 64]), (UP,)),
    "a negative place": Hostile(entry(data_offsets=[-8, 12280]), (UP, "data_offsets")),
    "a place that ends before it begins": Hostile(entry(data_offsets=[12288, 0]), (UP, "data_offsets")),
    "a place of three numbers": Hostile(entry(data_offsets=[0, 1, 2]), (UP, "data_offsets")),
    "a place that is not a number": Hostile(entry(data_offsets=[float("nan"), 5]), (UP, "data_offsets")),
    "a place behind the end": Hostile(entries(far_offsets), (FIRST[:-25],)),
    "a tensor over another": Hostile(entries(overlapping), ("overlaps",)),
    "two tensors in one place": Hostile(entries(same_place), ("overlaps",)),
    "a gap before a tensor": Hostile(entries(gapped), ("gap",)),
    # --- names ---
    "an empty name": Hostile(renamed(""), ("name",)),
    "a name with a zero byte": Hostile(renamed("model.layers.0.mlp.up\0proj.weight"), ("name",)),
    "a name with colours for terminals": Hostile(renamed("\x1b[31mmodel.layers.0.mlp.up_proj.weight"), ("name",)),
    "a name with a line": Hostile(renamed("model.layers.0.mlp\n.up_proj.weight"), ("name",)),
    "a name with half a character": Hostile(renamed("model.layers.0.\ud800.up_proj.weight"), ("half of a character",)),
    "a name that is a path": Hostile(renamed("../../../etc/passwd"), ("name", "etc/passwd")),
    "a name that turns the text around": Hostile(renamed("model.layers.0.\u202eup_proj.weight"), ("name",)),
    "a name with 5,000 digits": Hostile(renamed(f"model.layers.{'9' * 5000}.mlp.up_proj.weight"), ("name",)),
    "a name of a megabyte": Hostile(renamed("m" * 1_000_000), ("name",)),
    "a name that occurs twice": Hostile(
        lambda folder: write_parts(
            file_of(folder, UP),
            parts_of(file_of(folder, UP))[0].replace(b"{", f'{{"{UP}": {{}}, '.encode(), 1),
            parts_of(file_of(folder, UP))[1],
        ),
        (UP, "twice"),
    ),
    # --- the index ---
    "an index that is not JSON": Hostile(content(INDEX, b"{"), (INDEX, "not JSON")),
    "an index nested without end": Hostile(content(INDEX, _DEEP), (INDEX, "not JSON")),
    "an index that is a list": Hostile(content(INDEX, b"[]"), (INDEX,)),
    "an index without files": Hostile(index(lambda found: found.update(weight_map={})), ("weight_map",)),
    "an index whose files are a list": Hostile(index(lambda found: found.update(weight_map=[])), ("weight_map",)),
    "an index with a number as file": Hostile(placed(UP, 1), ("weight_map",)),
    "an index that names a missing file": Hostile(placed(UP, "model-00003-of-00002.safetensors"), ("00003",)),
    "an index that names a file above": Hostile(placed(UP, "../model.safetensors"), ("../model",)),
    "an index that names a file from the root": Hostile(placed(UP, "/etc/passwd"), ("/etc/passwd",)),
    "an index that names a pickle": Hostile(placed(UP, "pytorch_model.bin"), ("pytorch_model.bin",)),
    "an index that names the other file": Hostile(
        lambda folder: placed(UP, LAST if file_of(folder, UP).name == FIRST else FIRST)(folder), (UP,)
    ),
    "an index that lists what is nowhere": Hostile(placed("model.layers.0.extra.weight", FIRST), ("extra",)),
    "an index that lacks a tensor": Hostile(index(lambda found: found["weight_map"].pop(UP)), (UP,)),
    "tensors in two files": Hostile(twice, (LAST,)),
    "a file that is missing": Hostile(lambda folder: (folder / LAST).unlink(), (LAST,)),
    # --- what is no weights file ---
    "a pointer of Git LFS": Hostile(content(FIRST, _LFS), (FIRST, "LFS")),
    "a page of a proxy": Hostile(content(FIRST, b"<!doctype html><html>Sign in</html>"), (FIRST,)),
    "a pickle with the name of weights": Hostile(content(FIRST, pickle.dumps({UP: [1.0] * 100})), (FIRST,)),
    "GGUF with the name of weights": Hostile(content(FIRST, b"GGUF\x03\0\0\0" + bytes(100)), (FIRST,)),
    "a zip archive with the name of weights": Hostile(content(FIRST, b"PK\x03\x04" + bytes(100)), (FIRST,)),
    "a folder with the name of weights": Hostile(replaced(FIRST, Path.mkdir), (FIRST,)),
    "a pipe with the name of weights": Hostile(replaced(FIRST, os.mkfifo), (FIRST,)),
    "a link to itself": Hostile(replaced(FIRST, lambda file: file.symlink_to(file)), (FIRST,)),
    "a link to nothing": Hostile(replaced(FIRST, lambda file: file.symlink_to("nothing")), (FIRST,)),
    "pickles only": Hostile(only("pytorch_model.bin", b"\x80\x04."), ("no safetensors",)),
    "GGUF only": Hostile(only("model.gguf", b"GGUF"), ("no safetensors",)),
    "an adapter only": Hostile(only("adapter_model.safetensors", b"{}"), ("adapter_model.safetensors",)),
    "consolidated files only": Hostile(only("consolidated.safetensors", b"{}"), ("consolidated.safetensors",)),
    "an adapter beside the model": Hostile(
        content("adapter_model.safetensors", b"{}"), ("adapter_model.safetensors",), quantize=False
    ),
    "a link out of the folder": Hostile(
        lambda folder: (folder / "tokenizer_extra.json").symlink_to("/etc/passwd"), ("passwd",), verify=False
    ),
    # --- config.json ---
    "no configuration": Hostile(lambda folder: (folder / "config.json").unlink(), ("config.json",)),
    "a configuration that is not JSON": Hostile(content("config.json", b"{"), ("config.json", "not JSON")),
    "a configuration that is a list": Hostile(content("config.json", b"[1]"), ("config.json",)),
    "a configuration nested without end": Hostile(content("config.json", _DEEP), ("config.json", "not JSON")),
    "a configuration that is a folder": Hostile(replaced("config.json", Path.mkdir), ("config.json",)),
    "a configuration that is a pipe": Hostile(replaced("config.json", os.mkfifo), ("config.json",)),
    "a configuration of a gigabyte": Hostile(
        lambda folder: os.truncate(folder / "config.json", 1_000_000_000), ("config.json", "bytes")
    ),
    "half a character in the configuration": Hostile(config(name="\ud800"), ("config.json", "half of a character")),
    "no architecture": Hostile(without("architectures"), ("architectures",)),
    "two architectures": Hostile(config(architectures=["LlamaForCausalLM", "QwenForCausalLM"]), ("architectures",)),
    "an architecture that is a number": Hostile(config(architectures=[7]), ("architectures",)),
    "another architecture": Hostile(config(architectures=["MistralForCausalLM"]), ("MistralForCausalLM",)),
    "another model type": Hostile(config(model_type="mistral"), ("mistral",)),
    "no model type": Hostile(without("model_type"), ("config.json", "model_type is missing")),
    "a model type of no letters": Hostile(config(model_type=""), ("config.json", "model_type is missing")),
    # --- the tokenizer ---
    "a tokenizer without words": Hostile(vocabulary(lambda _: {}), ("tokenizer.json", "hello"), quantize=False),
    "a tokenizer with one number": Hostile(
        vocabulary(lambda words: dict.fromkeys(words, 0)), ("tokenizer.json", "hello"), quantize=False
    ),
    # --- fields on which no tensor depends ---
    **{
        f"{name.partition('.')[0]} of {value!r:.30}": Hostile(
            config(**{name.partition(".")[0]: {name.partition(".")[2]: value} if "." in name else value}),
            ("config.json", name),
        )
        for name, values in IMPOSSIBLE.items()
        for value in values
    },
    "a compression": Hostile(
        config(compression_config={"quant_method": "compressed-tensors"}), ("compression_config",), verify=False
    ),
    "no layers": Hostile(config(num_hidden_layers=0), ("num_hidden_layers",)),
    "a billion layers": Hostile(config(num_hidden_layers=10**9), ("config.json",)),
    "layers in words": Hostile(config(num_hidden_layers="2"), ("num_hidden_layers",)),
    "infinitely many layers": Hostile(config(num_hidden_layers=float("inf")), ("num_hidden_layers",)),
    "layers that are true": Hostile(config(num_hidden_layers=True), ("num_hidden_layers",)),
    "one layer more": Hostile(config(num_hidden_layers=3), ("model.layers.2",)),
    "another hidden size": Hostile(config(hidden_size=128), ("hidden_size",)),
    "a hidden size without bound": Hostile(config(hidden_size=10**30), ("hidden_size",)),
    "another vocabulary": Hostile(config(vocab_size=10**12), ("vocab_size",)),
    "heads without bound": Hostile(config(num_attention_heads=10**15), ("num_attention_heads",)),
    "heads that do not divide": Hostile(config(num_key_value_heads=3), ("num_key_value_heads",)),
    "an MLP without bound": Hostile(config(intermediate_size=10**15), ("intermediate_size",)),
    "an MLP of another size": Hostile(config(intermediate_size=97), ("config.json", "_proj.weight")),
    "a size that is negative": Hostile(config(intermediate_size=-96), ("intermediate_size",)),
    "experts that no tensor has": Hostile(
        config(architectures=["MixtralForCausalLM"], model_type="mixtral", num_local_experts=8, num_experts_per_tok=2),
        ("MixtralForCausalLM",),
    ),
    "types in a list": Hostile(config(dtype=["bfloat16"], torch_dtype=None), ("dtype",)),
    "a type that is a mapping": Hostile(config(torch_dtype={"": "bfloat16"}), ("dtype",)),
    **{
        f"another name, and {field} {what}": Hostile(both(change, renamed(UP + "_")), (UP,))
        for field in ("max_position_embeddings", "sliding_window")
        for what, change in {"null": config(**{field: None}), "missing": without(field)}.items()
    },
    "biases that no tensor has": Hostile(config(attention_bias=True), ("q_proj.bias",)),
    # --- tensors ---
    "no embedding": Hostile(lost(EMBEDDING), ("embedding",), verify=False),
    "no head": Hostile(lost(HEAD), (HEAD,)),
    "no last norm": Hostile(lost(NORM), ("norm.weight",)),
    "no matrix": Hostile(lost(UP), (UP,)),
    "another leaf of a matrix": Hostile(_hidden("mlp.up_proj.weight", "mlp.up_proj.qweight"), ("up_proj",)),
    "weights that are packed by another quantizer": Hostile(
        _hidden("up_proj.weight", "up_proj.weight_packed"), ("up_proj",)
    ),
    # --- other quantizations ---
    **{
        f"quantized by {method}": Hostile(
            config(quantization_config={"quant_method": method}), ("quantization_config",), verify=False
        )
        for method in ("gptq", "awq", "bitsandbytes", "compressed-tensors", "fp8", "mxfp4", "modelopt", "hqq")
    },
    "a quantization that is a text": Hostile(config(quantization_config="awq"), ("quantization_config",), verify=False),
    "a quantization beside the configuration": Hostile(
        content("hf_quant_config.json", b'{"quantization": {"quant_algo": "NVFP4"}}'), ("hf_quant_config.json",),
        verify=False,
    ),
    # --- numbers ---
    **{
        f"{value} in {what}": Hostile(number(tensor, value), (tensor, "safetensors"))
        for what, tensor in {"a matrix": UP, "the embedding": EMBEDDING, "the head": HEAD, "a norm": NORM}.items()
        for value in (float("nan"), float("inf"), float("-inf"))
    },
}  # fmt: skip
