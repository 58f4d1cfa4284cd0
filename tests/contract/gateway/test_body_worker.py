"""Large bodies are checked in a process of its own, one at a time."""

from __future__ import annotations

import asyncio
import json

import pytest

from orchestrator.bundle.gateway.bodies import BodyRules
from orchestrator.bundle.gateway.body_worker import LARGE, BodyWorker
from orchestrator.bundle.gateway.refusals import RefusedError

CHAT = "/v1/chat/completions"
RULES = BodyRules(("meta/llama", "llama"), "model", chat_templates=False, remote_media=False, structured=True)


def _large(name: str) -> bytes:
    return json.dumps({"model": name, "messages": [{"role": "user", "content": "x" * LARGE}]}).encode()


def test_large_bodies_are_checked_in_another_process_which_ends_after_them() -> None:
    async def check() -> tuple[list[bytes | BaseException], int, int]:
        worker = BodyWorker(16 << 20)
        bodies = [_large("llama"), _large("gpt"), b"{" * LARGE, _large("meta/llama")]
        answers = await asyncio.gather(*(worker.prepare(CHAT, body, RULES) for body in bodies), return_exceptions=True)
        for_many = worker.started
        answers.append(await worker.prepare(CHAT, b'{"model": "llama"}', RULES))
        for_a_small_one = worker.started
        answers.append(await worker.prepare(CHAT, _large("llama"), RULES))
        return answers, for_many, worker.started - for_a_small_one

    answers, for_many, for_another = asyncio.run(check())
    assert (for_many, for_another) == (1, 1)
    first, unknown, broken, last, small, again = answers
    assert isinstance(first, bytes)
    assert json.loads(first)["model"] == "model"
    assert first == last == again
    assert small == b'{"model": "model"}'
    assert isinstance(unknown, RefusedError)
    assert (unknown.status, unknown.code) == (404, "model_not_found")
    assert isinstance(broken, RefusedError)
    assert broken.code == "invalid_json"


def test_a_process_that_dies_refuses_one_body_and_not_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> object:
        worker = BodyWorker(16 << 20)
        with monkeypatch.context() as patched:
            patched.setattr("sys.executable", "/bin/false")
            with pytest.raises(RefusedError) as raised:
                await worker.prepare(CHAT, _large("llama"), RULES)
        assert (raised.value.status, raised.value.code) == (503, "body_not_checked")
        return json.loads(await worker.prepare(CHAT, _large("llama"), RULES))["model"]

    assert asyncio.run(check()) == "model"


def test_a_client_that_leaves_does_not_mix_up_answers() -> None:
    async def check() -> object:
        worker = BodyWorker(16 << 20)
        leaving = asyncio.create_task(worker.prepare(CHAT, _large("gpt"), RULES))
        staying = asyncio.create_task(worker.prepare(CHAT, _large("llama"), RULES))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        return json.loads(await staying)["model"]

    assert asyncio.run(check()) == "model"


def test_a_body_that_takes_too_much_memory_is_refused_and_the_next_is_not() -> None:
    async def check() -> tuple[RefusedError, object, int]:
        worker = BodyWorker(1 << 20)
        body = b'{"model": "llama", "documents": [' + b"[]," * (2 << 20) + b"1]}"
        first = asyncio.create_task(worker.prepare(CHAT, body, RULES))
        next_one = asyncio.create_task(worker.prepare(CHAT, _large("llama"), RULES))
        with pytest.raises(RefusedError) as raised:
            await first
        return raised.value, json.loads(await next_one)["model"], worker.started

    refused, model, started = asyncio.run(check())
    assert (refused.status, refused.code) == (413, "body_too_complex")
    assert (model, started) == ("model", 1)


@pytest.mark.parametrize("text", ["x", "€", "\N{GRINNING FACE}x"])
def test_text_as_large_as_a_body_may_be_is_not_refused_for_its_memory(text: str) -> None:
    """Python keeps a text with one emoji as four bytes for each character."""
    size = 1 << 23
    image = {"type": "image_url", "image_url": {"url": "data:" + "A" * (size // 2)}}
    words = {"type": "text", "text": (text * size)[: size // 2 // len(text.encode())]}
    body = json.dumps({"model": "llama", "messages": [{"content": [image, words]}]}, ensure_ascii=False).encode()

    async def check() -> bytes:
        worker = BodyWorker(size)
        return await worker.prepare(CHAT, body, RULES)

    assert json.loads(asyncio.run(check()))["model"] == "model"
