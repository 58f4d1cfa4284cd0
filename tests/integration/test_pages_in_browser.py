"""Pages in a real browser, at the width of a desk and of a phone: nothing sticks out, no text lies on another.

Each page lies in a frame as wide as the screen it is looked at on, and a script beside the frames measures it.
Screenshots go to the folder that ORCHESTRATOR_SCREENSHOTS names, if it names one.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app import planning
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.pages.build_page import build_page
from orchestrator.pages.page import comparison_page, plan_page
from orchestrator.pages.plan_contents import comparison_for, plan_contents
from orchestrator.pages.quality_page import quality_page
from orchestrator.planner.comparison import Terms, compare
from orchestrator.planner.drafts import drafts
from orchestrator.planner.model_on_target import model_on_target
from tests.support.built import BUILD
from tests.support.checked import MIXED, quality, quantization

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = (1280, 390)
SMALLEST = 7.5
"""Pixels of the smallest text of a picture that can still be read."""

MEASURE = r"""
function visible(rect) { return rect.width > 1 && rect.height > 1; }
function overlap(a, b) {
  return Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
         Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
}
function measure(frame) {
  const page = frame.contentDocument, wide = frame.contentWindow.innerWidth, found = [];
  if (page.documentElement.scrollWidth > wide) found.push("page is " + page.documentElement.scrollWidth + " wide");
  for (const element of page.body.querySelectorAll("*:not(svg *)")) {
    const rect = element.getBoundingClientRect();
    if (visible(rect) && !element.closest("thead") && (rect.right > wide + 1 || rect.left < -1))
      found.push(element.tagName + " sticks out: " + element.textContent.slice(0, 40));
  }
  const charts = [...page.querySelectorAll("figure svg")];
  for (const chart of charts) {
    const card = chart.closest("figure").getBoundingClientRect();
    for (const part of ["title", "desc"])
      if (!(chart.querySelector(":scope > " + part)?.textContent.trim())) found.push("a picture without " + part);
    const texts = [...chart.querySelectorAll("text")].filter(text => text.textContent.trim());
    const rects = texts.map(text => text.getBoundingClientRect());
    texts.forEach((text, one) => {
      const rect = rects[one], size = rect.height;
      if (rect.left < card.left || rect.right > card.right || rect.bottom > card.bottom || rect.top < card.top)
        found.push("text leaves its card: " + text.textContent);
      if (size < SMALLEST) found.push("text is " + size + " pixels high: " + text.textContent);
      for (let other = 0; other < one; other++)
        if (overlap(rect, rects[other]))
          found.push("text on text: " + text.textContent + " on " + texts[other].textContent);
    });
    const names = new Set(texts.map(text => text.textContent));
    if (texts.length < 3 || names.size < 3) found.push("a picture without words");
  }
  const cells = [...page.querySelectorAll("td, th")].filter(cell => !cell.closest("thead") || wide > 800);
  for (const cell of cells)
    if (cell.scrollWidth > cell.clientWidth + 1) found.push("a cell overflows: " + cell.textContent.slice(0, 40));
  return {charts: charts.length, background: frame.contentWindow.getComputedStyle(page.body).backgroundColor, found};
}
window.addEventListener("load", () => {
  const frames = [...document.querySelectorAll("iframe")];
  const found = Object.fromEntries(frames.map(frame => [frame.title, measure(frame)]));
  document.body.innerHTML = "";
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
});
"""


@dataclass(frozen=True)
class Browser:
    """Looks at files without a screen."""

    program: str
    folder: Path

    def run(self, file: Path, *options: str) -> str:
        """Open a file and give what the browser prints."""
        command = (
            self.program,
            "--headless",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
            f"--user-data-dir={self.folder / 'profile'}",
            "--virtual-time-budget=5000",
            "--no-sandbox",  # in a container it has none, and it only sees what we wrote
            *options,
            file.as_uri(),
        )
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def measure(self, pages: dict[str, str], *options: str) -> dict[str, dict[str, Any]]:
        """Put every page into a frame of every width, and say what is wrong with each."""
        frames = "".join(
            f'<iframe title="{name} at {width}" style="width:{width}px;height:900px;border:0"'
            f' srcdoc="{html.escape(page)}"></iframe>\n'
            for name, page in pages.items()
            for width in WIDTHS
        )
        script = MEASURE.replace("SMALLEST", str(SMALLEST))
        file = self.folder / "frames.html"
        file.write_text(f'<!DOCTYPE html><meta charset="utf-8">{frames}<script>{script}</script>', encoding="utf-8")
        printed = self.run(file, "--dump-dom", *options)
        told = re.search(r'<pre id="found">(.*?)</pre>', printed, re.DOTALL)
        assert told is not None, printed[:2000]
        found: dict[str, dict[str, Any]] = json.loads(html.unescape(told.group(1)))
        return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        reason = f"no browser: none of {', '.join(BROWSERS)} is installed (apt-get install -y chromium)"
        if os.environ.get("ORCHESTRATOR_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return Browser(program, tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("store")
    settings = Settings(os.environ, None, folder / "store", folder / "dist")
    return {
        "compare-llama3-70b": _compared(settings, "llama3-70b-nvfp4"),
        "compare-gpt-oss-120b-batch-32": _compared(settings, "gpt-oss-120b-mxfp4", batch=32),
        "compare-tiny-llama": _compared(settings, "tiny-llama-w4a16-nvfp4", context=2048),
        "compare-jamba": _compared(settings, "jamba-1.5-large-bf16", engine="llama.cpp"),
        "compare-qwen3-8b-h200": _compared(settings, "qwen3-8b-nvfp4", target="h200", context=131072),
        "checked-70b": quality_page("llama3-70b-auto", "Llama 3.3 70B.", quality(80), quantization()),
        "checked-experts": quality_page("qwen3-30b", "Qwen3 30B A3B.", quality(48, MIXED)),
        "build": build_page([BUILD]),
        "builds": build_page([replace(BUILD, is_running=True), replace(BUILD, recipe="another-recipe")]),
        "checked-tiny": quality_page("tiny", "A tiny one, compared with nothing.", quality(2, compared=False)),
        **{
            f"plan-{name}": _planned(settings, name)
            for name in (
                "llama3-70b-nvfp4",
                "llama3-70b-nvfp4-published-draft-target",
                "llama3-70b-bf16",
                "qwen3-235b-a22b-nvfp4-published",
                "tiny-llama-w4a16-nvfp4",
                "phi-4-multimodal-nvfp4-published",
            )
        },
    }


def _compared(
    settings: Settings,
    name: str,
    *,
    batch: int = 1,
    context: int = 4096,
    engine: str = "trtllm",
    target: str = "dgx-spark",
) -> str:
    recipe = settings.book.load(name).recipe
    found = comparison_for(model_on_target(recipe, settings.catalog.target(recipe.target)))
    assert found is not None
    terms = Terms(settings.catalog.target(target), target, engine, batch, context, "bf16")
    asked = compare(found.subject, terms)
    return comparison_page(asked, drafts(asked))


def _planned(settings: Settings, name: str) -> str:
    plan = planning.plan(settings, RecipeName(name)).plan
    facts = plan_contents(plan.model, plan.estimate, plan.refusals, plan.warnings)
    return plan_page(facts, comparison_for(plan.model))


def test_nothing_sticks_out_and_no_text_lies_on_another(browser: Browser, pages: dict[str, str]) -> None:
    measured = browser.measure(pages)

    assert len(measured) == len(pages) * len(WIDTHS)
    assert {name: found["found"] for name, found in measured.items() if found["found"]} == {}


def test_every_page_has_its_pictures(browser: Browser, pages: dict[str, str]) -> None:
    measured = browser.measure(pages)

    assert measured["compare-llama3-70b at 1280"]["charts"] == 3
    assert measured["checked-70b at 390"]["charts"] == 3
    assert measured["checked-experts at 390"]["charts"] == 2
    assert measured["checked-tiny at 390"]["charts"] == 1
    assert measured["plan-llama3-70b-nvfp4 at 390"]["charts"] == 4
    assert measured["plan-phi-4-multimodal-nvfp4-published at 390"]["charts"] == 4
    assert measured["plan-llama3-70b-nvfp4-published-draft-target at 390"]["charts"] == 3  # one request: no sweep


def test_a_measurement_that_finds_nothing_would_find_something(browser: Browser) -> None:
    text = '<text x="5" y="20">one</text><text x="8" y="22">two</text><text x="900" y="20">three</text>'
    broken = (
        f'<body><figure style="width:300px"><svg viewBox="0 0 300 50">{text}</svg></figure><p style="width:2000px">x'
    )

    found = "\n".join(browser.measure({"broken": broken})["broken at 390"]["found"])

    for complaint in (
        "page is 20",
        "P sticks out",
        "without title",
        "without desc",
        "text on text: two on one",
        "leaves",
    ):
        assert complaint in found


def test_a_dark_screen_gets_a_dark_page(browser: Browser, pages: dict[str, str]) -> None:
    name = "compare-llama3-70b"
    light = browser.measure({name: pages[name]})[f"{name} at 390"]["background"]
    dark = browser.measure({name: pages[name]}, "--blink-settings=preferredColorScheme=0")[f"{name} at 390"]

    assert _brightness(light) > 0.9
    assert _brightness(dark["background"]) < 0.2
    assert dark["found"] == []


def _brightness(color: str) -> float:
    return sum(int(part) for part in re.findall(r"\d+", color)[:3]) / (3 * 255)


def test_a_page_prints(browser: Browser, pages: dict[str, str], tmp_path: Path) -> None:
    file, paper = tmp_path / "page.html", tmp_path / "page.pdf"
    file.write_text(pages["compare-llama3-70b"], encoding="utf-8")

    browser.run(file, f"--print-to-pdf={paper}", "--no-pdf-header-footer")

    printed = paper.read_bytes()
    assert printed.startswith(b"%PDF-")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 5


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screenshots_are_taken(
    browser: Browser, pages: dict[str, str], tmp_path: Path, width: int, scheme: str
) -> None:
    folder = Path(os.environ.get("ORCHESTRATOR_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    dark = ("--blink-settings=preferredColorScheme=0",) if scheme == "dark" else ()
    for name in ("compare-llama3-70b", "plan-llama3-70b-nvfp4", "checked-70b"):
        height = 2000 if width > 800 else 4200
        frame = (
            f'<iframe style="width:{width}px;height:{height}px;border:0" srcdoc="{html.escape(pages[name])}"></iframe>'
        )
        file, shot = tmp_path / "frame.html", folder / f"{name}-{width}-{scheme}.png"
        file.write_text(f'<meta charset="utf-8"><body style="margin:0">{frame}', encoding="utf-8")
        browser.run(file, f"--screenshot={shot}", f"--window-size={max(width, 500)},{height}", *dark)
        assert shot.stat().st_size > 20_000
