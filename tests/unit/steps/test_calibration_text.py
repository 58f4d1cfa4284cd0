from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.errors import CalibrationTextError
from orchestrator.payloads import calibration


def written(folder: Path, name: str, text: str, samples: int) -> list[str]:
    source, output = folder / name, folder / "out" / "train.jsonl"
    source.write_text(text, encoding="utf-8")
    calibration.main(["--source", str(source), "--samples", str(samples), "--output", str(output)])
    return [json.loads(line)["text"] for line in output.read_text(encoding="utf-8").splitlines()]


def test_json_lines_are_taken_from_the_start(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": f"Ä {number}", "other": 1}) + "\n" for number in range(5))
    assert written(tmp_path, "mine.jsonl", lines, 2) == ["Ä 0", "Ä 1"]


def test_samples_of_plain_text_are_separated_by_empty_lines(tmp_path: Path) -> None:
    assert written(tmp_path, "mine.txt", "\none\nline\n\n\n two \n", 2) == ["one\nline", "two"]


def test_samples_without_text_do_not_count(tmp_path: Path) -> None:
    assert written(tmp_path, "mine.jsonl", '{"text": "  "}\n\n{"text": "b"}\n', 1) == ["b"]


def test_text_that_calibration_took_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("one\n\ntwo\n\nthree\n\nfour\n", encoding="utf-8")
    taken, kept = tmp_path / "taken.jsonl", tmp_path / "kept.jsonl"
    options = ["--source", str(tmp_path / "mine.txt"), "--samples", "2"]
    calibration.main([*options, "--output", str(taken)])
    calibration.main([*options, "--without", str(taken), "--output", str(kept)])
    assert [json.loads(line)["text"] for line in kept.read_text().splitlines()] == ["three", "four"]
    with pytest.raises(CalibrationTextError, match="3 samples are needed, found 2 besides those"):
        calibration.main([*options[:-1], "3", "--without", str(taken), "--output", str(kept)])


_LONG = " ".join(f"word{number}" for number in range(2000))
"""One paragraph of some 17,000 characters."""


def test_plain_text_of_too_few_samples_is_cut_at_the_ends_of_words(tmp_path: Path) -> None:
    text = f"{_LONG}\n\nA last line."
    found = written(tmp_path, "mine.txt", text, 8)
    assert " ".join(found) == _LONG[: len(" ".join(found))]
    assert all(1900 < len(piece) <= 2000 for piece in found)
    assert found == written(tmp_path, "mine.txt", text, 10)[:8]
    assert written(tmp_path, "mine.txt", text, 10)[-1] == "A last line."
    assert written(tmp_path, "mine.txt", text, 2) == [_LONG, "A last line."]
    with pytest.raises(CalibrationTextError, match="99 samples are needed, found 10"):
        written(tmp_path, "mine.txt", text, 99)


def test_lines_within_a_piece_stay_as_they_are(tmp_path: Path) -> None:
    text = "\n".join(f"    a line of {number}\tcolumns" for number in range(200))
    found = written(tmp_path, "mine.txt", text, 2)
    words = "\n".join(found).split()
    assert words == text.split()[: len(words)]
    assert "\tcolumns\n    a line" in found[0]


@pytest.mark.parametrize(("calibration_wants", "held_out_wants"), [(3, 3), (1, 3), (4, 1)])
def test_pieces_and_what_they_are_pieces_of_do_not_meet(
    tmp_path: Path, calibration_wants: int, held_out_wants: int
) -> None:
    paragraphs = ["\n".join(f"{name} {number} of a long text" for number in range(120)) for name in ("a", "b")]
    (tmp_path / "mine.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
    taken, kept = tmp_path / "taken.jsonl", tmp_path / "kept.jsonl"
    options = ["--source", str(tmp_path / "mine.txt"), "--samples"]
    calibration.main([*options, str(calibration_wants), "--output", str(taken)])
    with suppress(CalibrationTextError):
        calibration.main([*options, str(held_out_wants), "--without", str(taken), "--output", str(kept)])
    lines = [
        {line for row in file.read_text().splitlines() for line in json.loads(row)["text"].splitlines()}
        for file in (taken, kept)
        if file.exists()
    ]
    whole = [{line for line in one if line.endswith("long text")} for one in lines]
    assert len(whole) == 1 or not whole[0] & whole[1]


def test_too_few_samples_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(CalibrationTextError, match="3 samples are needed, found 1"):
        written(tmp_path, "mine.txt", "one", 3)


@pytest.mark.parametrize("line", ["{", "[]", '{"other": "x"}', '{"text": 3}'])
def test_a_line_without_text_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(CalibrationTextError, match=r"mine\.jsonl:2"):
        written(tmp_path, "mine.jsonl", f'{{"text": "a"}}\n{line}\n', 2)


def test_a_file_of_another_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CalibrationTextError, match="expected a file that ends in"):
        written(tmp_path, "mine.csv", "a,b", 1)


def conversations(folder: Path, name: str, text: str, samples: int) -> list[list[dict[str, str]]]:
    source, output = folder / name, folder / "out" / "train.jsonl"
    source.write_text(text, encoding="utf-8")
    options = ["--conversations", "--source", str(source), "--samples", str(samples), "--output", str(output)]
    calibration.main(options)
    return [json.loads(line)["messages"] for line in output.read_text(encoding="utf-8").splitlines()]


_TURNS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]


def test_conversations_are_kept_and_text_is_what_a_user_says(tmp_path: Path) -> None:
    lines = json.dumps({"messages": _TURNS, "id": 3}) + "\n" + json.dumps({"text": "Hello"}) + "\n"
    assert conversations(tmp_path, "mine.jsonl", lines, 2) == [_TURNS, [{"role": "user", "content": "Hello"}]]
    assert conversations(tmp_path, "mine.txt", "one\n\ntwo\n", 1) == [[{"role": "user", "content": "one"}]]


def test_a_conversation_where_text_is_wanted_names_the_key_of_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(CalibrationTextError, match=r"mine.jsonl:1: expected a JSON object with `text`") as caught:
        written(tmp_path, "mine.jsonl", json.dumps({"messages": _TURNS}), 1)
    assert "chat_template: true" in caught.value.hint


@pytest.mark.parametrize(
    "messages", [[], "Hello", [{"role": "user"}], [{"role": "user", "content": ["parts"]}], [{"content": "a"}], None]
)
def test_what_is_no_conversation_is_refused_with_its_line(tmp_path: Path, messages: object) -> None:
    with pytest.raises(CalibrationTextError, match=r"mine.jsonl:2: `messages`: expected a list"):
        conversations(tmp_path, "mine.jsonl", '{"text": "a"}\n' + json.dumps({"messages": messages}), 2)


def test_conversations_that_calibration_took_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "taken.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "one"}]}))
    (tmp_path / "mine.txt").write_text("one\n\ntwo\n")
    kept = tmp_path / "kept.jsonl"
    options = ["--source", str(tmp_path / "mine.txt"), "--samples", "1", "--without", str(tmp_path / "taken.jsonl")]
    calibration.main([*options, "--output", str(kept)])
    assert json.loads(kept.read_text()) == {"text": "two"}
