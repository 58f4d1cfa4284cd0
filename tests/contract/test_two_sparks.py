"""start.sh on two machines that are folders: what is told before a copy, what is copied, and how a pair ends."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pytest

from orchestrator.bundle.files import SUMS
from orchestrator.bundle.private_files import PRIVATE
from orchestrator.bundle.targets.two_sparks import BUNDLE_LABEL
from orchestrator.deployment import images, two_sparks
from tests.support import canaries
from tests.support.air_gap import WritingDocker
from tests.support.guides import blocks, text_of
from tests.support.page_cache import cached
from tests.support.two_folders import PRIMARY, TWIN, Machine, TwoFolders, write_bundle

Change = Callable[[TwoFolders], None]
SHARD = "model/model-00001-of-00001.safetensors"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two-sparks")
    return write_bundle(folder / "bundle", folder / "artifacts")


@pytest.fixture
def pair(tmp_path: Path, bundle: Path) -> TwoFolders:
    return TwoFolders(tmp_path, bundle)


@pytest.fixture(scope="module")
def copied_once(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> TwoFolders:
    made = TwoFolders(tmp_path_factory.mktemp("copied"), bundle)
    done = made.start("copy")
    assert done.returncode == 0, done.stdout + done.stderr
    return made


@pytest.fixture
def copied(tmp_path: Path, copied_once: TwoFolders) -> TwoFolders:
    """A pair after a copy."""
    return copied_once.clone(tmp_path)


def on_worker(name: str, text: str = "") -> Change:
    return lambda pair: pair.worker.set(name, text)


def on_head(name: str, text: str = "") -> Change:
    return lambda pair: pair.head.set(name, text)


def on_both(name: str, text: str) -> Change:
    def change(pair: TwoFolders) -> None:
        pair.head.set(name, text)
        pair.worker.set(name, text)

    return change


def smi(old: str, new: str) -> Change:
    return lambda pair: pair.worker.set("nvidia-smi", (pair.worker.folder / "nvidia-smi").read_text().replace(old, new))


def remove(machine: str, path: str) -> Change:
    return lambda pair: (getattr(pair, machine).folder / path).unlink()


MACHINES: dict[str, tuple[Change, str, str]] = {
    "another driver": (smi("580.95.05", "570.1"), "MACHINES_DIFFER", "here 580.95.05, there 570.1"),
    "another CUDA": (smi(": 13.0", ": 12.8"), "MACHINES_DIFFER", "CUDA differs: here 13.0, there 12.8"),
    "clocks apart": (on_worker("clock", "-3600"), "CLOCKS_DIFFER", " s apart"),
    "a slow link": (on_both(f"sys/class/net/{TWIN}/speed", "10000"), "CHECK_FAILED", f"{TWIN} runs at 10000 Mb/s"),
    "a link that is down": (on_worker(f"sys/class/net/{PRIMARY}/operstate", "down"), "LINK_DOWN", "is down"),
    "nobody answers": (on_head("silent", TWIN), "LINK_DOWN", f"10.0.1.2 does not answer over {TWIN}"),
    "one interface without address": (remove("worker", f"address/{TWIN}"), "LINK_DOWN", "half of the port's 200 Gb/s"),
    "another MTU": (on_worker(f"sys/class/net/{TWIN}/mtu", "1500"), "MTU_DIFFERS", f"{TWIN} here has 9000"),
    "a switch with a small MTU": (on_both("largest", "1500"), "CHECK_FAILED", "packets of 9000 bytes do not reach"),
    "no RoCE": (
        on_head("sys/class/infiniband/roceP2p1s0f1/ports/1/state", "1: DOWN"),
        "ROCE_MISSING",
        "no active RoCE device (roceP2p1s0f1)",
    ),
    "ssh by another link": (on_worker("arrives", "192.168.1.20"), "OTHER_LINK", "arrives at 192.168.1.20"),
    "no Docker": (on_worker("no-docker"), "DOCKER_UNAVAILABLE", "there: no Docker with Compose"),
    "a full disk here": (
        on_head("free", "100"),
        "DISK_FULL",
        "here: Docker's disk has 0.0 GB free",
    ),
    "a full disk": (on_worker("free", "100"), "DISK_FULL", "there: the disk of"),
    "a program that is missing": (remove("worker", "bin/nvidia-smi"), "CHECK_FAILED", "not installed: nvidia-smi"),
    "an unknown host key": (on_head("ssh-fails", "Host key verification failed."), "HOST_KEY", "accept it"),
    "another host key": (
        on_head("ssh-fails", "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed."),
        "HOST_KEY",
        "ssh-keygen -R 10.0.0.2",
    ),
    "no password-less ssh": (on_head("ssh-fails", "Permission denied (publickey)."), "PEER_UNREACHABLE", "ssh-copy-id"),
    "no ssh server": (
        on_head("ssh-fails", "ssh: connect to host 10.0.0.2 port 22: Connection refused"),
        "PEER_UNREACHABLE",
        "openssh-server",
    ),
    "a file that is no weight of ours": (on_head("bundle/model/old.safetensors"), "ARTIFACT_CORRUPT", "unlisted"),
    "a file there that is no weight": (on_worker("bundle/model/old.safetensors"), "ARTIFACT_CORRUPT", "no list names"),
    "weights that are missing": (remove("head", f"bundle/{SHARD}"), "ARTIFACT_CORRUPT", f"missing {SHARD}"),
}


@pytest.mark.parametrize("name", MACHINES)
def test_what_is_wrong_is_told_before_the_copy_as_one_error(pair: TwoFolders, name: str) -> None:
    change, code, words = MACHINES[name]
    change(pair)
    refused = pair.start("copy")
    assert refused.returncode in {6, 7}, refused.stdout + refused.stderr
    assert re.findall(r"^error\[(\w+)\]", refused.stderr, re.MULTILINE) == [code], refused.stderr
    assert words in refused.stderr
    assert "→" in refused.stderr
    assert not (pair.worker.bundle / SUMS).exists()
    assert not (pair.head.folder / "images").exists() or not list((pair.head.folder / "images").iterdir())


BEFORE_A_START: dict[str, tuple[Change, str]] = {
    "memory that is taken": (
        on_worker("proc/meminfo", "MemTotal: 127600000 kB\nMemFree: 90000000 kB\nMemAvailable: 95000000 kB\n"),
        "there: 97.3 GB of memory are available, serving takes 105.0 GB",
    ),
    "memory that holds the page cache": (
        on_head("proc/meminfo", "MemTotal: 127600000 kB\nMemFree: 9000000 kB\nMemAvailable: 120000000 kB\n"),
        "here: CUDA finds 9.2 GB of memory, serving takes 105.0 GB; the page cache holds the rest",
    ),
    "a port here": (on_head("listening", "sport = :8355"), "here: another program listens on port 8355"),
    "a port there": (on_worker("listening", "sport = :2233"), "there: another program listens on port 2233"),
    "another image there": (on_worker("images/none"), "image differs"),
}


@pytest.mark.parametrize("name", BEFORE_A_START)
def test_what_is_wrong_is_told_before_a_start(pair: TwoFolders, name: str) -> None:
    change, words = BEFORE_A_START[name]
    change(pair)
    refused = pair.start()
    assert refused.returncode == 7
    assert words in refused.stderr
    assert pair.head.state is pair.worker.state is None


def test_everything_that_is_wrong_is_told_at_once(pair: TwoFolders) -> None:
    for name in ("another driver", "clocks apart", "another MTU"):
        MACHINES[name][0](pair)
    refused = pair.start("copy", INTERFACES=f"{PRIMARY},{TWIN},enp9s0")
    assert refused.stderr.startswith("error[CHECK_FAILED]: 4 checks failed, and nothing was changed:\n")
    assert "neither machine has an interface enp9s0" in refused.stderr


def test_one_interface_is_enough_if_the_user_says_so(pair: TwoFolders) -> None:
    (pair.worker.folder / "address" / TWIN).unlink()
    assert pair.start("copy", "--dry-run", INTERFACES=PRIMARY).returncode == 0


def test_a_program_that_hangs_there_delays_nothing_forever(pair: TwoFolders) -> None:
    program = pair.worker.folder / "bin" / "nvidia-smi"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    refused = pair.start("copy")
    assert refused.returncode == 7
    assert "NVIDIA driver differs: here 580.95.05, there none" in refused.stderr


def names_in(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_a_copy_takes_what_the_build_lists_and_nothing_else(pair: TwoFolders) -> None:
    listed = {line.partition("  ")[2] for line in (pair.head.bundle / SUMS).read_text().splitlines()}
    canaries.fill(pair.head.bundle)
    said = [pair.start("copy", "--dry-run"), pair.start("copy")]
    assert [each.returncode for each in said] == [0, 0], said
    assert names_in(pair.worker.bundle) == listed | {SUMS}
    assert "nothing of " + " ".join(PRIVATE) in said[0].stdout


def built(machine: Machine) -> list[str]:
    """Name the images that were built there, in order."""
    file = machine.folder / "built"
    return file.read_text().split() if file.exists() else []


def test_images_are_built_again_only_if_a_file_of_the_bundle_changed(copied: TwoFolders) -> None:
    first = built(copied.head)
    assert len(first) == 2
    again = copied.start("copy")
    assert (again.returncode, built(copied.head)) == (0, first), again.stderr
    assert "was built from these files" in again.stdout
    copied.head.set("bundle/two-sparks/launch.sh", "#!/bin/sh\n")
    assert copied.start("copy").returncode == 0
    assert built(copied.head) == [*first, *first]
    assert copied.start("check").returncode == 0


def test_a_file_that_the_bundle_lacks_is_our_error(copied: TwoFolders) -> None:
    (copied.head.bundle / "two-sparks" / "launch.sh").unlink()
    refused = copied.start("copy")
    assert refused.returncode == 7
    assert re.findall(r"error\[(\w+)\]", refused.stderr) == ["ARTIFACT_CORRUPT"]
    assert "launch.sh" in refused.stderr
    assert "orchestrator build" in refused.stderr


def test_the_signature_of_the_bundle_goes_along(pair: TwoFolders) -> None:
    pair.head.set("bundle/model.sig", "signed")
    assert pair.start("copy").returncode == 0
    assert (pair.worker.bundle / "model.sig").read_text() == "signed"


@dataclass
class BuiltDocker(WritingDocker):
    """A Docker that has built the images of a bundle for two."""

    def _stream(self, name: str) -> Iterator[bytes]:
        yield f"{name}\n{BUNDLE_LABEL}={self.labels[name][BUNDLE_LABEL]}\n".encode()

    @classmethod
    def of(cls, bundle: Path) -> BuiltDocker:
        found, labels = two_sparks.images_of(bundle), {}
        for one in found:
            assert one.service.build is not None
            labels[one.service.image] = {
                **one.marks,
                images.CONTEXT: images.build_digest(one.folder, one.service.build),
            }
        return cls(images={name: f"sha256:{number}" for number, name in enumerate(labels)}, labels=labels)


def test_an_archive_brings_a_pair_to_where_there_is_no_network(pair: TwoFolders, tmp_path: Path) -> None:
    canaries.fill(pair.head.bundle)
    file = BuiltDocker.of(pair.head.bundle).archive(pair.head.bundle, tmp_path / "pair.tar").file
    assert canaries.found_in(file) == []
    shutil.rmtree(pair.head.bundle)
    subprocess.run(("tar", "--extract", "--file", file, "--directory", pair.head.folder), check=True)
    pair.head.set("build-fails")

    installed = pair.run_on_head("install.sh")
    assert installed.returncode == 0, installed.stderr
    assert all(f"  {line}\n" in installed.stdout for line in blocks("air-gap", "sh")[-1].splitlines())
    copied = pair.start("copy")
    assert copied.returncode == 0, copied.stderr
    assert "was built from these files" in copied.stdout
    assert pair.start("check").returncode == 0
    assert not {name for name in names_in(pair.worker.bundle) if name.startswith(("images/", "install.sh"))}
    shutil.rmtree(pair.head.bundle / "images")
    assert pair.start("copy").returncode == 0
    assert pair.run_on_head("install.sh", "--check").returncode == 0


def test_a_copy_that_was_cut_continues(pair: TwoFolders) -> None:
    shards = [f"model/model-0000{number}.safetensors" for number in range(2, 5)]
    with (pair.head.bundle / "two-sparks" / "sizes").open("a") as sizes, (pair.head.bundle / SUMS).open("a") as sums:
        for shard in shards:
            pair.head.set(f"bundle/{shard}", shard[-13] * 1_000_000)
            sizes.write(f"1000000 {shard}\n")
            sums.write(f"{'0' * 64}  {shard}\n")
    pair.relist()
    pair.worker.set("ssh-cuts-after", "1800000")
    cut = pair.start("copy")
    assert cut.returncode == 6
    assert re.findall(r"error\[(\w+)\]", cut.stderr) == ["COPY_CUT"], cut.stderr
    assert "./start.sh copy continues" in cut.stderr
    assert "ARTIFACT_CORRUPT" in pair.start("check", "--no-sums").stderr

    (pair.worker.folder / "ssh-cuts-after").unlink()
    there = [pair.worker.bundle / shard for shard in shards]
    complete = {file: file.stat().st_ctime_ns for file in there if file.exists() and file.stat().st_size == 1_000_000}
    assert len(complete) == 1
    again = pair.start("copy")
    assert again.returncode == 0, again.stderr
    assert all(file.stat().st_ctime_ns == before for file, before in complete.items()), "it was sent again"
    assert {file.stat().st_size for file in there} == {1_000_000}


@pytest.mark.parametrize("what", ["the image", "the weights"])
def test_a_disk_that_becomes_full_is_our_error(pair: TwoFolders, what: str) -> None:
    if what == "the image":
        pair.worker.set("docker-is-full")
    else:
        tar = pair.worker.folder / "bin" / "tar"
        tar.write_text("#!/bin/sh\ncat >/dev/null\necho 'tar: x: Cannot write: No space left on device' >&2\nexit 2\n")
        tar.chmod(0o755)
    full = pair.start("copy")
    assert full.returncode == 6
    assert re.findall(r"error\[(\w+)\]", full.stderr) == ["DISK_FULL"]
    assert "tar:" not in full.stderr
    assert "continues" in full.stderr


def test_a_disk_that_becomes_full_here_is_our_error(pair: TwoFolders) -> None:
    pair.head.set("build-is-full")
    full = pair.start("copy")
    assert full.returncode == 6
    assert re.findall(r"error\[(\w+)\]", full.stderr) == ["DISK_FULL"]
    assert "docker image prune" in full.stderr


@pytest.mark.parametrize("hangs", ["ssh", "find"])
@pytest.mark.parametrize("action", ["check", "copy", "start"])
def test_a_second_spark_that_hangs_ends_the_check(copied: TwoFolders, action: str, hangs: str) -> None:
    """A cable that is pulled, or a disk that hangs, leaves ssh waiting. The limits are shortened here."""
    script = copied.head.bundle / "two-sparks" / "start.sh"
    script.write_text(script.read_text().replace("answer_seconds=7 ssh_seconds=8", "answer_seconds=1 ssh_seconds=2"))
    if hangs == "ssh":
        copied.head.set("ssh-hangs", "timeout 1 bash -s")
    else:
        program(copied.worker, "find", "#!/bin/sh\nexec sleep 60\n")
    failed = copied.start(action, "--no-sums")
    assert (failed.returncode, re.findall(r"error\[(\w+)\]", failed.stderr)) == (6, ["PEER_UNREACHABLE"]), failed.stderr
    assert "→" in failed.stderr
    assert calls(copied) == ["timeout 1 bash -s"]


def program(machine: Machine, name: str, text: str) -> None:
    """Put a program in the place of one of a machine."""
    machine.set(f"bin/{name}", text)
    (machine.folder / "bin" / name).chmod(0o755)


def calls(pair: TwoFolders) -> list[str]:
    """Return what the last start.sh ran over ssh."""
    log = pair.head.folder / "ssh-calls"
    return log.read_text().splitlines() if log.exists() else []


def test_a_check_that_fails_is_one_call_over_ssh_and_ends_within_ten_seconds(copied: TwoFolders) -> None:
    """All answers come in one call with a limit; after that come pings, all at the same time."""
    (copied.head.folder / "silent").write_text(f"{PRIMARY}\n{TWIN}\n")
    for action in ("check", "copy", "start"):
        assert copied.start(action).returncode == 7
        assert calls(copied) == ["timeout 7 bash -s"]
    script = (copied.head.bundle / "two-sparks" / "start.sh").read_text()
    (limit,) = map(int, re.findall(r"ssh_seconds=(\d+) #", script))
    pings = re.findall(r"ping -c 1 -W (\d+).* &$", script, re.MULTILINE)
    assert script.count("ping -c") == len(pings) == 2
    assert limit + max(map(int, pings)) < 10
    assert "ConnectTimeout=5" in script


def test_what_a_second_spark_answers_is_never_run(pair: TwoFolders, tmp_path: Path) -> None:
    """Bash's arithmetic runs commands that stand in a number."""
    program(pair.worker, "date", f"#!/bin/sh\necho 'x[$(touch {tmp_path}/run)]'\n")
    program(pair.worker, "df", f"#!/bin/sh\necho 'x[$(touch {tmp_path}/run)]'\n")
    pair.worker.set(f"sys/class/net/{TWIN}/speed", f"x[$(touch {tmp_path}/run)]")
    refused = pair.start("copy")
    assert refused.returncode != 0
    assert not (tmp_path / "run").exists()
    assert re.findall(r"^error\[(\w+)\]", refused.stderr, re.MULTILINE), refused.stderr


def test_weights_of_the_bundle_that_was_there_before_do_not_stay(copied: TwoFolders) -> None:
    (copied.worker.bundle / "model" / "model-00002-of-00002.safetensors").write_text("an old shard")
    with (copied.worker.bundle / SUMS).open("a") as sums:
        sums.write(f"{'1' * 64}  model/model-00002-of-00002.safetensors\n")
    (copied.head.bundle / SHARD).write_bytes((copied.head.bundle / SHARD).read_bytes().replace(b"weights", b"WEIGHTS"))
    copied.relist()
    assert "another bundle" in copied.start("check", "--no-sums").stderr
    done = copied.start("copy", "--no-sums")
    assert done.returncode == 0, done.stderr
    assert names_in(copied.worker.bundle / "model") == names_in(copied.head.bundle / "model")
    assert (copied.worker.bundle / SHARD).read_bytes() == (copied.head.bundle / SHARD).read_bytes()


@pytest.mark.parametrize("sums", [True, False])
def test_names_and_sizes_of_weights_are_compared_always_and_their_content_unless_told_not_to(
    copied: TwoFolders, *, sums: bool
) -> None:
    arguments = () if sums else ("--no-sums",)
    assert copied.start("check", *arguments).returncode == 0
    shard = copied.worker.bundle / SHARD
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + b"!")
    changed = copied.start("check", *arguments)
    assert changed.returncode == (7 if sums else 0)
    assert (f"there: 1 files of the weights differ: sum {SHARD}" in changed.stderr) == sums
    shard.write_bytes(content + b"!")
    assert f"size {SHARD}" in copied.start("check", *arguments).stderr
    (copied.worker.bundle / "model" / "extra.safetensors").touch()
    shard.unlink()
    refused = copied.start("start", *arguments)
    assert refused.returncode == 7
    assert "missing" in refused.stderr
    assert "unlisted model/extra.safetensors" in refused.stderr


def test_reading_the_weights_leaves_the_page_cache_as_it_was(pair: TwoFolders) -> None:
    shard = pair.head.bundle / SHARD
    shard.write_bytes(os.urandom(8 << 20))
    os.sync()
    with shard.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached(shard):
        pytest.skip("this file system keeps every file in memory")
    variables = {"BUNDLE": str(pair.head.bundle), "SIZES": f"{8 << 20} {SHARD}", "DIGESTS": f"{'0' * 64}  {SHARD}"}
    script = pair.head.bundle / "two-sparks" / "weights.sh"
    (pair.head.bundle / SUMS).unlink()
    read = subprocess.run(
        ["bash", script], env={**os.environ, **variables, "ACTION": "sums"}, capture_output=True, text=True, check=True
    )
    assert f"sum\t{SHARD}\n" in read.stdout
    assert cached(shard) == 0


@pytest.mark.parametrize("line", ["PEER_ADDRESS = 10.0.0.2", "SSH_OPTIONS=-p 22", "A='b", "B=$(touch x)", "PEER"])
def test_a_line_of_the_settings_that_is_no_setting_is_named(copied_once: TwoFolders, line: str) -> None:
    folder = copied_once.head.bundle / "two-sparks"
    (folder / ".env").write_text(f"# settings\n\nPORT=8355 # of the server\n{line}\n")
    refused = copied_once.run_on_head("two-sparks/start.sh", "status")
    assert refused.returncode == 3
    assert refused.stderr.startswith("error[SETTINGS_MISSING]: .env, line 4: expected NAME=value")
    assert not (folder / "x").exists()


def test_settings_that_windows_wrote_are_read(copied_once: TwoFolders) -> None:
    settings = f"PEER_ADDRESS={copied_once.worker.address}\r\n\r\nPEER_BUNDLE='{copied_once.worker.bundle}'\r\n"
    (copied_once.head.bundle / "two-sparks" / ".env").write_text(settings)
    assert copied_once.run_on_head("two-sparks/start.sh", "check", "--no-sums").returncode == 0


def test_the_guide_lists_every_code() -> None:
    scripts = "".join(file.read_text() for file in two_sparks_templates())
    said = set(re.findall(r"(?:\bfail \d|\bproblem|\bleave) ([A-Z_]{4,})\b", scripts)) | set(
        re.findall(r"error\[([A-Z_]+)\]", scripts)
    )
    said |= set(re.findall(r"\bsame .* ([A-Z]+_[A-Z_]+) ", scripts))
    table = text_of("two-sparks").partition("| code | meaning |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([A-Z_]+)`", table)) == said


def two_sparks_templates() -> list[Path]:
    folder = Path(str(files("orchestrator.bundle"))) / "templates" / "two_sparks"
    return [file for file in folder.rglob("*") if ".sh" in file.suffixes]


@pytest.mark.parametrize("where", ["head", "worker"])
def test_half_a_pair_does_not_stay(copied: TwoFolders, where: str) -> None:
    machine: Machine = getattr(copied, where)
    machine.set("up-fails")
    failed = copied.start()
    assert failed.returncode == 5
    assert re.findall(r"error\[(\w+)\]", failed.stderr) == ["SERVER_ENDED"]
    assert "could not select device driver" in failed.stderr
    assert copied.head.state is copied.worker.state is None


@pytest.mark.parametrize("left", ["head", "worker"])
def test_what_is_left_of_a_pair_is_stopped_before_both_start(copied: TwoFolders, left: str) -> None:
    getattr(copied, left).set("container", "running")
    copied.worker.set("listening", "sport = :2233")
    refused = copied.start()
    assert "half a pair runs" in refused.stdout
    assert "listens on port 2233" in refused.stderr
    assert copied.head.state is copied.worker.state is None


def test_both_containers_know_interfaces_and_roce_devices_of_the_port(copied: TwoFolders) -> None:
    copied.head.set("up-fails")
    copied.start()
    given = dict(line.split("=") for line in (copied.worker.folder / "given").read_text().splitlines())
    assert given["INTERFACES"] == f"{TWIN},{PRIMARY}"
    assert given["ROCE"] == "roceP2p1s0f1,rocep1s0f1"
    assert (given["ROLE"], given["ADDRESS"], given["PEER_ADDRESS"]) == ("worker", "10.0.0.2", "10.0.0.1")


def test_stop_says_what_it_could_not_reach(copied: TwoFolders) -> None:
    for machine in (copied.head, copied.worker):
        machine.set("container", "running")
    copied.head.set("ssh-fails", "ssh: connect to host 10.0.0.2 port 22: No route to host")
    stopped = copied.start("stop")
    assert stopped.returncode == 6
    assert "error[PEER_UNREACHABLE]: this Spark's container is stopped; 10.0.0.2 was not reached" in stopped.stderr
    assert "No route to host" in stopped.stderr
    assert (copied.head.state, copied.worker.state) == (None, "running")
    assert "there: not reached" in copied.start("status").stdout


def test_the_second_spark_stops_its_own_container_and_starts_nothing(copied: TwoFolders) -> None:
    copied.worker.set("container", "running")
    copied.worker.set("bundle/two-sparks/keys/role", "worker\n")
    assert copied.start_on_worker("status").stdout == "here (the second Spark): running\n"
    assert "run it on the first one" in copied.start_on_worker().stderr
    assert copied.start_on_worker("stop").returncode == 0
    assert copied.worker.state is None


def test_a_head_that_comes_and_goes_at_once_leaves_a_trace_of_both(tmp_path: Path) -> None:
    """The second Spark looks once a second: what had appeared and was taken away in between, it never saw."""
    node = files("orchestrator") / "bundle" / "templates" / "two_sparks" / "node.sh"
    (tmp_path / "ssh").mkdir()
    command = ("bash", "-c", node.read_text(), "node.sh", "bond")
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=True, timeout=60)
    assert sorted(path.name for path in (tmp_path / "ssh").iterdir()) == ["joined", "left"]
