"""Runs a model's own forward once for each batch, stopped at each layer.

Some layers hand on more than hidden states: keys and values that later layers read, indices of tokens, or what the
model changes between two layers. Then the model's own code must run between its layers. The forward of each batch is a
thread that stops at a layer, until the caller has run that layer for it. Only one of the threads runs at a time.
The threads keep the hidden states, so these must fit into memory, and a run that was interrupted starts again.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field


class StoppedError(Exception):
    """Ends a forward whose last layer was reached."""


@dataclass(eq=False)
class Forward:
    """The forward of one batch, in a thread."""

    work: Callable[[], None]
    """Calls the model."""
    _arrived: queue.SimpleQueue[BaseException | None] = field(default_factory=queue.SimpleQueue)
    _results: queue.SimpleQueue[tuple[object] | None] = field(default_factory=queue.SimpleQueue)
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        """Prepare. It ends with the process."""
        self._thread = threading.Thread(target=self._run, name="forward", daemon=True)

    def start(self) -> None:
        """Run to the first layer. Errors of the model are raised here, as in `hand_on`."""
        self._thread.start()
        self._wait()

    def hand_on(self, result: object) -> None:
        """Give the model a layer's result, and run to the next layer, or to the end."""
        self._results.put((result,))
        self._wait()

    def stop(self) -> None:
        """End the thread."""
        self._results.put(None)
        self._thread.join()

    def wait_for_result(self) -> object:
        """Stop at a layer. It is called in the thread of this forward.

        Raises:
            StoppedError: The forward has to end.
        """
        self._arrived.put(None)
        result = self._results.get()
        if result is None:
            raise StoppedError
        return result[0]

    @property
    def is_current(self) -> bool:
        """Tell whether the caller runs in the thread of this forward."""
        return threading.current_thread() is self._thread

    def _wait(self) -> None:
        error = self._arrived.get()
        if error is not None:
            raise error

    def _run(self) -> None:
        try:
            self.work()
            self._arrived.put(None)
        except StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self._arrived.put(error)
