"""README.md and MODEL_CARD.md: they name what is there, claim what was measured, and say what is only predicted."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.gateway.variables import VARIABLES
from orchestrator.bundle.targets import TARGETS, choose, model_card, readme, render_files
from tests.support.bundles import contents_of, served_recipes

ENGINE = "llama3-70b-nvfp4-engine"
TINY = "tiny-llama-w4a16-nvfp4"
_PATHS = re.compile(r"`((?:\./)?[\w.-]+/[\w./-]*|[\w-]+\.(?:md|json|yaml|sh))`|\]\((?!https?:)([^)]+)\)")
"""What looks like a place in the bundle: in code with a slash or an ending of ours, or the target of a link."""
_ELSEWHERE = ("/", "secrets/", "edited/", ".env", "two-sparks/.env")


def card(contents: BundleContents) -> str:
    return model_card.files(contents)["MODEL_CARD.md"]


@pytest.mark.parametrize("name", served_recipes())
def test_every_file_that_a_page_names_is_in_the_bundle(name: str, tmp_path: Path) -> None:
    contents = contents_of(name, tmp_path)
    texts = render_files(contents)
    there = {f"{part.name}/{file.path}" for part in contents.parts for file in part.files} | set(texts) | {"SHA256SUMS"}
    folders = {parent.as_posix() + "/" for path in there for parent in Path(path).parents}
    for page in ("README.md", "MODEL_CARD.md"):
        for found in _PATHS.finditer(texts[page]):
            place = (found[1] or found[2]).removeprefix("./")
            known = place in there or place.rstrip("/") + "/" in folders
            assert known or place.startswith(_ELSEWHERE), f"{page} names {place}"


@pytest.mark.parametrize("target", TARGETS)
def test_a_page_explains_the_ways_to_deploy_that_are_here_and_no_other(target: str, tmp_path: Path) -> None:
    name = "qwen3-235b-a22b-nvfp4-published" if TARGETS[target].obstacle(contents_of(ENGINE, tmp_path)) else ENGINE
    text = readme.files(contents_of(name, tmp_path / "one", targets=(target,)))["README.md"]
    whole = readme.files(contents_of(name, tmp_path / "all"))["README.md"]
    run = re.compile(r"## Run it\n(.*?)\n## Call it", re.DOTALL)
    sections = [
        re.findall("^### (.*)", found[1], re.MULTILINE) for found in (run.search(text), run.search(whole)) if found
    ]
    assert 1 <= len(sections[0]) <= 2
    assert len(sections[1]) >= len(sections[0])
    assert set(sections[0]) <= set(sections[1])


def test_a_page_has_every_variable_that_the_server_reads(tmp_path: Path) -> None:
    text = readme.files(contents_of(TINY, tmp_path))["README.md"]
    assert [variable.name for variable in VARIABLES if f"| `{variable.name}`" not in text] == []


def test_pages_say_that_this_is_no_nim_of_nvidias(tmp_path: Path) -> None:
    assert "It is not an\nNVIDIA NIM" in readme.files(contents_of(TINY, tmp_path))["README.md"]


def test_a_card_puts_what_was_predicted_beside_what_was_measured(tmp_path: Path) -> None:
    text = card(contents_of(ENGINE, tmp_path))
    assert re.search(r"^\| 1 \| 10\.5 \| \S+ / \S+ / \S+ \| 250\.0 ms \|$", text, re.MULTILINE)
    assert "Speed was not measured" not in text


def test_a_card_says_that_a_prediction_is_one_where_nothing_was_measured(tmp_path: Path) -> None:
    text = card(replace(contents_of(ENGINE, tmp_path), performance=None, quality=None))
    assert "Speed was not measured" in text
    assert "**predicted**" in text
    assert "| 1 | not measured | " in text
    assert "Quality was not measured" in text


def test_a_card_claims_nothing_where_nothing_is_known(tmp_path: Path) -> None:
    text = card(replace(contents_of(ENGINE, tmp_path), performance=None, quality=None, prediction=None))
    assert "nothing is predicted" in text
    assert not re.search(r"tokens/s|\d dB", text)


def test_a_card_tells_how_far_the_model_is_from_its_original(tmp_path: Path) -> None:
    divergence = {
        "kl_divergence": {"mean": 0.01234, "p99": 0.1},
        "perplexity": {"original": 8.5, "quantized": 8.75, "increase": 0.0294},
        "meaning": "normal for NVFP4",
    }
    contents = contents_of(ENGINE, tmp_path)
    assert contents.quality is not None
    text = card(replace(contents, quality={**contents.quality, "divergence": divergence}))
    assert "| divergence from the original | 0.01234 nats a token |" in text
    assert "8.5 → 8.75" in text
    assert "normal for NVFP4" in text


@pytest.mark.parametrize("name", [ENGINE, "llama3-70b-nvfp4-published-eagle3", TINY])
def test_a_card_has_every_digest(name: str, tmp_path: Path) -> None:
    contents = contents_of(name, tmp_path)
    text = card(contents)
    digests = [contents.digest, *(part.artifact.digest for part in contents.parts), *contents.image.digests.values()]
    assert all(digest in text for digest in (*digests, contents.image.digest or "none"))
    assert contents.commit is None or contents.commit in text
    assert contents.shape.draft is None or contents.shape.draft.revision in text


def test_a_card_names_the_licence_of_the_base_model_and_where_it_is(tmp_path: Path) -> None:
    text = card(contents_of(ENGINE, tmp_path))
    assert 'license: "llama3.3"' in text
    assert "and in `model/LICENSE`" in text


def test_an_image_that_no_lock_pins_is_said_to_be_a_tag(tmp_path: Path) -> None:
    contents = contents_of(ENGINE, tmp_path)
    contents = choose(replace(contents, image=replace(contents.image, digest=None, digests={})), ())
    assert "a tag, not pinned by a lock" in card(contents)
