from __future__ import annotations

import re
from dataclasses import replace

import pytest

from orchestrator.pages.build_page import StepStory, build_page
from orchestrator.store.cost import MemoryCurve
from tests.support.built import BUILD, CURVE, DIGEST, DONE


def test_a_finished_build_has_its_time_memory_quality_speed_deployment_and_digest() -> None:
    page = build_page([BUILD])
    assert "Every step is done: 2 min 57 s" in page
    assert "the longest is quantize with 2 min 55 s" in page
    assert "The most is 5.6 GB in quantize; the machine has 128.0 GB." in page
    assert "2 of 2 checks passed." in page
    assert "<li>divergence: 0.31 nats</li>" in page
    assert "<li>tensors" not in page
    assert ">4.7</td>" in page
    assert ">4.2 to 5.1</td>" in page
    assert ">812 ms</td>" in page
    assert "not measured" in page
    assert f'<code title="{DIGEST}">{DIGEST[:12]}</code>' in page
    assert "/dist/a-recipe" in page
    assert 'http-equiv="refresh"' not in page


@pytest.mark.parametrize(
    ("step", "words", "style"),
    [
        (StepStory("verify", "running", 0.0), "Now: verify, step 3 of 3", "maybe"),
        (StepStory("verify", "failed", 1.0, error="0.5 <nats>"), "verify failed: 0.5 &lt;nats&gt;", "no"),
        (StepStory("verify", "interrupted", 1.0), "Ended in verify, step 3 of 3; the next build continues", "maybe"),
        (StepStory("verify", "abandoned", 1.0), "Ended in verify, step 3 of 3; the next build continues", "maybe"),
        (StepStory("verify", "waiting", 0.0), "Between two steps", "maybe"),
    ],
)
def test_a_build_that_is_not_finished_says_where_it_is(step: StepStory, words: str, style: str) -> None:
    page = build_page([replace(BUILD, steps=(*BUILD.steps, step), is_finished=False)])
    assert f'<p class="verdict {style}">{words}</p>' in page


def test_memory_over_time_is_drawn_below_the_limit_and_the_plan() -> None:
    page = build_page([BUILD])
    assert "<h3>Memory during quantize</h3>" in page
    assert "The machine had 9.0 GB in use when quantize began and 54.0 GB at most, 28.0 s later" in page
    assert "the limit is 122.0 GB. Planned were 44.0 GB more than before." in page
    assert "planned: 53.0 GB, with what was in use before" in page
    chart = page.partition("Memory during quantize")[2]
    line = re.search(r'<polyline points="([^"]*)"', chart)
    assert line
    spots = [tuple(map(float, spot.split(","))) for spot in line[1].split()]
    assert len(spots) == 88
    assert [spots[0][0], spots[-1][0]] == [42.0, 316.0]  # from one side of the plot to the other
    assert min(y for _, y in spots) == pytest.approx(190 - 170 * 54 / 122, abs=0.1)


@pytest.mark.parametrize("memory", [None, MemoryCurve(1.0, 1, (), 9), replace(CURVE, used=CURVE.used[:2])])
def test_a_step_without_samples_has_no_curve(memory: MemoryCurve | None) -> None:
    steps = (replace(DONE, memory=memory), replace(DONE, name="verify", predicted_memory=None))
    page = build_page([replace(BUILD, steps=steps)])
    assert "Memory during quantize" not in page
    assert "Memory during verify" in page
    assert "planned:" not in page


def test_the_page_of_a_running_build_reloads() -> None:
    assert '<meta http-equiv="refresh" content="2">' in build_page([replace(BUILD, is_running=True), BUILD])


def test_a_build_of_which_nothing_is_known_yet_has_a_page() -> None:
    page = build_page(
        [replace(BUILD, steps=(), quality=None, levels=[], bundle="", memory=None, verdict="", description="")]
    )
    assert "<svg" not in page
    assert "Checks" not in page
    assert "The plan" not in page


def test_several_builds_have_one_table_and_a_part_each() -> None:
    failed = StepStory("quantize", "failed", 3.0, error="the disk is full")
    page = build_page([BUILD, replace(BUILD, recipe="another", steps=(failed,), quality=None, levels=[])])
    assert "Builds of 2 recipes" in page
    for name in ("a-recipe", "another"):
        assert f'<a href="#{name}">{name}</a>' in page
        assert f'<h2 id="{name}">' in page
    assert page.count("quantize failed: the disk is full") == 2


def test_several_builds_are_followed_with_planned_times_gpu_hours_and_what_has_not_begun() -> None:
    step = StepStory("quantize", "done", 5400.0, gpus=2)
    ended = replace(BUILD, steps=(step, replace(step, state="reused")), planned="1 h to 2 h")
    page = build_page([ended], follows=True, waiting=["third", "fourth"])
    assert 'http-equiv="refresh"' in page
    assert "Builds of 3 recipes" in page
    assert 'data-label="planned">1 h to 2 h</td>' in page
    assert 'data-label="GPU hours">3.00</td>' in page
    assert "Not begun: third, fourth." in page
    assert "Not begun" not in build_page([ended, BUILD])
