"""Every command on the tiny recipe: what it prints for people and for programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from orchestrator.events import Failure, Progress, Warned, to_line
from orchestrator.planner.model_on_target import model_on_target
from orchestrator.planner.prediction import predict
from orchestrator.recipe.lock import Lock, lock_text
from tests.support.bundles import BOOK, CATALOG
from tests.support.fake import FakeRun
from tests.support.keys import make_key
from tests.support.leavings import COMMANDS as TINY
from tests.support.leavings import QUALITY, RECIPE, STEPS
from tests.unit.cli.conftest import Shell

UNKNOWN_TO_THE_CPU = "deepseek-coder-v2-lite-bf16"
COMMANDS = [
    "recipes", "show", "validate", "plan", "build", "verify", "bench", "bundle", "deploy", "undeploy", "status", "logs",
    "attach", "lock", "gc", "doctor", "schema", "completion",
]  # fmt: skip


def test_help_lists_every_command_and_the_exit_statuses(shell: Shell) -> None:
    assert shell("--help") == 0
    for name in COMMANDS:
        assert f"\n  {name} " in shell.out
    for status in ("0    done", "3    bad input", "7    a check failed", "130  interrupted"):
        assert status in shell.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(shell: Shell, name: str) -> None:
    assert shell(name, "--help") == 0
    assert "Usage: " in shell.out


def test_the_version_names_what_matters(shell: Shell) -> None:
    assert shell("--version") == 0
    assert shell.out.startswith("orchestrator 0.")
    assert "huggingface_hub" in shell.out


def test_recipes_are_listed(shell: Shell) -> None:
    assert shell("recipes") == 0
    assert RECIPE in shell.out
    listed = shell.json("recipes")
    assert isinstance(listed, list)
    fields = {"name", "description", "model", "architecture", "format", "method", "backend", "target", "image"}
    fields |= {"works", "verdict", "refusals", "weights", "decode"}
    fields |= {"file", "shadows"}
    assert all(set(recipe) == fields for recipe in listed)


def test_a_recipe_is_shown_with_where_each_value_came_from(shell: Shell) -> None:
    assert shell("show", RECIPE, "--set", "serve.port=9000") == 0
    lines = [line.split("#") for line in shell.out.splitlines()]
    found = {parts[0].strip(): parts[1].strip() for parts in lines if len(parts) == 2}
    assert found["port: 9000"] == "--set"
    assert found['target: "cpu"'].startswith(f"{RECIPE}.yaml:")
    assert found["max_batch_size: 8"] == "default"


def test_a_whole_table_that_is_set_is_shown_as_set(shell: Shell) -> None:
    assert shell("show", RECIPE, "--set", "serve.environment={A: one}") == 0
    line = next(line for line in shell.out.splitlines() if "A:" in line)
    assert line.endswith("# --set")


def test_a_shown_recipe_can_be_read_by_a_program(shell: Shell) -> None:
    document = shell.json("show", RECIPE)
    assert isinstance(document, dict)
    assert set(document) == {"recipe", "origins", "shadows"}
    assert document["recipe"]["name"] == RECIPE


def test_every_shipped_recipe_is_valid(shell: Shell) -> None:
    found = shell.json("validate")
    assert isinstance(found, list)
    assert [entry["recipe"] for entry in found if not entry["valid"]] == []


def test_one_recipe_is_validated(shell: Shell) -> None:
    assert shell("validate", RECIPE) == 0
    assert shell.out == f"✓ {RECIPE}\n"


def test_an_invalid_recipe_does_not_hide_the_others(shell: Shell) -> None:
    shell.write_recipe("broken", "name: [\n")
    assert shell("validate", "broken", RECIPE) == 3
    assert f"✓ {RECIPE}" in shell.out
    assert "error[YAML_INVALID]" in shell.err


def test_a_plan_says_what_it_costs_and_does(shell: Shell) -> None:
    assert shell("plan", RECIPE) == 0
    assert shell.out.splitlines()[0] == f"{RECIPE} on cpu: fits"
    assert "scale_search" not in shell.out
    document = shell.json("plan", RECIPE)
    assert isinstance(document, dict)
    assert set(document) == {
        "recipe", "target", "works", "verdict", "refusals", "warnings",
        "estimate", "phases", "scale_search", "rounding", "smoothing", "input_scales", "layer_inputs", "shadows",
        "speeds", "drafts", "steps", "arithmetic",
    }  # fmt: skip
    assert document["scale_search"] == {"name": "max", "seconds": None}
    assert [phase["phase"] for phase in document["phases"]] == ["download", "quantize"]
    assert [step["name"] for step in document["steps"]] == STEPS
    assert all(figure["basis"] for figure in document["estimate"].values())


def test_a_plan_names_the_steps_that_need_the_network(shell: Shell) -> None:
    text = shell.project / "text.jsonl"
    text.write_text('{"text": "one"}\n')
    own = ("--set", "quantization.calibration.dataset=text.jsonl", "--set", "checks.held_out=null")
    for arguments, online in (((), ["download", "download-calibration"]), (own, ["download"])):
        found = shell.json("plan", "llama3-70b-nvfp4", *arguments)
        assert [step["name"] for step in found["steps"] if step["network"]] == online
        assert shell("plan", "llama3-70b-nvfp4", *arguments) == 0
        assert f"network: {', '.join(online)}\n" in shell.out
    assert shell("plan", RECIPE) == 0
    assert "network: no step needs it" in shell.out


def test_a_plan_says_what_a_search_for_scales_adds(shell: Shell) -> None:
    searched = ("plan", "llama3-8b-w4a16-nvfp4", "--set", "quantization.scale_search=mse")
    shell(*searched)
    assert "scale_search mse: 6 to 50 s of quantize" in shell.out
    document = shell.json(*searched)
    assert isinstance(document, dict)
    assert document["scale_search"]["name"] == "mse"
    assert document["scale_search"]["seconds"]["least"] > 0


@pytest.mark.parametrize(("recipe", "verdict", "status"), [
    ("llama3-70b-nvfp4", "fits", 0),
    ("llama3-70b-nvfp4-engine", "may not fit", 0),
    ("llama3-70b-nvfp4-published", "fits", 0),
    ("llama3-70b-bf16", "does not fit", 4),
    ("jamba-1.5-large-bf16", "not supported", 4),
])  # fmt: skip
def test_a_plan_is_one_screen_with_its_verdict_first(shell: Shell, recipe: str, verdict: str, status: int) -> None:
    assert shell("plan", recipe) == status
    lines = shell.out.splitlines()
    assert lines[0] == f"{recipe} on dgx-spark: {verdict}"
    assert len(lines) <= 45
    table = [line.rstrip() for line in lines if line.startswith(("phase ", "download ", "load ", "serve "))]
    assert len(table) == 4
    assert max(map(len, table)) <= 100
    assert ("decode, 1 user" in shell.out) == (status == 0)


def test_a_plan_says_on_request_how_each_figure_was_calculated(shell: Shell) -> None:
    assert shell("plan", "-v", "llama3-70b-nvfp4-published") == 0
    for reason in ("download, time: a line of", "load, memory: weights, and one file", "decode: a step of", "band:"):
        assert f"- {reason}" in shell.out


def test_the_dry_run_document_has_just_the_promised_keys(shell: Shell) -> None:
    document = shell.json("build", RECIPE, "--dry-run")
    assert isinstance(document, dict)
    assert list(document) == ["recipe", "lock", "steps", "refusals"]
    assert document["lock"] is None
    for step in document["steps"]:
        assert list(step) == [
            "name", "executor", "image", "argv", "mounts", "environment",
            "secrets", "network", "gpus", "outputs", "decision",
        ]  # fmt: skip
        assert all(set(mount) == {"source", "target", "read_only"} for mount in step["mounts"])
    assert [step["decision"] for step in document["steps"]] == ["run", "later", "later"]


def test_a_refused_dry_run_says_so_in_its_document(shell: Shell) -> None:
    document = shell.json("build", UNKNOWN_TO_THE_CPU, "--dry-run", status=4)
    assert isinstance(document, dict)
    assert document["refusals"]
    assert all(set(refusal) == {"code", "message", "hint"} for refusal in document["refusals"])


def test_the_whole_catalogue_dry_runs_without_an_engine(shell: Shell) -> None:
    documents = shell.json("build", "--dry-run", "--all")
    assert isinstance(documents, list)
    assert len(documents) == len(list((shell.project / "recipes").glob("*.yaml")))
    assert not shell.store.exists()


def test_a_dry_run_prints_lines_to_paste(shell: Shell) -> None:
    assert shell("build", "llama3-8b-nvfp4", "--dry-run") == 0
    assert "docker run" in shell.out
    assert 'mkdir -p "$WORK/download/out"' in shell.out


def test_a_build_ends_with_a_table_and_what_to_do_next(shell: Shell) -> None:
    assert shell("build", RECIPE) == 0
    for step in (*STEPS, "bundle", "total"):
        assert f"\n{step} " in shell.out
    assert f"next: read {shell.dist / RECIPE}/README.md" in shell.out, "its target has no GPU to deploy it on"
    assert (shell.dist / RECIPE / "compose.yaml").is_file()


def test_a_second_build_says_that_it_reused_everything(shell: Shell) -> None:
    shell("build", RECIPE)
    document = shell.json("build", RECIPE)
    assert isinstance(document, dict)
    assert set(document) == {"recipe", "steps", "bundle"}
    assert all(step["reused"] for step in document["steps"])
    keys = {"name", "reused", "seconds", "bytes_in", "bytes_out", "key", "digest", "folder"}
    assert all(set(step) == keys for step in document["steps"])
    assert document["bundle"] == str(shell.dist / RECIPE)


def test_a_build_until_a_step_writes_no_deployment(shell: Shell) -> None:
    assert shell("build", RECIPE, "--until", "quantize") == 0
    assert not shell.dist.exists()
    assert f" --dist {shell.dist} build {RECIPE}" in shell.out, "a line to paste names the folders that were given"


def test_verify_shows_the_checks(shell: Shell) -> None:
    assert shell("verify", RECIPE) == 0
    assert "tensors are there" in shell.out
    assert "20.2 dB at worst" in shell.out
    assert shell.json("verify", RECIPE, "--deep") == QUALITY


def test_verify_shows_checks_without_signal_to_noise(shell: Shell) -> None:
    def unquantized(run: FakeRun) -> None:
        (run.output / "quality.json").write_text(json.dumps({**QUALITY, "snr_db": {"min": None, "mean": None}}))

    shell.executor.commands = {**TINY, "verify": unquantized}
    assert shell("verify", RECIPE) == 0
    assert "tensors are there" in shell.out
    assert "dB" not in shell.out


def test_bundle_says_which_files_it_took_out_of_a_persons_hands(shell: Shell) -> None:
    assert shell("build", RECIPE) == 0
    (shell.dist / RECIPE / "compose.yaml").write_text("mine")
    assert shell("bundle", RECIPE, "--target", "helm") == 0
    assert "compose.yaml: overwritten; your changed versions are in edited/" in shell.err
    assert (shell.dist / RECIPE / "edited" / "compose.yaml").read_text() == "mine"


def test_bundle_writes_again_what_is_built(shell: Shell) -> None:
    shell("build", RECIPE)
    (shell.dist / RECIPE / "compose.yaml").unlink()
    assert shell("bundle", RECIPE) == 0
    assert "is written" in shell.out
    assert shell.json("bundle", RECIPE) == {"recipe": RECIPE, "bundle": str(shell.dist / RECIPE), "reused": True}


def test_a_bundle_is_signed_and_verified_with_the_key_that_is_named(shell: Shell, tmp_path: Path) -> None:
    key = make_key(tmp_path / "owner.pem")
    assert shell("build", RECIPE) == 0
    assert shell("bundle", RECIPE, "--sign", str(key), "--json") == 0
    document = json.loads(shell.out)
    assert Path(document["signature"]["file"]).name == "model.sig"
    arguments = ("verify-bundle", document["bundle"], "--key", str(key.with_suffix(".pub")))
    assert shell(*arguments) == 0
    assert f"trusted: the key of {key.with_suffix('.pub')}, SHA-256 {document['signature']['key_sha256']}" in shell.out
    assert shell(*arguments, "--json") == 0
    assert json.loads(shell.out)["key_sha256"] == document["signature"]["key_sha256"]

    (Path(document["bundle"]) / "README.md").write_text("another")
    assert shell(*arguments) == 7
    assert "error[SIGNATURE_INVALID]" in shell.err
    assert "changed: README.md" in shell.err


def test_a_key_that_cannot_sign_is_refused_before_anything_is_written(shell: Shell, tmp_path: Path) -> None:
    assert shell("build", RECIPE) == 0
    assert shell("bundle", RECIPE, "--sign", str(tmp_path / "missing.pem")) == 3
    assert "error[SIGNING_KEY]" in shell.err
    assert shell.out == ""
    shell.patch.setitem(sys.modules, "sigstore.sign", None)
    assert shell("bundle", RECIPE, "--sign", "keyless") == 6
    assert "error[DEPENDENCY_MISSING]" in shell.err
    assert shell.out == ""


def test_options_about_signatures_that_do_not_fit_are_refused(shell: Shell, tmp_path: Path) -> None:
    assert shell("build", RECIPE) == 0
    bundle, archive = str(shell.dist / RECIPE), str(tmp_path / "bundle.tar")
    for arguments, words in (
        (("bundle", RECIPE, "--sign", "keyless", "--air-gap", archive), "openssl checks its list"),
        (("bundle", RECIPE, "--trust-config", "trust.json"), "it needs --sign keyless"),
        (("verify-bundle", bundle), "name whom you trust"),
        (("verify-bundle", bundle, "--identity", "owner@example.com"), "belong together"),
        (("verify-bundle", bundle, "--issuer", "https://issuer.example", "--key", "owner.pub"), "name one of them"),
        (
            ("verify-bundle", bundle, "--key", "owner.pub", "--trust-config", "trust.json"),
            "needs --identity and --issuer",
        ),
        (("deploy", RECIPE, "--identity", "owner@example.com"), "belong together"),
    ):
        assert shell(*arguments) == 2, arguments
        assert words in shell.err, arguments
        assert shell.out == ""


def test_a_record_that_cannot_be_read_is_named_and_nothing_is_removed(shell: Shell) -> None:
    assert shell("build", RECIPE) == 0
    file = shell.store / "runs" / f"{RECIPE}.events"
    for text in ("", "[]", "{", '{"steps": 1}', '{"steps": [{}]}'):
        file.write_text(text)
        for arguments in ((), (RECIPE,)):
            assert shell("status", *arguments) == 0
            assert f"{file} cannot be read" in shell.err
            assert "no recipe was built yet" not in shell.out
        assert shell("gc", "--delete") == 6
        assert "error[FILE_SYSTEM]" in shell.err
        assert str(file) in shell.err.replace("\n", "")
    assert shell("build", RECIPE) == 0
    assert "reused" in shell.out
    assert shell("status") == 0
    assert shell.err == ""


def test_status_tells_what_the_newest_builds_did(shell: Shell) -> None:
    assert shell("status") == 0
    assert shell.out == "no recipe was built yet\n"
    shell("build", RECIPE)
    found = shell.json("status", RECIPE)
    assert isinstance(found, list)
    assert [(step["name"], step["state"]) for step in found[0]["steps"]] == [(step, "done") for step in STEPS]
    assert shell("status") == 0
    assert RECIPE in shell.out


def test_logs_show_what_a_step_wrote(shell: Shell) -> None:
    shell("build", RECIPE)
    assert shell("logs", RECIPE, "quantize") == 0
    assert shell.out == "at work: quantize\n"
    assert shell("logs", RECIPE) == 0
    assert shell.out == "at work: verify\n"


def test_logs_say_in_words_what_a_step_told_the_build(shell: Shell) -> None:
    told = [
        to_line(Progress(1, 4, "layers", "model.layers.0, 2 s left")),
        to_line(Warned("little room")),
        to_line(Failure("DISK_FULL", "no room")),
        "plain",
        "unfinished",
    ]
    run = shell.executor.commands["quantize"]

    def telling(fake: FakeRun) -> int | None:
        fake.write("\n".join(told).encode())
        return run(fake)

    shell.executor.commands = {**shell.executor.commands, "quantize": telling}
    shell("build", RECIPE)
    assert shell("logs", RECIPE, "quantize") == 0
    assert shell.out.splitlines()[:4] == [
        "1 of 4 layers · model.layers.0, 2 s left",
        "warning: little room",
        "DISK_FULL: no room",
        "plain",
    ]
    assert shell.out.splitlines()[4].startswith("unfinished")


def test_gc_shows_first_and_removes_only_when_told(shell: Shell) -> None:
    shell("build", RECIPE)
    shell("build", RECIPE, "--set", "model.generate.seed=1")
    found = shell.json("gc")
    assert isinstance(found, list)
    assert sorted(entry["step"] for entry in found) == sorted(STEPS)
    assert not any(entry["removed"] for entry in found)
    assert shell("gc", "--delete") == 0
    assert shell.json("gc") == []
    document = shell.json("build", RECIPE, "--set", "model.generate.seed=1")
    assert isinstance(document, dict)
    assert all(step["reused"] for step in document["steps"])
    assert (shell.dist / RECIPE / "model" / "model.safetensors").is_file()


def test_the_schema_is_printed_checked_and_written(shell: Shell) -> None:
    assert shell("schema") == 0
    assert json.loads(shell.out)["title"] == "orchestrator recipe"
    (shell.project / "recipes" / "recipe.schema.json").write_text("{}")
    assert shell("schema", "--check") == 7
    assert shell("schema", "--write") == 0
    assert shell("schema", "--check") == 0


@pytest.mark.parametrize("kind", ["zsh", "fish"])
def test_completion_prints_a_script(shell: Shell, kind: str) -> None:
    assert shell("completion", kind) == 0
    assert "_ORCHESTRATOR_COMPLETE" in shell.out


def test_a_recipe_without_anything_from_the_hub_locks_without_it(shell: Shell) -> None:
    assert shell("lock", RECIPE) == 0
    file = shell.project / "recipes" / f"{RECIPE}.lock"
    assert "no repository" in shell.out
    document = shell.json("build", RECIPE, "--dry-run")
    assert isinstance(document, dict)
    assert document["lock"] == str(file)
    assert shell("lock", RECIPE, "--check") == 0


def test_a_lock_that_cannot_be_read_is_made_again(shell: Shell) -> None:
    file = shell.project / "recipes" / f"{RECIPE}.lock"
    file.write_text("<<<<<<< HEAD\n")
    assert shell("build", RECIPE, "--dry-run") == 3
    assert shell("lock", RECIPE) == 0
    assert "it is created again" in shell.err
    assert shell("build", RECIPE, "--dry-run") == 0


def test_the_lock_of_another_recipe_stops_a_build(shell: Shell) -> None:
    file = shell.project / "recipes" / f"{RECIPE}.lock"
    file.write_text(lock_text(Lock(recipe="other", repositories=())))
    assert shell("build", RECIPE) == 3
    assert "error[LOCK_INVALID]" in shell.err


@pytest.mark.parametrize(
    "recipe",
    [
        "llama3-70b-nvfp4",
        "llama3-70b-nvfp4-published",
        "qwen3-8b-nvfp4",
        "qwen3-30b-a3b-nvfp4-published",
        "gpt-oss-20b-mxfp4",
    ],
)
def test_the_same_question_has_the_same_figure_everywhere(shell: Shell, recipe: str) -> None:
    plan = shell.json("plan", recipe)
    compared = shell.json("compare", recipe)
    assert isinstance(plan, dict)
    assert isinstance(compared, dict)
    loaded = BOOK.load(recipe).recipe
    predicted = predict(model_on_target(loaded, CATALOG.target(loaded.target)))
    assert predicted is not None
    own = next(row for row in compared["formats"] if row["format"] == loaded.quantization.format)
    usual = plan["speeds"]["decode"][0]
    decode = plan["estimate"]["decode"]
    lengths = {name: compared["workload"][name] for name in ("input_tokens", "output_tokens")}
    assert (
        f"1 user, {lengths['input_tokens']:,} tokens in and {lengths['output_tokens']:,} out,"
        f" KV cache in {compared['kv_dtype'].upper()}" in decode["conditions"]
    )
    assert (usual["batch"], usual["context"]) == (1, lengths["input_tokens"] + lengths["output_tokens"])
    assert predicted["workload"] == {**lengths, "concurrency": 1}
    assert usual["decode"]["expected"] == decode["value"] == own["decode_tokens_per_s"]["expected"]
    assert predicted["decode_tokens_per_s"] == own["decode_tokens_per_s"] == usual["decode"]
    limit = plan["speeds"]["prefill"][0]["ceiling"]
    assert limit == plan["estimate"]["decode_ceiling"]["value"] == own["decode_ceiling_tokens_per_s"]


@pytest.mark.parametrize(("columns", "most"), [(60, 50), (80, 45), (100, 42)])
def test_a_plan_is_readable_on_a_narrow_terminal(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, columns: int, most: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert shell("plan", "llama3-70b-nvfp4-engine") == 0
    *lines, following = shell.out.splitlines()
    assert following.startswith("next: ")  # a line to paste, which is never broken
    assert lines[0] == "llama3-70b-nvfp4-engine on dgx-spark: may not fit"
    assert len(lines) < most
    assert max(map(len, lines)) <= columns
    for row in ("build engine", "prefill, 1 prompt"):  # no cell is folded, and none of a row is lost
        assert len([line for line in lines if line.startswith(row)]) == 1
    assert "85 s to 3 min" in shell.out
    assert "1,227 (798-1,657)" in shell.out


def test_a_refusal_is_readable_on_a_narrow_terminal(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert shell("plan", "jamba-1.5-large-bf16") == 4
    assert max(map(len, shell.err.splitlines())) <= 60
    assert " ".join(shell.err.split()).startswith("error[MODEL_UNSUPPORTED]: TensorRT-LLM in image")
    assert "→ no target of the catalogue holds it" in shell.err


@pytest.mark.parametrize("command", [("compare", "llama3-70b"), ("estimate", "--repo", "openai/gpt-oss-120b")])
def test_figures_are_readable_on_a_narrow_terminal(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert shell(*command) == 0
    assert max(map(len, shell.out.splitlines())) <= 60
