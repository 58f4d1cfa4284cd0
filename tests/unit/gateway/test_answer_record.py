"""What an answer shows of its tokens and its speed."""

from __future__ import annotations

import json

import pytest

from orchestrator.bundle.gateway.answer_record import AnswerRecord

CHAT = {"choices": [{"message": {"content": '"completion_tokens": 99'}}],
        "usage": {"prompt_tokens": 8, "total_tokens": 11, "completion_tokens": 3}}  # fmt: skip
RESPONSE = {"output": [], "usage": {"input_tokens": 5, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 7, "output_tokens_details": {"reasoning_tokens": 0}}, "tools": []}  # fmt: skip


def _record(*parts: bytes, streamed: bool) -> AnswerRecord:
    record = AnswerRecord(streamed=streamed)
    for part in parts:
        record.add(part)
    return record


@pytest.mark.parametrize(("document", "read", "written"), [(CHAT, 8, 3), (RESPONSE, 5, 7)])
def test_usage_tells_the_tokens_wherever_it_is_cut(document: object, read: int, written: int) -> None:
    body = json.dumps(document).encode()
    for cut in range(len(body)):
        record = _record(body[:cut], body[cut:], streamed=False)
        assert (record.read_tokens, record.written_tokens) == (read, written)
        assert record.seconds_per_token is None


def test_a_stream_without_usage_has_a_token_for_each_event() -> None:
    events = [b"data: {}\n\n"] * 6 + [b"data: [DONE]\n\n"]
    record = _record(*events, streamed=True)
    assert (record.read_tokens, record.written_tokens) == (0, 5)
    assert record.seconds_per_token is not None
    assert record.first_byte is not None
    assert record.seconds_per_token == pytest.approx((record.last_byte - record.first_byte) / 4)


def test_the_usage_of_a_stream_counts_more_than_its_events() -> None:
    usage = b'data: {"usage": {"prompt_tokens": 8, "completion_tokens": 40}}\n\n'
    record = _record(b"data: {}\n\n", usage, b"data: [DONE]\n\n", streamed=True)
    assert (record.read_tokens, record.written_tokens) == (8, 40)


def test_nothing_is_no_token() -> None:
    assert _record(streamed=True).seconds_per_token is None
    assert _record(b"", streamed=True).written_tokens == 0
