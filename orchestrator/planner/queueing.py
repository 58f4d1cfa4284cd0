"""Predicts what users of one server see: the wait for the first token, the time of each token, and the sum of all.

A closed loop of N users: each sends the next prompt when its answer is complete. The server reads one prompt at a time
and writes all answers in steps. With `p` the time to read a prompt, `A` the tokens of an answer and `s` the time of a
step, a request alone takes p + A s, of which its prompt takes the share u = p / (p + A s).

- n = N (1 - u) requests decode on average, which decides `s` (utilization law: Denning and Buzen, 1978).
- A prompt waits for those of the N - 1 others that are read at that time: each with chance u (arrival theorem: Reiser
  and Lavenberg, 1980). Waits are exponential, as in a queue with one server (Kleinrock, Queueing Systems, 1975).
- It waits for the step that runs as well, of which any part may be left.
- An answer is interrupted by the prompts that come while it is written: of N - 1 others, each with chance 1 - u.
- First to last token of all, each of the N - 1 others sends one prompt: N A tokens in A s + (N - 1) p seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property

from orchestrator.planner.constants import Constants, constants_in_use
from orchestrator.planner.serving import Serving
from orchestrator.planner.step_time import Load, load_of, prefill_terms, token_seconds, total
from orchestrator.values import frozen

_ROUNDS = 16
"""Rounds to find the running requests. Each halves the distance at least."""
_HIGH = 0.95
"""The high percentile."""
_DEVIATIONS = 1.645
"""Standard deviations of a normal distribution up to the high percentile."""
_MOST_USERS = 256
"""The sweep ends here."""


@frozen
class Percentiles:
    """Seconds."""

    p50: float
    p95: float


@frozen
class Targets:
    """The longest times that a user accepts, in seconds, at the 95th percentile; None: any."""

    first_token: float | None = None
    per_token: float | None = None

    @property
    def given(self) -> bool:
        """Whether there is one at all."""
        return self != Targets()


@frozen
class Queue:
    """A server with a number of users."""

    users: int
    answer: int
    """Tokens of each answer."""
    prompt_seconds: float
    """Time to read one prompt, alone."""
    step_seconds: float
    """Time until each running request has one more token, with no prompt in between."""
    running: float
    """Requests that decode on average."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all answers, from the first token to the last."""
        return self.users / (self.step_seconds + (self.users - 1) * self.prompt_seconds / self.answer)

    @property
    def tokens_per_second_of_each(self) -> float:
        """The share of one user."""
        return self.tokens_per_second / self.users

    @property
    def requests_per_second(self) -> float:
        """Complete answers, waits included."""
        return self.users / (self.users * self.prompt_seconds + self.answer * self.step_seconds)

    @cached_property
    def first_token(self) -> Percentiles:
        """Time from a request to its first token."""
        return Percentiles(self.prompt_seconds + self._wait(0.5), self.prompt_seconds + self._wait(_HIGH))

    @cached_property
    def per_token(self) -> Percentiles:
        """Mean time between two tokens of one answer."""
        others, share = self.users - 1, self._prompt_share
        mean = others * (1 - share)
        high = min(mean + _DEVIATIONS * math.sqrt(mean * share), others)
        each = self.prompt_seconds / self.answer
        return Percentiles(self.step_seconds + mean * each, self.step_seconds + high * each)

    def meets(self, targets: Targets) -> bool:
        """Tell whether 95 of 100 requests are within the targets."""
        first, each = targets.first_token, targets.per_token
        return (first is None or self.first_token.p95 <= first) and (each is None or self.per_token.p95 <= each)

    def _wait(self, percentile: float) -> float:
        """Return the wait for the running step and for the prompts of others."""
        others = self.users - 1
        if not others:
            return 0.0
        expected = others * self._prompt_share
        chance = min(expected, 1.0)
        if chance <= 1 - percentile:
            return percentile * self.step_seconds
        waits = expected / chance * math.log(chance / (1 - percentile))
        return percentile * self.step_seconds + min(waits, others) * self.prompt_seconds

    @property
    def _prompt_share(self) -> float:
        return self.prompt_seconds / (self.prompt_seconds + self.answer * self.step_seconds)


def queue_of(load: Load, users: int, answer: int) -> Queue:
    """Find the requests that decode on average, and the times that follow.

    Args:
        load: The server, with the prompt and the mean context of its requests; its batch does not count.
        users: Each sends its next request when it has its answer.
        answer: Tokens of each answer.
    """
    prompt = total(prefill_terms(load, load.prompt), load.runtime)
    running = 1.0
    for _ in range(_ROUNDS):
        step = token_seconds(replace(load, batch=running))
        running = max(1.0, users * answer * step / (prompt + answer * step))
    return Queue(users, answer, prompt, token_seconds(replace(load, batch=running)), running)


def queue_at(serving: Serving, constants: Constants | None = None) -> Queue | None:
    """Return the queue of a server with its requests as users; None if its answers have no length."""
    known = constants or constants_in_use()
    return queue_of(load_of(serving, known), serving.batch, serving.output_tokens) if serving.output_tokens else None


def at_rate(serving: Serving, rate: float, most: int | None = None) -> Serving:
    """Return the server with as many users as keep `rate` requests per second in it (Little, 1961).

    If it cannot serve the rate, it has as many users as its memory allows, or `most`, and answers fewer requests.
    """
    load, last = load_of(serving), max(1, min(serving.max_batch, most or serving.max_batch))
    users = _least(last, lambda users: queue_of(load, users, serving.output_tokens).requests_per_second >= rate)
    return replace(serving, batch=users, rate=rate)


def limits_of_rate(serving: Serving) -> Iterator[str]:
    """Describe what arrives and is not served in time."""
    queue = queue_at(serving) if serving.rate is not None and serving.target.gpu else None
    if serving.rate is not None and queue and queue.requests_per_second < serving.rate:
        served = queue.requests_per_second
        yield f"{serving.rate:.3g} requests/s arrive, and it serves {served:.3g} at most: {serving.batch:,} at once"


def users_within(serving: Serving, targets: Targets, most: int) -> int:
    """Return the most users, up to `most`, whose requests are within targets; 0 if not one is."""
    load = load_of(serving)
    missed = _least(most + 1, lambda users: not queue_of(load, users, serving.output_tokens).meets(targets))
    return missed - 1


def sweep(serving: Serving, most: int) -> tuple[Queue, ...]:
    """Return the queue for 1, 2, 4, … users, as many as memory allows, at most `most`."""
    load, last = load_of(serving), min(most, _MOST_USERS)
    powers = [2**power for power in range(last.bit_length()) if 2**power < last]
    return tuple(queue_of(load, users, serving.output_tokens) for users in (*powers, *([last] if last else [])))


def knee(queues: tuple[Queue, ...]) -> Queue:
    """Return the queue from which on more users cost more time than they bring tokens.

    That is where throughput over response time is largest (Kleinrock, Power and deterministic rules of thumb, 1979).
    """
    return max(queues, key=lambda queue: queue.requests_per_second**2 / queue.users)


def _least(most: int, holds: Callable[[int], bool]) -> int:
    """Find the least number from 1 for which something holds, if it holds for all larger ones; else `most`."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
