"""A build on a real terminal of 40 columns: nothing is wrapped, nothing stays that should not."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = 40
BUILD = """\
import time
from orchestrator.cli.build_view import BuildView
from orchestrator.events import Progress, StepDone, StepStarted, Warned
with BuildView() as view:
    view(StepStarted("download", "process"))
    for tick in range(40):
        for number in range(6):
            name = f"model-0000{number}-of-00006.safetensors"
            view(Progress(tick * 25 * 10**8, 10**11, "bytes", name, name, tick * 10**8, 4 * 10**9))
        if tick == 20:
            view(Warned("something that a person should know, said in many more than forty columns"))
        time.sleep(0.05)
    view(StepDone("download", "k", 0, 10**11, 2.0))
"""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(code: str) -> str:
    """Run Python with a terminal for its standard error; gives every byte that the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=theirs, stdin=theirs)
    os.close(theirs)
    got = bytearray()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        got += piece
    os.close(ours)
    assert process.wait(10) == 0
    return got.decode()


def test_progress_stays_in_place_and_leaves_nothing_behind() -> None:
    got = on_a_terminal(BUILD)
    drawn = CONTROL.sub("", got)
    lines = [line for line in re.split(r"[\r\n]+", drawn) if line]
    frames = [line for line in lines if not line.startswith(("! something", "✓"))]
    assert frames
    assert max(map(len, frames)) <= COLUMNS, "a longer line is wrapped, and the picture climbs"
    assert any(re.search(r"GB/s · \d+ s left", line) for line in frames)
    assert sum("-of-00006.safetensors" in line for line in frames) > 4
    # a picture of six lines is taken back by going up five times; so is the last one, and then comes the result
    last = got[got.rindex("-of-00006.safetensors") :]
    assert last.count("\x1b[1A") >= 5
    assert lines[-1] == "✓ download: 100.0 GB in 2.0 s"
    assert got.count("\x1b[?25l") == got.count("\x1b[?25h"), "the cursor is shown again"


def test_a_build_without_a_terminal_writes_no_control_characters() -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    done = subprocess.run([sys.executable, "-c", BUILD], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [
        "▸ download (process)",
        "! something that a person should know, said in many more than forty columns",
        "✓ download: 100.0 GB in 2.0 s",
    ]
    assert "\x1b" not in done.stderr
