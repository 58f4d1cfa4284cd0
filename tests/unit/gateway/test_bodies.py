"""Which bodies reach trtllm-serve, and with which name of the model."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from orchestrator.bundle.gateway.bodies import BodyRules, prepare_body
from orchestrator.bundle.gateway.body_worker import answer_all
from orchestrator.bundle.gateway.refusals import RefusedError

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
RULES = BodyRules(("meta/llama", "llama"), "model", chat_templates=False, remote_media=False, structured=True)
PICTURE = "data:image/png;base64,iVBORw0KGgo="


def _refused(document: object, *, path: str = CHAT, rules: BodyRules = RULES) -> tuple[int, str | None, str]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(RefusedError) as raised:
        prepare_body(path, body, rules)
    return raised.value.status, raised.value.code, raised.value.message


def _accepted(document: dict[str, Any], *, path: str = CHAT, rules: BodyRules = RULES) -> None:
    assert json.loads(prepare_body(path, json.dumps(document).encode(), rules)) == document


def _message(*parts: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def test_a_request_names_what_trtllm_serve_knows() -> None:
    for asked in RULES.served:
        body = json.dumps({"model": asked, "n": 1}).encode()
        assert json.loads(prepare_body(CHAT, body, RULES)) == {"model": "model", "n": 1}


def test_a_request_is_passed_as_it_came_where_the_names_agree() -> None:
    body = b'{ "model":"llama",  "seed": 1e400 }'
    assert prepare_body(CHAT, body, replace(RULES, served=("llama",), model="llama")) is body


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"[" * 100_000, b"\xff\xfe", b"1" * 10_000])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    assert _refused(body)[:2] == (400, "invalid_json")


@pytest.mark.parametrize("model", ["gpt-4", "model", "", 5, ["llama"], {"a": 1}, True])
def test_another_model_does_not_exist(model: object) -> None:
    assert _refused({"model": model})[:2] == (404, "model_not_found")


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES])
@pytest.mark.parametrize(
    "field",
    ["disaggregated_params", "lora_request", "prompt_token_ids", "cache_salt", "mm_processor_kwargs", "guided_json",
     "return_context_logits", "conversation_params", "agent_hierarchy", "injected_chat_template_kwargs", "priority",
     "media_io_kwargs", ""],
)  # fmt: skip
def test_fields_that_are_not_for_clients_are_refused_by_name(path: str, field: str) -> None:
    status, code, message = _refused({field: {}}, path=path)
    assert (status, code) == (400, "unknown_field")
    assert message == f"{path} does not accept {field!r}."


def test_many_unknown_fields_make_a_short_message() -> None:
    assert len(_refused({f"{number}{'x' * 1000}": 1 for number in range(1000)})[2]) < 500


def test_a_template_is_a_program_that_must_be_allowed() -> None:
    document = {"messages": [], "chat_template": "{{ messages }}"}
    assert _refused(document)[:2] == (400, "chat_template_off")
    _accepted(document, rules=replace(RULES, chat_templates=True))
    _accepted({"messages": [], "chat_template": None})


def test_a_template_among_the_arguments_of_the_template_is_a_template_too() -> None:
    document = {"messages": [], "chat_template_kwargs": {"chat_template": "{{ messages }}"}}
    assert _refused(document)[:2] == (400, "chat_template_off")
    _accepted(document, rules=replace(RULES, chat_templates=True))
    _accepted({"messages": [], "chat_template_kwargs": {"enable_thinking": False}})


@pytest.mark.parametrize(
    "address",
    ["http://10.0.0.1/x", "https://example.com/x.png", "file:///etc/passwd", "/etc/passwd", "FILE:///x", " data:,x", "",
     None, 5, ["data:,x"]],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["image_url", "video_url", "audio_url"])
def test_media_are_in_the_request_unless_other_addresses_are_allowed(kind: str, address: object) -> None:
    for written in (address, {"url": address}):
        document = _message({"type": "text", "text": "What?"}, {"type": kind, kind: written})
        assert _refused(document)[:2] == (400, "remote_media_off")
        _accepted(document, rules=replace(RULES, remote_media=True))
    _accepted(_message({"type": kind, kind: {"url": PICTURE}}))


@pytest.mark.parametrize("wrong", ["x", [["chat_template", "{{ messages }}"]], 5])
def test_arguments_of_the_template_are_an_object(wrong: object) -> None:
    assert _refused({"messages": [], "chat_template_kwargs": wrong})[:2] == (400, "unknown_field")
    _accepted({"messages": [], "chat_template_kwargs": None})


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_media_in_lists_of_lists_are_refused(path: str) -> None:
    hidden = [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/x"}}]
    field = "messages" if path == CHAT else "input"
    for entries in ([[{"role": "user", "content": hidden}]], [{"role": "user", "content": [hidden]}]):
        assert _refused({field: entries}, path=path)[:2] == (400, "unknown_content")


@pytest.mark.parametrize(
    "entry",
    [
        {"role": "user", "content": [{"type": "input_image", "image_url": "http://10.0.0.1/"}]},
        {"type": "function_call_output", "output": [{"type": "input_image", "image_url": "http://10.0.0.1/"}]},
        {"type": "input_image", "image_url": "http://10.0.0.1/"},
        {"role": "user", "content": {"type": "input_image", "image_url": "http://10.0.0.1/"}},
    ],
)
@pytest.mark.parametrize("field", ["input", "instructions"])
def test_media_of_responses_are_found_wherever_they_are(entry: dict[str, Any], field: str) -> None:
    for written in ([entry], entry):
        assert _refused({field: written}, path=RESPONSES)[:2] == (400, "remote_media_off")


def test_a_picture_of_a_screen_is_no_way_around_the_list() -> None:
    output = {"type": "computer_screenshot", "image_url": "http://10.0.0.1/"}
    document = {"input": [{"type": "computer_call_output", "call_id": "1", "output": output}]}
    assert _refused(document, path=RESPONSES)[:2] == (400, "unknown_content")


@pytest.mark.parametrize("kind", ["json_schema", "json_object", "regex", ["json_schema"], {"a": 1}, 5])
def test_a_format_that_is_not_forced_is_refused_whatever_it_is(kind: object) -> None:
    off = replace(RULES, structured=False)
    for path, document in (
        (CHAT, {"messages": [], "response_format": {"type": kind}}),
        (RESPONSES, {"input": "x", "text": {"format": {"type": kind}}}),
    ):
        assert _refused(document, path=path, rules=off)[:2] == (400, "structured_output_off")
        _accepted(document, path=path)
    for kind_of_prose in ("text", None):
        _accepted({"messages": [], "response_format": {"type": kind_of_prose}}, rules=off)


def test_a_format_that_vllm_ignores_in_responses_is_refused() -> None:
    vllm = replace(RULES, runtime="vllm")
    document = {"input": "x", "text": {"format": {"type": "json_object"}}}
    assert _refused(document, path=RESPONSES, rules=vllm)[:2] == (400, "structured_output_off")
    _accepted({"messages": [], "response_format": {"type": "json_object"}}, rules=vllm)


@pytest.mark.parametrize("kind", ["image_embeds", "file", "input_file", None, 5, ["text"]])
def test_content_of_another_type_is_refused(kind: object) -> None:
    assert _refused(_message({"type": kind, "text": "x"}))[:2] == (400, "unknown_content")


@pytest.mark.parametrize(
    "document",
    [
        {"messages": "x"},
        {"messages": [5, None, {"content": None}, {"content": "x"}, {"content": ["x", 5]}]},
        {"input": "x"},
    ],
)
def test_what_trtllm_serve_refuses_itself_is_left_to_it(document: dict[str, Any]) -> None:
    _accepted(document, path=CHAT if "messages" in document else RESPONSES)


@pytest.mark.parametrize(
    ("path", "document"),
    [
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}),
        (COMPLETIONS, {"response_format": {"type": "json_object"}}),
        (RESPONSES, {"text": {"format": {"type": "json_schema", "schema": {}}}}),
    ],
)
def test_a_format_that_nothing_forces_is_refused_instead_of_ignored(path: str, document: dict[str, Any]) -> None:
    unguided = replace(RULES, structured=False)
    status, code, message = _refused(document, path=path, rules=unguided)
    assert (status, code) == (400, "structured_output_off")
    assert "NIM_GUIDED_DECODING_BACKEND" in message
    _accepted(document, path=path)
    _accepted({"response_format": {"type": "text"}}, rules=unguided)


def test_the_process_answers_until_its_input_ends() -> None:
    def frame(body: bytes) -> bytes:
        head = {"path": CHAT, "size": len(body), "rules": asdict(replace(RULES, served=("model",)))}
        return json.dumps(head).encode() + b"\n" + body

    target = io.BytesIO()
    answer_all(io.BytesIO(frame(b'{"model": "model"}') + frame(b"{}") + frame(b'{"model": "x"}')), target)
    first, second, third = map(json.loads, target.getvalue().splitlines())
    assert (first, second, third["refused"]["status"]) == ({}, {}, 404)
