"""A module in a fork of this process: what it inherits, how it ends, and that it ends with its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bench import wait_for

ROOT = Path(__file__).resolve().parents[2]
_PARENT = """\
import os, sys
from pathlib import Path
from orchestrator.executors.forked import Forked, is_fork
lock = open("lock", "w")
os.set_inheritable(lock.fileno(), True)
assert not is_fork()
with Forked((sys.executable, "-m", "probe", *sys.argv[1:]), Path("out").resolve(), {"ONLY": "this"}) as child:
    print(child.pid, flush=True)
    for line in child.stdout:
        print(line.decode(), end="", flush=True)
print(child.wait(), child.poll())
"""
_PROBE = """\
import json, os, signal, sys, time
from orchestrator.executors.forked import can_fork, is_fork
found = {
    "arguments": sys.argv[1:], "name": __name__, "folder": os.getcwd(), "environment": dict(os.environ),
    "files": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1], "input": sys.stdin.read(),
    "session": os.getsid(0) == os.getppid(), "group": os.getpgid(0) == os.getpid(), "fork": is_fork(),
    "signals": [signal.getsignal(each) == signal.SIG_DFL for each in (signal.SIGTERM, signal.SIGALRM)],
    "can": [can_fork((sys.executable, "-m", "orchestrator.x")), can_fork((sys.executable, "-m", "os"))],
    "process": os.getpid(),
}
print(json.dumps(found))
exec(sys.argv[1])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "probe.py").write_text(_PROBE)
    return tmp_path


def start(folder: Path, end: str) -> subprocess.Popen[str]:
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{folder}", "SECRET": "hf_canary"}
    command = (sys.executable, "-c", _PARENT, end)
    return subprocess.Popen(
        command, cwd=folder, env=variables, text=True, stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )


def test_it_has_nothing_of_its_parent_but_what_was_loaded(folder: Path) -> None:
    said, _ = start(folder, "pass").communicate()
    _, found, ended = said.splitlines()
    known = json.loads(found)
    assert known.pop("process")
    assert known == {
        "arguments": ["pass"],
        "name": "__main__",
        "folder": str(folder / "out"),
        "environment": {"ONLY": "this"},
        "files": [0, 1, 2],
        "input": "",
        "session": True,
        "group": True,
        "fork": True,
        "signals": [True, True],
        "can": [True, False],
    }
    assert ended == "0 0"


@pytest.mark.parametrize(
    ("end", "ended", "word"),
    [
        ("sys.exit(7)", 7, ""),
        ("sys.exit('a reason')", 1, "a reason"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)", -signal.SIGTERM, ""),
    ],
)
def test_it_ends_as_a_process_of_its_own_would(folder: Path, end: str, ended: int, word: str) -> None:
    said, _ = start(folder, end).communicate()
    assert said.splitlines()[-1] == f"{ended} {ended}"
    assert word in said


def test_it_is_killed_with_its_parent(folder: Path) -> None:
    with start(folder, "time.sleep(60)") as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        process = json.loads(parent.stdout.readline())["process"]
        parent.kill()
        wait_for(lambda: not Path(f"/proc/{process}").exists() or "Z" in Path(f"/proc/{process}/stat").read_text())
