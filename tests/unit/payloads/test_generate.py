from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import jinja2
import numpy as np
import pytest
from tokenizers import Tokenizer

from orchestrator.models.weight_files import INDEX
from orchestrator.payloads import generate
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json

_SMALL = ("--hidden-size", "64", "--intermediate-size", "96", "--layers", "2", "--heads", "2", "--kv-heads", "1")

_EXPECTED = {
    "config.json": "3ef2be825c42fc6c",
    "generation_config.json": "a897171379d5df5c",
    "model-00001-of-00002.safetensors": "f9d5127be18aefe0",
    "model-00002-of-00002.safetensors": "929e4a3f2887813c",
    "model.safetensors.index.json": "7eac435bafbf6c63",
    "special_tokens_map.json": "d128b99cf8faccb2",
    "tokenizer.json": "7a7c58983608a6fc",
    "tokenizer_config.json": "6fd992f1f2f405bb",
}

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def run(*options: str, name: str = "model") -> Path:
        generate.main(["--output", str(tmp_path / name), *_SMALL, *options])
        return tmp_path / name

    return run


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_same_options_give_these_very_bytes(make: Make) -> None:
    # The same on every machine: whoever changes them changes the model.
    assert {name: digest[:16] for name, digest in _digests(make("--seed", "7")).items()} == _EXPECTED


def test_another_seed_gives_other_weights_and_the_same_rest(make: Make) -> None:
    one, two = _digests(make("--seed", "1", name="one")), _digests(make("--seed", "2", name="two"))
    assert {name for name in one if one[name] != two[name]} == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }


def test_weights_are_close_to_a_bell_curve(make: Make) -> None:
    weight = Checkpoint.open(make()).read("model.embed_tokens.weight").astype(np.float64)
    assert abs(weight.mean()) < 0.001
    assert weight.std() == pytest.approx(37837 * 2.0**-21, rel=0.02)
    assert np.abs(weight).max() <= 2**17 * 2.0**-21


@pytest.mark.parametrize("count", [1, 2, 3])
def test_weights_are_in_as_many_files_as_asked_for(make: Make, count: int) -> None:
    folder = make("--shards", str(count))
    assert len(list(folder.glob("*.safetensors"))) == count
    assert (folder / INDEX).exists() == (count > 1)
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert max(sizes) < 2 * min(sizes)


def test_a_tied_model_has_no_head(make: Make) -> None:
    folder = make("--tie-word-embeddings")
    assert read_json(folder / "config.json")["tie_word_embeddings"] is True
    assert "lm_head.weight" not in Checkpoint.open(folder).tensors


def test_the_tokenizer_gives_back_any_text(make: Make) -> None:
    tokenizer = Tokenizer.from_file(str(make() / "tokenizer.json"))
    for text in ("What is the capital of France?", "  def f(x):\n\treturn x", "Grüße aus 東京 🙂", "\x00\x7f"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_tokenizer_learned_from_its_text(make: Make) -> None:
    tokenizer = Tokenizer.from_file(str(make() / "tokenizer.json"))
    assert len(tokenizer.encode("The same recipe on the same machine").ids) < 18
    assert tokenizer.encode("<|eot_id|>").ids == [4]


def test_a_vocabulary_is_never_larger_than_the_model_allows(make: Make) -> None:
    tokenizer = Tokenizer.from_file(str(make("--vocab-size", "270") / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 270


def test_the_chat_template_marks_each_turn(make: Make) -> None:
    template = read_json(make() / "tokenizer_config.json")["chat_template"]
    text = jinja2.Template(template, autoescape=False).render(
        messages=[{"role": "user", "content": " Hello "}], add_generation_prompt=True
    )
    assert text == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--hidden-size", "66"), "must be a multiple of twice --heads, 4"),
        (("--heads", "4", "--kv-heads", "3"), "--heads must be a multiple of --kv-heads, 3"),
        (("--vocab-size", "260"), "--vocab-size must be at least 261"),
        (("--layers", "0"), "0 is too few"),
        (("--seed", "-1"), "-1 is negative"),
        (("--seed", "many"), "invalid"),
        (("--architecture", "MambaForCausalLM"), "invalid choice"),
    ],
)
def test_a_size_that_makes_no_model_is_wrong_usage(
    make: Make, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        make(*options)
    assert caught.value.code == 2
    assert reason in capsys.readouterr().err
