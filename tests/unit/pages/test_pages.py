"""Pages as text: everything inside, everything escaped, the same bytes every time."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from orchestrator.catalog.models import find_model
from orchestrator.catalog.target import Gpu, Target
from orchestrator.models import ModelShape, shape_of
from orchestrator.pages.advice import advice
from orchestrator.pages.draft_sentences import draft_sentences
from orchestrator.pages.markdown import comparison_text
from orchestrator.pages.page import Notice, PlanContents, comparison_page, plan_page
from orchestrator.planner.comparison import Comparison, Subject, Terms, compare
from orchestrator.planner.drafts import drafts
from orchestrator.planner.estimate import Stage
from orchestrator.planner.phases import Peak

HOSTILE = '<script>alert("1")</script> & {{ 7 * 7 }} | $x$'
SPARK = Target(
    description="a machine",
    architecture="arm64",
    gpu=Gpu(name="NVIDIA GB10", sm=121, memory_bandwidth=273e9),
    memory=130674379980,
    reserve=12884901888,
    unified_memory=True,
)
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Reader(HTMLParser):
    """Reads a page and keeps what is open, so that a tag that nobody closes shows."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_startendtag(self, _: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]


def shape(repo: str) -> ModelShape:
    entry = find_model(repo)
    assert entry is not None
    return shape_of(entry.config)


def compared(repo: str = "meta-llama/Llama-3.1-8B-Instruct", *, name: str = "a model") -> Comparison:
    subject = Subject(name, shape(repo), "the catalogue", {}, {"nvfp4": ("a-recipe",)})
    return compare(subject, Terms(SPARK, "dgx-spark", "trtllm", 1, 4096, "bf16"))


def page(name: str = "a model") -> str:
    found = compared(name=name)
    return comparison_page(found, drafts(found))


def test_every_tag_is_closed_and_every_id_is_there_once() -> None:
    reader = Reader()
    reader.feed(page())
    assert (reader.open, reader.wrong) == ([], [])
    assert len(reader.ids) == len(set(reader.ids))


def test_nothing_is_fetched_and_nothing_runs() -> None:
    text = page()
    assert "<script" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"""(?:src|href)=["'](?!#)""", text)
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text


def test_a_name_is_only_a_name() -> None:
    text = page(HOSTILE)
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text
    assert "{{ 7 * 7 }}" in text
    contents = PlanContents(
        HOSTILE,
        HOSTILE,
        HOSTILE,
        HOSTILE,
        tone="no",
        notices=(Notice("A", HOSTILE, HOSTILE),),
        figures=((HOSTILE, "1", HOSTILE),),
        stages=(Stage("serve", Peak({"weights": 1e9}, 2e9, "exact", HOSTILE)),),
        speeds=None,
        drafts=HOSTILE,
        available=1e9,
        has=HOSTILE,
    )
    assert "<script>alert" not in plan_page(contents, None)


def test_the_same_page_is_the_same_bytes() -> None:
    assert page() == page()


def test_light_dark_and_paper_have_the_same_colours_to_fill() -> None:
    blocks = re.findall(r":root \{(.*?)\}", page(), re.DOTALL)
    names = [set(re.findall(r"--[\w-]+(?=:)", block)) for block in blocks]
    assert len(blocks) == 3
    assert names[0] == names[1] == names[2]
    assert set(re.findall(r"var\((--[\w-]+)\)", page())) <= names[0]


def test_a_table_in_markdown_survives_a_bar_in_a_cell() -> None:
    found = compared()
    odd = replace(found, rows=tuple(replace(row, label="a | b") for row in found.rows))
    lines = [line for line in comparison_text(odd, None).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_the_expected_speed_lies_in_its_band_and_below_the_limit() -> None:
    for repo in ("meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-30B-A3B", "openai/gpt-oss-120b"):
        for row in compared(repo).rows:
            band = row.figures.decode
            assert band is not None
            assert row.figures.ceiling is not None
            assert band.low <= band.expected <= band.high
            assert band.expected <= row.figures.ceiling


@pytest.mark.parametrize(("repo", "format_name"), [
    ("openai/gpt-oss-20b", "mxfp4"),
    ("Qwen/Qwen3-8B", "nvfp4"),
])  # fmt: skip
def test_drafts_are_calculated_for_the_format_that_one_would_serve(repo: str, format_name: str) -> None:
    found = drafts(compared(repo))
    assert found is not None
    assert found.row.format == format_name


def test_a_faster_wish_never_takes_fewer_accepted_drafts() -> None:
    found = drafts(compared(), (20, 40, 60, 80, 1000))
    assert found is not None
    taken = [wanted.acceptance if wanted.acceptance is not None else 2 for wanted in found.wanted]
    assert taken == sorted(taken)
    assert len(draft_sentences(found)) == 7


def test_a_model_that_fits_in_no_format_has_no_drafts_and_still_a_page() -> None:
    found = compared("ai21labs/AI21-Jamba-1.5-Large")
    assert drafts(found) is None
    text = comparison_page(found, None)
    assert text.count("<figure>") == 2  # no context that fits could be drawn
    assert "Does not fit" in text


def test_a_gpu_without_four_bit_products_is_told_to_use_eight() -> None:
    hopper = SPARK.model_copy(update={"gpu": Gpu(name="NVIDIA H100", sm=90, memory_bandwidth=3.35e12)})
    subject = Subject("a model", shape("meta-llama/Llama-3.1-8B-Instruct"), "the catalogue")
    found = compare(subject, Terms(hopper, "h100", "trtllm", 1, 4096, "bf16"))
    said = {row.format: advice(found, row) for row in found.rows}
    assert said["fp8"].startswith("The usual choice on this GPU")
    assert "no four-bit products" in said["nvfp4"]
    needed = drafts(found)
    assert needed is not None
    assert needed.row.format == "fp8"
