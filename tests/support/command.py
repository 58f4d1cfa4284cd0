"""One small command with many behaviours: run as a script by the real executors, called by the fake one.

`python3 command.py BEHAVIOUR ARGUMENT…`; it sees its world through `World` alone, so that both run the same code.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class World:
    """What a command sees."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    output: Path
    write: Callable[[bytes], object]


def write_files(world: World) -> int:
    """Write each `name=text` into the output folder."""
    for argument in world.arguments:
        name, _, text = argument.partition("=")
        (world.output / name).write_text(text)
    return 0


def end_with(world: World) -> int:
    return int(world.arguments[0])


def count(world: World) -> int:
    for number in range(int(world.arguments[0])):
        world.write(f"line {number}\n".encode())
    return 0


def report_progress(world: World) -> int:
    for done in range(1, 4):
        world.write(
            b"@orchestrator "
            + json.dumps({"event": "progress", "done": done, "total": 3, "unit": "layers", "note": "ü"}).encode()
            + b"\n"
        )
    world.write(b'@orchestrator {"event": "failure", "code": "CHECK_FAILED", "message": "no", "hint": "yes"}\n')
    return 7


def write_to(world: World) -> int:
    """Try to write a file at a path of somebody else."""
    try:
        Path(world.arguments[0]).write_text("changed")
    except OSError as error:
        world.write(f"refused: {error.strerror}\n".encode())
        return 30
    return 0


def read(world: World) -> int:
    world.write(Path(world.arguments[0]).read_bytes())
    return 0


def show_arguments(world: World) -> int:
    (world.output / "arguments.json").write_text(json.dumps(list(world.arguments)))
    return 0


def show_environment(world: World) -> int:
    (world.output / "environment.json").write_text(json.dumps(dict(world.environment)))
    return 0


def write_binary(world: World) -> int:
    world.write(bytes(range(256)) * 4 + b"\nafter\n")
    return 0


def write_long_line(world: World) -> int:
    world.write(b"x" * int(world.arguments[0]) + b"\nafter\n")
    return 0


def draw_bar(world: World) -> int:
    world.write(b"10%\r20%\r100%\r\nafter")
    return 0


def tell_secret(world: World) -> int:
    """Write the secret where it must not be seen: on standard output."""
    name = world.arguments[0]
    path = world.environment.get(f"{name}_PATH")
    secret = Path(path).read_text() if path else world.environment[name]
    world.write(f"the secret is {secret[:5]}".encode())
    world.write(f"{secret[5:]}, and it has {len(secret)} letters\n".encode())
    return 0


def call_out(world: World) -> int:
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=2).close()  # TEST-NET-1
    except OSError as error:
        world.write(f"{os.strerror(error.errno or 0)}\n".encode())
    world.write(f"interfaces: {' '.join(sorted(name for _, name in socket.if_nameindex()))}\n".encode())
    return 0


def be_killed(world: World) -> int:
    world.write(b"about to die\n")
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def fault(_world: World) -> int:
    """End as a program does that reads memory which is not its own; without a core."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def wait(world: World) -> int:
    """Wait for a file in the output folder, or for SIGTERM; say so."""

    def leave(_number: int, _frame: object) -> None:
        world.write(b"asked to stop\n")
        sys.exit(3)

    signal.signal(signal.SIGTERM, leave)
    with (world.output / "starts").open("a") as stream:
        stream.write("start\n")
    world.write(b"waiting\n")
    while not (world.output / "go").exists():
        time.sleep(0.05)
    world.write(b"going on\n")
    (world.output / "done").write_text("done")
    return int(world.arguments[0]) if world.arguments else 0


def count_start(world: World) -> int:
    """Leave a trace of having run, and take a while."""
    with (world.output / "starts").open("a") as stream:
        stream.write("start\n")
    time.sleep(2)
    return 0


def refuse_to_stop(world: World) -> int:
    """Leave a file when asked to stop, and go on."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: (world.output / "asked").touch())
    world.write(b"waiting\n")
    time.sleep(600)
    return 0


def tick(world: World) -> int:
    """Write a line every tenth of a second."""
    for number in range(int(world.arguments[0])):
        world.write(f"tick {number}\n".encode())
        time.sleep(0.1)
    return int(world.arguments[1])


def flood(world: World) -> int:
    """Write so many megabytes of lines as fast as they are taken, then why it gives up."""
    lines = b"".join(b"line %06d of many%s\n" % (n, b", and more" * 40) for n in range(2346))
    for _ in range(int(world.arguments[0]) * 1_000_000 // len(lines)):
        world.write(lines)
    world.write(b'@orchestrator {"event": "failure", "code": "CHECK_FAILED", "message": "no", "hint": "yes"}\n')
    return 7


def eat(world: World) -> int:
    """Take memory until the kernel objects, once told to."""
    status = wait(world)
    eaten = [b"x" * (1 << 20) for _ in range(1024)]
    world.write(f"{len(eaten)} MiB and still alive\n".encode())
    return status


BEHAVIOURS: dict[str, Callable[[World], int]] = {
    behaviour.__name__: behaviour
    for behaviour in (
        write_files, end_with, count, report_progress, write_to, read, show_arguments, show_environment, write_binary,
        write_long_line, draw_bar, tell_secret, call_out, be_killed, fault, wait, count_start, refuse_to_stop, tick,
        flood, eat,
    )
}  # fmt: skip


def main() -> int:
    def write(text: bytes) -> None:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()

    behaviour, *arguments = sys.argv[1:]
    return BEHAVIOURS[behaviour](World(arguments, os.environ, Path.cwd(), write))


if __name__ == "__main__":
    sys.exit(main())
