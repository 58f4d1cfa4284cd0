"""`install.sh` on a machine without a network: what it loads, what it refuses, and what it says."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.bundle.signing import read_private_key
from orchestrator.deployment.compose_file import read
from tests.support.air_gap import MONITOR, NAME, SERVER, OtherMachine, WritingDocker, write_bundle
from tests.support.guides import blocks
from tests.support.keys import make_key

PART = 16 << 20
"""Bytes of a part of an image."""
EVIL = "evil:1 sha256:666\n"


@pytest.fixture
def there(tmp_path: Path) -> OtherMachine:
    """The other machine, with nothing on it."""
    (tmp_path / "there").mkdir()
    return OtherMachine(tmp_path / "there")


@pytest.fixture
def archived(tmp_path: Path) -> Path:
    """An archive with two images."""
    return WritingDocker().archive(write_bundle(tmp_path), tmp_path / "small.tar", "monitoring").file


@pytest.fixture
def unpacked(there: OtherMachine, archived: Path) -> OtherMachine:
    """The other machine, with the archive unpacked."""
    assert there.unpack(archived) == 0
    return there


def refusal(ended: subprocess.CompletedProcess[str], status: int) -> str:
    """Return the one error of a script that failed as it should."""
    assert ended.returncode == status, ended.stdout + ended.stderr
    assert ended.stderr.count("error: ") == 1
    assert ended.stderr.count("\n  → ") == 1
    return ended.stderr


def test_it_loads_every_image_and_says_how_to_start(unpacked: OtherMachine) -> None:
    ended = unpacked.install()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert unpacked.images == {SERVER: "sha256:1", MONITOR: "sha256:2"}
    start = "docker compose --file " + str(unpacked.bundle / "compose.yaml").replace(" ", "\\ ")
    assert f"{start} up --detach --wait" in ended.stdout


def test_an_image_of_many_parts_is_loaded_as_it_was_saved(tmp_path: Path, there: OtherMachine) -> None:
    archived = WritingDocker(size=2 * PART + 5).archive(write_bundle(tmp_path), tmp_path / "small.tar")
    there.unpack(archived.file)
    assert there.install().returncode == 0
    assert (there.docker / "loaded").read_bytes() == f"{SERVER} sha256:1\n".encode().ljust(2 * PART + 5, b"\0")


def test_run_again_it_loads_nothing_again_even_without_the_images_that_may_be_removed(unpacked: OtherMachine) -> None:
    assert unpacked.install().returncode == 0
    for file in sorted(unpacked.bundle.glob("images/*/*")):
        file.unlink()
        file.parent.rmdir()
    (unpacked.bundle / "images").rmdir()
    (unpacked.docker / "loaded").unlink()
    (unpacked.bundle / ".env").write_text("PORT=8001\n")
    (unpacked.bundle / "secrets" / "api_keys").write_text("the user's")
    assert unpacked.install("--check").returncode == 0
    assert unpacked.install().returncode == 0
    assert not (unpacked.docker / "loaded").exists()
    (unpacked.docker / "images" / SERVER).unlink()
    assert "unpack the archive again" in refusal(unpacked.install(), 7)


def test_a_check_changes_nothing(unpacked: OtherMachine) -> None:
    before = unpacked.files
    ended = unpacked.install("--check")
    assert ended.returncode == 0
    assert "all files are as they were archived" in ended.stdout
    assert (unpacked.files, unpacked.images) == (before, {})


@pytest.mark.parametrize("name", ["model/a shard.safetensors", "images/1/00000.part", "compose.yaml", "install.sh"])
def test_one_changed_byte_is_refused_with_its_file_and_nothing_is_loaded(unpacked: OtherMachine, name: str) -> None:
    content = bytearray((unpacked.bundle / name).read_bytes())
    content[3] ^= 1  # of install.sh, in the line that its caller reads
    (unpacked.bundle / name).write_bytes(content)
    ended = unpacked.install()
    refusal(ended, 7)
    assert name in ended.stdout
    assert unpacked.images == {}


def extra_part(bundle: Path) -> None:
    (bundle / "images" / "1" / "00001.part").write_text(EVIL)


def extra_image(bundle: Path) -> None:
    (bundle / "images" / "2").mkdir()
    (bundle / "images" / "2" / "00000.part").write_text(EVIL)


def extra_shard(bundle: Path) -> None:
    (bundle / "model" / "model-00009.safetensors").write_text("weights that an engine would read")


def hidden_file(bundle: Path) -> None:
    (bundle / "model" / ".env").write_text("")


def link_in_place_of_a_file(bundle: Path) -> None:
    (bundle / "model" / "config.json").rename(bundle.parent / "config.json")
    (bundle / "model" / "config.json").symlink_to("../../config.json")


def link_to_a_folder(bundle: Path) -> None:
    (bundle / "gateway").symlink_to("/etc")


def name_that_would_change_the_terminal(bundle: Path) -> None:
    (bundle / "model" / "\x1b[2J").write_text("")


def two_names_in_one(bundle: Path) -> None:
    (bundle / "README.md\nREADME.md").write_text("")


def list_that_never_ends(bundle: Path) -> None:
    (bundle / "SHA256SUMS").unlink()
    (bundle / "SHA256SUMS").symlink_to("/dev/zero")


EXTRA = [
    list_that_never_ends,
    extra_part,
    extra_image,
    extra_shard,
    hidden_file,
    link_in_place_of_a_file,
    link_to_a_folder,
    two_names_in_one,
    name_that_would_change_the_terminal,
]


@pytest.mark.parametrize("add", EXTRA)
def test_what_no_list_names_is_refused_and_nothing_is_loaded(
    unpacked: OtherMachine, add: Callable[[Path], None]
) -> None:
    add(unpacked.bundle)
    for arguments in ((), ("--check",)):
        assert "\x1b" not in refusal(unpacked.install(*arguments), 7)
    assert unpacked.images == {}


def test_settings_that_came_with_an_archive_are_shown(unpacked: OtherMachine) -> None:
    assert "not checked" not in unpacked.install("--check").stdout
    (unpacked.bundle / "secrets" / "api_keys").write_text("of somebody")
    (unpacked.bundle / ".env").write_text("NIM_GATEWAY_API_KEYS=of somebody\n")
    said = unpacked.install().stdout
    assert "not of the archive, and not checked: $'.env\\nsecrets/api_keys'" in said


def test_a_newer_archive_over_an_older_one_leaves_nothing_of_the_old(tmp_path: Path, there: OtherMachine) -> None:
    older = write_bundle(tmp_path / "older", **{"model/old/model-00002.safetensors": "old weights"})
    there.unpack(WritingDocker(size=PART + 1).archive(older, tmp_path / "older.tar", "monitoring").file)
    assert there.install().returncode == 0
    (there.bundle / ".env").write_text("PORT=8001\n")

    newer = write_bundle(tmp_path / "newer", **{"compose.yaml": COMPOSE_OF_NEWER})
    docker = WritingDocker({"small:2": "sha256:3"})
    there.unpack(docker.archive(newer, tmp_path / "newer.tar").file)
    assert there.install("--check").returncode == 0
    ended = there.install()
    assert ended.returncode == 0, ended.stderr
    clean = OtherMachine(tmp_path)
    clean.unpack(tmp_path / "newer.tar")
    assert there.files - {".installed", ".env"} == clean.files
    assert not (there.bundle / "model" / "old").exists()
    assert there.images["small:2"] == "sha256:3"
    assert "docker image rm small:1" in ended.stdout


def _pinned(version: int) -> str:
    return f"prom/monitor:{version}@sha256:{version:064}"


def _write_pinned(folder: Path, version: int) -> Path:
    monitor = f'  monitor: {{image: "${{MONITOR_IMAGE:-{_pinned(version)}}}", profiles: [monitoring]}}\n'
    return write_bundle(folder, **{"compose.yaml": COMPOSE_OF_NEWER + monitor})


def _archive_pinned(folder: Path, version: int) -> Path:
    docker = WritingDocker({"small:2": "sha256:3", _pinned(version): f"sha256:{version}"})
    return docker.archive(_write_pinned(folder, version), folder / "small.tar", "monitoring").file


def test_an_image_that_is_pinned_by_digest_is_found_by_its_tag_where_no_registry_is(
    tmp_path: Path, there: OtherMachine
) -> None:
    there.unpack(_archive_pinned(tmp_path, 7))
    (there.bundle / ".env").write_text("PORT=8001")  # and no end of the line
    for _ in range(2):
        ended = there.install()
        assert (ended.returncode, ended.stderr) == (0, "")
        assert there.images == {"small:2": "sha256:3", "prom/monitor:7": "sha256:7"}
        assert (there.bundle / ".env").read_text() == "PORT=8001\nMONITOR_IMAGE=prom/monitor:7\n"
        assert read(there.bundle, shell={}).services["monitor"].image == "prom/monitor:7"


def test_a_newer_archive_names_its_own_image_and_leaves_one_of_the_users(tmp_path: Path, there: OtherMachine) -> None:
    there.unpack(_archive_pinned(tmp_path / "older", 7))
    assert there.install().returncode == 0
    there.unpack(_archive_pinned(tmp_path / "newer", 8))
    assert there.install().returncode == 0
    assert (there.bundle / ".env").read_text() == "MONITOR_IMAGE=prom/monitor:8\n"
    (there.bundle / ".env").write_text("MONITOR_IMAGE=mine:1\n")
    ended = there.install()
    assert (there.bundle / ".env").read_text() == "MONITOR_IMAGE=mine:1\n"
    assert ".env names another image than this archive has: MONITOR_IMAGE=mine:1" in ended.stdout


COMPOSE_OF_NEWER = 'name: small\nservices:\n  server: {image: "small:2", ports: ["127.0.0.1:8000:8000"]}\n'


def test_a_newer_archive_over_one_that_was_never_installed_names_what_is_left_of_it(
    tmp_path: Path, there: OtherMachine, archived: Path
) -> None:
    older = write_bundle(tmp_path / "older", **{"model/model-00002.safetensors": "old weights"})
    there.unpack(WritingDocker().archive(older, tmp_path / "older.tar").file)
    there.unpack(archived)
    assert "model/model-00002.safetensors" in refusal(there.install(), 7)


def test_an_archive_that_is_cut_short_is_one_sentence_wherever_it_was_cut(there: OtherMachine, archived: Path) -> None:
    whole = archived.read_bytes()
    within_the_list = whole.index(b"small/SHA256SUMS") + 512 + 99
    for cut in (whole.index(b"small/model/"), whole.index(b"small/images/1"), within_the_list):
        archived.write_bytes(whole[:cut])
        there.unpack(archived)  # tar does not notice a cut before a file
        said = refusal(there.install("--check"), 7)
        assert said.startswith("error: SHA256SUMS is missing or has no end")
        assert said.count("\n") == 2


def test_missing_files_are_one_sentence(unpacked: OtherMachine) -> None:
    for file in (unpacked.bundle / "model").iterdir():
        file.unlink()
    said = refusal(unpacked.install(), 7)
    assert "files of the archive are missing: 2, the first is 'model/a shard.safetensors'" in said
    assert said.count("\n") == 2


def test_no_permission_for_the_socket_tells_which_group_to_join_without_a_variable_user(
    unpacked: OtherMachine,
) -> None:
    (unpacked.docker / "refuses").write_text("permission denied while trying to connect to the Docker daemon socket\n")
    me = subprocess.run(("id", "-un"), capture_output=True, text=True, check=True).stdout.strip()
    assert f"usermod -aG docker {me}" in refusal(unpacked.install(), 6)


def test_a_docker_that_does_not_run_says_how_to_start_it(unpacked: OtherMachine) -> None:
    (unpacked.docker / "refuses").write_text("Cannot connect to the Docker daemon. Is the docker daemon running?\n")
    said = refusal(unpacked.install(), 6)
    assert "Is the docker daemon running?" in said
    assert "systemctl start docker" in said


def test_images_for_another_processor_are_refused(unpacked: OtherMachine) -> None:
    (unpacked.docker / "architecture").write_text("amd64\n")
    assert "arm64" in refusal(unpacked.install(), 6)
    assert unpacked.images == {}


def test_space_for_loading_is_asked_for_first_for_those_images_that_docker_lacks(
    tmp_path: Path, there: OtherMachine
) -> None:
    docker = WritingDocker(size=1_000_000)
    there.unpack(docker.archive(write_bundle(tmp_path), tmp_path / "small.tar", "monitoring").file)
    there.give("df", "#!/bin/sh\necho Avail; echo 2999999\n")  # both images, and the larger one unpacked beside them
    assert "needs 3 MB" in refusal(there.install(), 6)
    assert there.images == {}
    there.give("df", "#!/bin/sh\necho Avail; echo 3000000\n")
    assert there.install().returncode == 0
    there.give("df", "#!/bin/sh\necho Avail; echo 0\n")
    assert there.install().returncode == 0


def test_an_image_that_docker_cannot_load_is_an_error_that_names_it(tmp_path: Path, there: OtherMachine) -> None:
    docker = WritingDocker({SERVER: "sha256:1"})
    there.unpack(docker.archive(write_bundle(tmp_path), tmp_path / "small.tar").file)
    program = (there.programs / "docker").read_text()
    there.give("docker", program.replace("cat >loaded\n", "echo 'no space left on device' >&2; exit 1\n"))
    assert f"Docker cannot load {SERVER}" in refusal(there.install(), 6)


@pytest.mark.parametrize("file", [".env", ".installed"])
def test_a_disk_that_is_full_at_the_end_costs_no_setting_of_the_users(
    tmp_path: Path, there: OtherMachine, file: str
) -> None:
    there.unpack(_archive_pinned(tmp_path, 7))
    for name in (".env", ".installed"):
        (there.bundle / name).write_text("KEY=of the user\n")
        (there.bundle / name).chmod(0o600)
    there.give("mv", f'#!/bin/sh\n[ "$3" != {file} ] || exit 1\nexec /bin/mv "$@"\n')
    assert f"/{file}; it is as it was before" in refusal(there.install(), 6)
    assert (there.bundle / file).read_text() == "KEY=of the user\n"
    assert (there.bundle / ".env").stat().st_mode & 0o777 == 0o600
    assert not list(there.bundle.glob(".*.part"))
    (there.programs / "mv").unlink()
    assert there.install().returncode == 0
    assert (there.bundle / ".env").read_text() == "KEY=of the user\nMONITOR_IMAGE=prom/monitor:7\n"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key to sign with; its public key is beside it."""
    return make_key(tmp_path / "owner.pem")


def openssl(*arguments: str | Path) -> None:
    subprocess.run(("openssl", *arguments), check=True, capture_output=True)


def sign(bundle: Path, key: Path) -> None:
    openssl("dgst", "-sha256", "-sign", key, "-out", bundle / "SHA256SUMS.sig", bundle / "SHA256SUMS")


def test_a_signature_is_checked_with_a_key_that_came_apart(unpacked: OtherMachine, key: Path, tmp_path: Path) -> None:
    sign(unpacked.bundle, key)
    ended = unpacked.install("--key", str(key.with_suffix(".pub")))
    assert ended.returncode == 0, ended.stderr
    assert "SHA256SUMS is signed with the key of" in ended.stdout
    stranger = make_key(tmp_path / "stranger.pem")
    assert "is not what the owner of" in refusal(unpacked.install("--key", str(stranger.with_suffix(".pub"))), 7)
    assert "no public key in PEM form" in refusal(unpacked.install("--key", str(unpacked.bundle / "README.md")), 3)


def test_an_archive_that_was_made_right_by_somebody_else_fails_its_signature(unpacked: OtherMachine, key: Path) -> None:
    sign(unpacked.bundle, key)
    sums = unpacked.bundle / "SHA256SUMS"
    (unpacked.bundle / "README.md").write_text("changed")
    digest = subprocess.run(("sha256sum", "README.md"), cwd=unpacked.bundle, capture_output=True, text=True, check=True)
    others = [line for line in sums.read_text().splitlines(keepends=True) if not line.endswith("  README.md\n")]
    sums.write_text("".join((*others, digest.stdout)))
    refusal(unpacked.install("--key", str(key.with_suffix(".pub"))), 7)
    assert unpacked.images == {}


def test_a_signature_is_neither_passed_over_nor_made_up(unpacked: OtherMachine, key: Path) -> None:
    public = str(key.with_suffix(".pub"))
    assert "is not signed" in refusal(unpacked.install("--key", public), 7)
    sign(unpacked.bundle, key)
    said = refusal(unpacked.install(), 7)
    assert "--key FILE" in said
    assert "rm SHA256SUMS.sig" in said
    refusal(unpacked.install("--key", "no such file"), 2)


def test_a_machine_without_openssl_is_told_how_to_check_elsewhere(
    unpacked: OtherMachine, key: Path, tmp_path: Path
) -> None:
    sign(unpacked.bundle, key)
    bare = tmp_path / "bare"
    bare.mkdir()
    for folder in os.environ["PATH"].split(":")[::-1]:
        for program in Path(folder).iterdir() if Path(folder).is_dir() else ():
            (bare / program.name).unlink(missing_ok=True)
            (bare / program.name).symlink_to(program)
    (bare / "openssl").unlink()
    said = refusal(unpacked.install("--key", str(key.with_suffix(".pub")), path=str(bare)), 6)
    assert "openssl dgst -sha256 -verify" in said


def test_an_unknown_argument_changes_nothing(unpacked: OtherMachine) -> None:
    assert "usage" in refusal(unpacked.install("--force"), 2)
    assert unpacked.images == {}


def test_the_commands_of_the_guide_work_in_their_order(tmp_path: Path, there: OtherMachine, key: Path) -> None:
    write, install, with_key, by_hand, _ = blocks("air-gap", "sh")
    assert write.split()[:2] == ["orchestrator", "bundle"]
    guide, media = write.split()[2], Path(write.split()[-1])
    assert media.stem == guide
    signature = read_private_key(key, None).sign_for_openssl
    for file, sign_list in ((tmp_path / "plain.tar", None), (tmp_path / "signed.tar", signature)):
        WritingDocker().archive(write_bundle(tmp_path / file.stem), file, sign=sign_list)

    def follow(block: str, archived: Path) -> subprocess.CompletedProcess[str]:
        return there.run(
            "bash", "-euo", "pipefail", "-c", block.replace(str(media), str(archived)).replace(guide, NAME)
        )

    installed = follow(install, tmp_path / "plain.tar")
    assert installed.returncode == 0, installed.stderr
    assert f"{NAME}/SHA256SUMS" in installed.stdout
    assert there.images == {SERVER: "sha256:1"}
    there.unpack(tmp_path / "signed.tar")
    (there.folder / "owner.pub").write_bytes(key.with_suffix(".pub").read_bytes())
    assert "SHA256SUMS is signed with the key of" in follow(with_key, media).stdout
    assert follow(by_hand, media).stdout == "Verified OK\n"


def test_shellcheck_finds_no_fault_in_it(unpacked: OtherMachine) -> None:
    command = ("shellcheck", "--enable=all", "--exclude=SC2310,SC2311,SC2312", str(unpacked.bundle / "install.sh"))
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.stdout + checked.stderr == ""
