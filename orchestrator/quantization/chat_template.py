"""Finds a checkpoint's chat templates and renders a message with them, as transformers does.

A template is code by strangers: it runs in Jinja's sandbox, and its time and memory are limited.
"""

from __future__ import annotations

import json
import resource
import signal
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from orchestrator.errors import CheckFailedError, DependencyMissingError
from orchestrator.quantization.files import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import FrameType

    from jinja2 import Template
    from jinja2.runtime import Context
    from jinja2.sandbox import ImmutableSandboxedEnvironment

TOKENIZER_CONFIG = "tokenizer_config.json"
MESSAGE = "Hello"
"""What the user says."""
ANSWER = "Good day"
"""What the model says."""

_FILE = "chat_template.jinja"
_MORE = "additional_chat_templates"
_PROCESSOR = "chat_template.json"
_DEFAULT = "default"
_TOKENS_MAP = "special_tokens_map.json"
_HINT = "Take the template of the model that this one was made from."
_SECONDS = 10.0
"""Of the processor. Templates of large models take milliseconds."""
_MEMORY_BYTES = 1 << 30
_LARGEST_FACTOR = 1_000_000
_LONGEST = 1_000_000
"""Characters. The longest known prompts of templates have some thousands."""


class _OutOfTimeError(BaseException):
    """A template took too long. Jinja ignores an `Exception` while it compiles."""


def read_templates(folder: Path) -> dict[str, str]:
    """Return a checkpoint's chat templates by name; none if it has none.

    transformers prefers files to `tokenizer_config.json`. A processor's `chat_template.json` is the oldest form.

    Raises:
        CheckFailedError: They are not text, or a list whose entries are not names and templates.
        CheckpointError: A file is not JSON.
    """
    files = {path.stem: path for path in sorted((folder / _MORE).glob("*.jinja"))}
    if (folder / _FILE).is_file():
        files[_DEFAULT] = folder / _FILE
    if files:
        return {name: _text(path) for name, path in files.items()}
    for path in (folder / TOKENIZER_CONFIG, folder / _PROCESSOR):
        found = read_json(path).get("chat_template") if path.is_file() else None
        if found is not None:
            return _by_name(found, path)
    return {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        message = f"{path}: a chat template must be text in UTF-8: {error}"
        raise CheckFailedError(message) from None


def _by_name(found: object, path: Path) -> dict[str, str]:
    if isinstance(found, str):
        return {_DEFAULT: found}
    entries = found if isinstance(found, list) else []
    pairs = found.items() if isinstance(found, dict) else map(_name_and_template, entries)
    templates = {name: template for name, template in pairs if isinstance(name, str) and isinstance(template, str)}
    if not isinstance(found, list | dict) or len(templates) != len(found):
        what = "text, or a list of objects with name and template"
        message = f"{path}: chat_template: found {found!r:.80}, expected {what}"
        raise CheckFailedError(message)
    return templates


def _name_and_template(entry: object) -> tuple[object, object]:
    return (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)


def render(folder: Path, templates: Mapping[str, str], *, seconds: float = _SECONDS) -> str:
    """Render one message of a user with the default template; the others must compile.

    Args:
        folder: The checkpoint, for its special tokens.
        templates: The result of `read_templates`.
        seconds: Of the processor that it may take.

    Raises:
        CheckFailedError: A template does not compile or cannot be rendered, or loses the message.
        DependencyMissingError: Jinja is not installed here.
    """
    if _DEFAULT not in templates:
        names = ", ".join(sorted(templates))
        message = f"{folder}: found the chat templates {names:.200}, expected one with the name {_DEFAULT}"
        raise CheckFailedError(message, hint="Give the template for plain conversations the name default.")
    for name, template in templates.items():
        if not template.strip():
            message = f"{folder}: the chat template {name} is empty"
            raise CheckFailedError(message, hint=_HINT)
    environment = _environment()
    values = special_tokens(folder)
    with _limited(folder, seconds):
        compiled = {name: _compile(environment, template, f"{folder}: {name}") for name, template in templates.items()}
        return _rendered(compiled[_DEFAULT], values, folder)


def end_of_answer(folder: Path, templates: Mapping[str, str], *, seconds: float = _SECONDS) -> str:
    """Return what the default template puts behind an answer that ends a conversation.

    Args:
        folder: The checkpoint, for its special tokens.
        templates: The result of `read_templates`, which can be rendered.
        seconds: Of the processor that it may take.

    Returns:
        Empty if the template cannot render an answer, or leaves it out.

    Raises:
        CheckFailedError: It takes too long.
        DependencyMissingError: Jinja is not installed here.
    """
    messages = [{"role": "user", "content": MESSAGE}, {"role": "assistant", "content": ANSWER}]
    environment, values = _environment(), special_tokens(folder)
    with _limited(folder, seconds):
        try:
            text = _filled(_compile(environment, templates[_DEFAULT], f"{folder}"), values, messages, answer=False)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - code by strangers, which may know users alone
            return ""
    return text[:_LONGEST].rpartition(ANSWER)[2] if ANSWER in text[:_LONGEST] else ""


def special_tokens(folder: Path) -> dict[str, str]:
    """Return the special tokens that `tokenizer_config.json` names, such as `bos_token`; else the older file's."""
    found: dict[str, str] = {}
    for path in (folder / _TOKENS_MAP, folder / TOKENIZER_CONFIG):
        document = read_json(path) if path.is_file() else {}
        more = document.get("extra_special_tokens")
        for name, value in {**document, **(more if isinstance(more, dict) else {})}.items():
            token = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(token, str) and token:
                found[name] = token
    return found


def _compile(environment: ImmutableSandboxedEnvironment, template: str, where: str) -> Template:
    from jinja2 import TemplateSyntaxError  # noqa: PLC0415 - see `_environment`

    try:
        return environment.from_string(template)
    except TemplateSyntaxError as error:
        message = f"{where}: the chat template does not parse: line {error.lineno}: {error.message}"
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - code by strangers
        message = f"{where}: the chat template does not parse: {_words(error)}"
    raise CheckFailedError(message, hint=_HINT)


def _rendered(template: Template, values: Mapping[str, str], folder: Path) -> str:
    """Render a message as text, or as a list of parts if the template expects one."""
    fault = ""
    for content in (MESSAGE, [{"type": "text", "text": MESSAGE}]):
        try:
            text = _filled(template, values, [{"role": "user", "content": content}], answer=True)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - code by strangers
            fault = fault or f"cannot render a message: {_words(error)}"
            continue
        if MESSAGE in text and len(text) <= _LONGEST:
            return text
        fault = fault or (
            f"renders a message of {len(MESSAGE)} letters as {len(text)}"
            if len(text) > _LONGEST
            else f"renders the message {MESSAGE!r} as {text!a:.80}, which does not contain it"
        )
    message = f"{folder}: the chat template {fault}"
    raise CheckFailedError(message, hint=_HINT)


def _filled(
    template: Template,
    values: Mapping[str, str],
    messages: Sequence[Mapping[str, object]],
    *,
    answer: bool,
) -> str:
    """Render messages, with the beginning of an answer or without."""
    return str(template.render(messages=messages, tools=None, documents=None, add_generation_prompt=answer, **values))


def _words(error: Exception) -> str:
    return f"{error!s:.200}" or type(error).__name__


def _environment() -> ImmutableSandboxedEnvironment:
    """Return the environment of transformers (`utils/chat_template_utils.py`).

    Raises:
        DependencyMissingError: Jinja is not installed here.
    """
    try:
        from jinja2 import ext, nodes, parser, sandbox  # noqa: PLC0415 - images may lack it
    except ImportError as error:
        message = f"rendering a chat template needs jinja2: {error}"
        raise DependencyMissingError(message) from error

    class Generation(ext.Extension):
        """The block that marks an assistant's answer. It changes nothing that is rendered."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: parser.Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Environment(sandbox.ImmutableSandboxedEnvironment):
        """The sandbox, without operators that cannot be interrupted."""

        intercepted_binops = frozenset(("*", "**"))

        def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401 - values of templates
            sizes = [abs(side) if isinstance(side, int) else len(side) for side in (left, right) if _has_size(side)]
            if any(size > _LARGEST_FACTOR for size in sizes) or (operator == "**" and max(sizes, default=0) > 1000):  # noqa: PLR2004
                message = f"{operator} of values that large is not calculated here"
                raise OverflowError(message)
            return super().call_binop(context, operator, left, right)

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _has_size(value: object) -> bool:
    return isinstance(value, int | str | list | tuple)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise ValueError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005 - as transformers does


@contextmanager
def _limited(folder: Path, seconds: float) -> Iterator[None]:
    """Limit the time of the processor and the memory of a block. It needs the main thread.

    Raises:
        CheckFailedError: The block exceeds a limit.
    """

    def out_of_time(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a signal handler
        raise _OutOfTimeError

    before = signal.signal(signal.SIGVTALRM, out_of_time)
    memory = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (_address_space(memory[0]), memory[1]))
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds, seconds)
        yield
    except (_OutOfTimeError, MemoryError) as error:
        limit = f"{_MEMORY_BYTES >> 20} MiB of memory" if isinstance(error, MemoryError) else f"{seconds:g} seconds"
        message = f"{folder}: the chat template needs more than {limit} for one message"
        raise CheckFailedError(message, hint=_HINT) from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, memory)
        signal.signal(signal.SIGVTALRM, before)


def _address_space(present: int) -> int:
    """Return the largest address space that a template may need: what this process has, and some more."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - no path of a model
            pages = int(file.read().split()[0])
    except OSError:  # not Linux
        return present
    wanted = pages * resource.getpagesize() + _MEMORY_BYTES
    return wanted if present == resource.RLIM_INFINITY else min(present, wanted)
