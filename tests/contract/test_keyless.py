"""Signatures by an identity, made and checked before stand-ins of Sigstore's services and the official command."""

from __future__ import annotations

import base64
import gc
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app.settings import Settings
from orchestrator.app.signing import read_signing_key, sign_bundle, verify_bundle
from orchestrator.bundle import keyless
from orchestrator.bundle.keyless import Identity, KeylessSigner, TrustedIdentity
from orchestrator.errors import (
    IdentityTokenError,
    SignatureInvalidError,
    SigstoreError,
    TrustConfigError,
)
from tests.support.air_gap import NAME, OtherMachine, WritingDocker, write_bundle
from tests.support.command_line import orchestrator
from tests.support.keys import make_key
from tests.support.leavings import RECIPE
from tests.support.sigstore_services import WHO, Services, serve_sigstore
from tests.unit.cli.conftest import Shell, shell  # noqa: F401 - the fixture

ROOT = Path(__file__).parents[2]
MODEL_SIGNING = Path(sys.executable).parent / "model_signing"
GOLDEN = ROOT / "tests" / "golden" / "bundles" / "llama3-70b-nvfp4"
FULCIO, REKOR, LOGIN = "/api/v2/signingCert", "/api/v1/log/entries", "/auth/.well-known/openid-configuration"


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    (tmp_path / "authority").mkdir()
    with serve_sigstore(tmp_path / "authority") as running:
        yield running


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = write_bundle(tmp_path)
    for private in (".env", "secrets/api_keys"):
        (folder / private).unlink()  # the official program knows no exceptions but those of the signature
    return folder


@pytest.fixture
def trust(services: Services, tmp_path: Path) -> Path:
    return services.trust_config(tmp_path / "trust.json")


def signer(trust: Path, token: str, *, interactive: bool = False) -> KeylessSigner:
    settings = Settings({"SIGSTORE_ID_TOKEN": token})
    found = read_signing_key(settings, "keyless", trust_config=trust, interactive=interactive)
    assert isinstance(found, KeylessSigner)
    return found


def trusted(services: Services, trust: Path) -> TrustedIdentity:
    return TrustedIdentity(Identity(WHO, services.issuer), trust)


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def official(verb: str, bundle: Path, trust: Path, *options: str) -> subprocess.CompletedProcess[str]:
    files = ("--signature", bundle / "model.sig", "--trust_config", trust)
    return run(MODEL_SIGNING, verb, "sigstore", bundle, *files, *options)


@pytest.mark.parametrize(("timestamps", "log_version"), [(False, 1), (True, 1), (True, 2)])
def test_a_signature_by_an_identity_is_verified(
    services: Services, bundle: Path, tmp_path: Path, timestamps: bool, log_version: int
) -> None:
    services.timestamps, services.log_version = timestamps, log_version
    trust = services.trust_config(tmp_path / "trust.json")
    signed = sign_bundle(bundle, signer(trust, services.token()))
    assert signed.signer == Identity(WHO, services.issuer)
    stamped = ["/api/v1/timestamp"] if timestamps else []
    assert services.seen == [FULCIO, *stamped, f"/api/v{log_version}/log/entries"]
    verified = verify_bundle(bundle, trusted(services, trust))
    assert (verified.files, verified.signer) == (4, Identity(WHO, services.issuer))

    (bundle / "model" / "config.json").write_text("[]")
    with pytest.raises(SignatureInvalidError, match=r"changed: model/config\.json"):
        verify_bundle(bundle, trusted(services, trust))


def test_the_official_command_accepts_a_signature_by_an_identity(services: Services, bundle: Path, trust: Path) -> None:
    sign_bundle(bundle, signer(trust, services.token()))
    accepted = official("verify", bundle, trust, "--identity", WHO, "--identity_provider", services.issuer)
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr


def test_a_signature_by_the_official_command_is_verified(services: Services, bundle: Path, trust: Path) -> None:
    signed = official("sign", bundle, trust, "--identity_token", services.token())
    assert signed.returncode == 0, signed.stdout + signed.stderr
    assert verify_bundle(bundle, trusted(services, trust)).unsigned == ()
    (bundle / "more").write_text("")
    with pytest.raises(SignatureInvalidError, match="not signed: more"):
        verify_bundle(bundle, trusted(services, trust))


def test_a_machine_without_a_network_verifies_with_the_trusted_root_alone(bundle: Path, tmp_path: Path) -> None:
    with serve_sigstore(tmp_path) as services:
        sign_bundle(bundle, signer(services.trust_config(tmp_path / "trust.json"), services.token()))
    root = tmp_path / "trusted_root.json"
    root.write_text(json.dumps(services.trusted_root()))
    assert verify_bundle(bundle, trusted(services, root)).files == 4
    with pytest.raises(TrustConfigError, match="services to sign with"):
        signer(root, services.token())


def test_another_identity_and_another_issuer_are_refused(services: Services, bundle: Path, trust: Path) -> None:
    sign_bundle(bundle, signer(trust, services.token("stranger@example.com")))
    with pytest.raises(SignatureInvalidError, match=r"not made by owner@example\.com.*stranger@example\.com"):
        verify_bundle(bundle, trusted(services, trust))
    elsewhere = TrustedIdentity(Identity("stranger@example.com", "https://elsewhere.example"), trust)
    with pytest.raises(SignatureInvalidError, match=rf"https://elsewhere\.example.*{services.issuer}"):
        verify_bundle(bundle, elsewhere)


def test_a_workload_signs_with_its_address(services: Services, bundle: Path, trust: Path) -> None:
    workload = "https://ci.example/team/models/release@refs/heads/main"
    sign_bundle(bundle, signer(trust, services.token(workload)))
    checked = replace(trusted(services, trust), identity=Identity(workload, services.issuer))
    assert verify_bundle(bundle, checked).signer == Identity(workload, services.issuer)


def test_a_key_and_an_identity_do_not_stand_for_each_other(
    services: Services, bundle: Path, trust: Path, tmp_path: Path
) -> None:
    key = make_key(tmp_path / "owner.pem")
    sign_bundle(bundle, read_signing_key(Settings({}), str(key)))
    with pytest.raises(SignatureInvalidError, match="signed with a key, not by an identity") as refused:
        verify_bundle(bundle, trusted(services, trust))
    assert "--key FILE" in refused.value.hint
    sign_bundle(bundle, signer(trust, services.token()))
    with pytest.raises(SignatureInvalidError, match="signed without a key") as refused:
        verify_bundle(bundle, key.with_suffix(".pub"))
    assert "--identity WHO --issuer URL" in refused.value.hint


def test_services_with_another_root_are_not_trusted(
    services: Services, bundle: Path, trust: Path, tmp_path: Path
) -> None:
    sign_bundle(bundle, signer(trust, services.token()))
    stranger = Services(tmp_path, url=services.url).trust_config(tmp_path / "stranger.json")
    with pytest.raises(SignatureInvalidError, match="chain"):
        verify_bundle(bundle, trusted(services, stranger))
    with pytest.raises(SigstoreError, match="Fulcio gave no certificate"):
        sign_bundle(bundle, signer(stranger, services.token()))


def entry_of(document: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    return document["verificationMaterial"]["tlogEntries"][0]


def flipped(text: str) -> str:
    content = bytearray(base64.b64decode(text))
    content[-1] ^= 1
    return base64.b64encode(content).decode()


def without_entry(document: dict[str, Any]) -> None:
    document["verificationMaterial"]["tlogEntries"] = []


def other_body(document: dict[str, Any]) -> None:
    entry_of(document)["canonicalizedBody"] = flipped(entry_of(document)["canonicalizedBody"])


def later(document: dict[str, Any]) -> None:
    entry_of(document)["integratedTime"] = str(int(entry_of(document)["integratedTime"]) + 1)


def without_promise(document: dict[str, Any]) -> None:
    del entry_of(document)["inclusionPromise"]


def other_proof(document: dict[str, Any]) -> None:
    hashes = entry_of(document)["inclusionProof"]["hashes"]
    hashes[0] = flipped(hashes[0])


def other_root(document: dict[str, Any]) -> None:
    checkpoint = entry_of(document)["inclusionProof"]["checkpoint"]
    checkpoint["envelope"] = checkpoint["envelope"].replace("\n4\n", "\n5\n")


def other_certificate(document: dict[str, Any]) -> None:
    certificate = document["verificationMaterial"]["certificate"]
    certificate["rawBytes"] = flipped(certificate["rawBytes"])


def other_statement(document: dict[str, Any]) -> None:
    document["dsseEnvelope"]["payload"] = flipped(document["dsseEnvelope"]["payload"])


def other_type(document: dict[str, Any]) -> None:
    document["dsseEnvelope"]["payloadType"] = "text/plain"


def nothing(document: dict[str, Any]) -> None:
    document.clear()


@pytest.mark.parametrize(
    "damage",
    [
        *(without_entry, other_body, later, without_promise, other_proof, other_root),
        *(other_certificate, other_statement, other_type, nothing),
    ],
)
def test_a_damaged_signature_is_refused(
    services: Services, bundle: Path, trust: Path, damage: Callable[[dict[str, Any]], None]
) -> None:
    file = sign_bundle(bundle, signer(trust, services.token())).file
    document = json.loads(file.read_text())
    damage(document)
    file.write_text(json.dumps(document))
    with pytest.raises(SignatureInvalidError, match=r"not made by|no signature"):
        verify_bundle(bundle, trusted(services, trust))


def test_an_entry_of_another_signature_is_refused(services: Services, bundle: Path, trust: Path) -> None:
    first = json.loads(sign_bundle(bundle, signer(trust, services.token())).file.read_text())
    second = json.loads(sign_bundle(bundle, signer(trust, services.token())).file.read_text())
    second["verificationMaterial"]["tlogEntries"] = first["verificationMaterial"]["tlogEntries"]
    (bundle / "model.sig").write_text(json.dumps(second))
    with pytest.raises(SignatureInvalidError, match="log entry"):
        verify_bundle(bundle, trusted(services, trust))


def test_a_token_that_cannot_be_used_is_refused(
    services: Services, trust: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sigstore.oidc.detect_credential", lambda: None)
    for token, words in (
        (services.token(lives=-60), "expired"),
        (services.token(aud="another"), "udience"),
        ("nothing", "cannot be used"),
        ("", "no identity token"),
    ):
        with pytest.raises(IdentityTokenError, match=words) as refused:
            signer(trust, token)
        assert "SIGSTORE_ID_TOKEN" in refused.value.hint
        assert not token or token not in refused.value.message
    assert services.seen == []


def test_a_token_that_expires_while_the_bundle_is_written_is_named(
    services: Services, bundle: Path, trust: Path
) -> None:
    late = signer(trust, services.token(lives=0.5))
    threading.Event().wait(0.6)
    with pytest.raises(IdentityTokenError, match="has expired"):
        sign_bundle(bundle, late)
    assert not (bundle / "model.sig").exists()


def test_a_token_is_read_from_a_file(services: Services, bundle: Path, trust: Path, tmp_path: Path) -> None:
    file = tmp_path / "token"
    settings = Settings({"SIGSTORE_ID_TOKEN_FILE": str(file)})
    with pytest.raises(IdentityTokenError, match="cannot be read: No such file"):
        read_signing_key(settings, "keyless", trust_config=trust)
    file.write_text(services.token() + "\n")
    assert sign_bundle(bundle, read_signing_key(settings, "keyless", trust_config=trust)).file.exists()


def test_a_token_of_the_ci_system_is_used(
    services: Services, bundle: Path, trust: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITLAB_CI", "true")
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", services.token())
    assert sign_bundle(bundle, read_signing_key(Settings({}), "keyless", trust_config=trust)).file.exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the library never closes its server
def test_a_person_logs_in_with_a_browser(
    services: Services, bundle: Path, trust: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def browse(url: str) -> bool:
        with urllib.request.urlopen(url) as page:  # noqa: S310 - of the library's own server
            return page.status == 200  # type: ignore[no-any-return]

    monkeypatch.setattr("webbrowser.open", browse)
    monkeypatch.setattr("sigstore.oidc.detect_credential", lambda: None)
    assert sign_bundle(bundle, signer(trust, "", interactive=True)).signer == Identity(WHO, services.issuer)
    for path, answer in (("/auth/token", (200, b"{}")), ("/auth/token", (400, b"")), (LOGIN, (500, b""))):
        services.answers[path] = answer
        with pytest.raises((SigstoreError, IdentityTokenError), match=r"the identity (provider|token)"):
            signer(trust, "", interactive=True)
    gc.collect()


@pytest.mark.parametrize("path", [FULCIO, REKOR])
@pytest.mark.parametrize(
    "answer",
    [
        (500, b'{"code": 13, "message": "error communicating with CA backend"}'),
        (400, b"TOKEN"),
        (200, b"<html>"),
        (200, b"{}"),
        (200, b"[]"),
        (200, b'{"a": {"body": "bm90aGluZw=="}}'),
        (200, b'{"signedCertificateEmbeddedSct": {"chain": {"certificates": ["TOKEN", "TOKEN"]}}}'),
    ],
)
def test_a_service_that_fails_is_named_and_nothing_is_written(
    services: Services, bundle: Path, trust: Path, path: str, answer: tuple[int, bytes]
) -> None:
    token = services.token()
    services.answers[path] = (answer[0], answer[1].replace(b"TOKEN", token.encode()))
    with pytest.raises(SigstoreError, match=r"not signed: (Fulcio|the log Rekor) gave no") as refused:
        sign_bundle(bundle, signer(trust, token))
    assert token not in refused.value.message
    assert "\n" not in refused.value.message
    assert not (bundle / "model.sig").exists()


def test_a_log_that_lies_is_found_out_when_it_answers(services: Services, bundle: Path, trust: Path) -> None:
    proved = services.proved
    services.proved = lambda entry: {**proved(entry), "integratedTime": 1}  # type: ignore[method-assign]
    with pytest.raises(SigstoreError, match="do not fit their own trusted root"):
        sign_bundle(bundle, signer(trust, services.token()))
    assert not (bundle / "model.sig").exists()


def test_services_that_are_down_or_hang_are_named(
    services: Services, bundle: Path, trust: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyless, "_LONGEST", 0.3)
    services.hung.add(REKOR)
    with pytest.raises(SigstoreError, match="no answer within"):
        sign_bundle(bundle, signer(trust, services.token()))
    down = replace(services, url="http://127.0.0.1:9").trust_config(tmp_path / "down.json")
    monkeypatch.undo()
    with pytest.raises(SigstoreError, match=r"Fulcio gave no certificate.*refused"):
        sign_bundle(bundle, signer(down, services.token()))


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"mediaType": 1}', "\0"])
def test_a_trust_configuration_that_cannot_be_used_is_refused(
    services: Services, bundle: Path, trust: Path, tmp_path: Path, text: str | None
) -> None:
    sign_bundle(bundle, signer(trust, services.token()))
    file = tmp_path / "other.json"
    if text is not None:
        file.write_text(text)
    for use in (lambda: signer(file, services.token()), lambda: verify_bundle(bundle, trusted(services, file))):
        with pytest.raises(TrustConfigError, match=r"other\.json cannot be used"):
            use()


def test_without_the_public_services_their_trusted_root_is_asked_for(
    services: Services, bundle: Path, trust: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_bundle(bundle, signer(trust, services.token()))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(SigstoreError, match="trusted root of Sigstore cannot be fetched") as refused:
        verify_bundle(bundle, TrustedIdentity(Identity(WHO, services.issuer)))
    assert "--trust-config FILE" in refused.value.hint


def test_the_commands_sign_and_verify_and_never_show_the_token(
    shell: Shell,  # noqa: F811 - the fixture
    services: Services,
    tmp_path: Path,
) -> None:
    assert shell("build", RECIPE) == 0
    token = services.token()
    shell.patch.setenv("SIGSTORE_ID_TOKEN", token)
    shell.patch.setenv("ORCHESTRATOR_TRUST_CONFIG", str(services.trust_config(tmp_path / "trust.json")))
    assert shell("bundle", RECIPE, "--sign", "keyless") == 0, shell.err
    assert f"checked with --identity {WHO} --issuer {services.issuer}" in shell.out
    assert token not in shell.out + shell.err
    document = shell.json("bundle", RECIPE, "--sign", "keyless")
    assert document["signature"]["identity"] == WHO
    services.answers["/api/v2/signingCert"] = (500, b"")
    assert shell("bundle", RECIPE, "--sign", "keyless") == 6
    assert "error[SIGSTORE_UNREACHABLE]" in shell.err
    assert token not in shell.out + shell.err
    shell.patch.delenv("SIGSTORE_ID_TOKEN")
    shell.patch.setattr("sigstore.oidc.detect_credential", lambda: None)
    assert shell("bundle", RECIPE, "--sign", "keyless") == 3
    assert "error[IDENTITY_TOKEN]" in shell.err
    assert shell("bundle", RECIPE) == 0  # an unchanged bundle keeps its signature, which --air-gap packs
    options = ("verify-bundle", document["bundle"], "--issuer", services.issuer, "--identity")
    assert shell(*options, WHO) == 0, shell.err
    assert f"trusted: {WHO} of {services.issuer}" in shell.out
    assert shell.json(*options, WHO)["issuer"] == services.issuer
    assert shell(*options, "stranger@example.com") == 7
    assert "error[SIGNATURE_INVALID]" in shell.err
    for file in (*shell.dist.rglob("*"), *shell.store.rglob("*")):
        assert not file.is_file() or token.encode() not in file.read_bytes(), file


KUBECTL = '#!/bin/sh\necho "$@" >>"$KUBECTL_LOG"\necho complete\n'


@pytest.mark.parametrize("program", ["orchestrator", "model_signing"])
def test_the_loader_of_a_cluster_demands_an_identity(
    services: Services, trust: Path, tmp_path: Path, program: str
) -> None:
    script = (GOLDEN / "model-volume" / "load-model.sh").read_text()
    bundle = write_bundle(tmp_path, **{"model-volume/load-model.sh": script})
    for private in (".env", "secrets/api_keys"):
        (bundle / private).unlink()
    programs, log = tmp_path / "programs", tmp_path / "kubectl.log"
    programs.mkdir()
    started = f"{sys.executable} -m orchestrator.cli.main" if program == "orchestrator" else str(MODEL_SIGNING)
    for name, text in (("kubectl", KUBECTL), (program, f'#!/bin/sh\nexec {started} "$@"\n')):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    variables = {"PATH": f"{programs}:/usr/bin:/bin", "KUBECTL_LOG": str(log), "TRUST_CONFIG": str(trust)}

    def load(**trusted: str) -> subprocess.CompletedProcess[str]:
        return run("bash", bundle / "model-volume" / "load-model.sh", **variables, **trusted)

    sign_bundle(bundle, signer(trust, services.token()))
    assert load(TRUSTED_IDENTITY=WHO).returncode == 3
    stranger = load(TRUSTED_IDENTITY="stranger@example.com", TRUSTED_ISSUER=services.issuer)
    assert stranger.returncode == (7 if program == "orchestrator" else 1), stranger.stderr
    assert not log.exists()
    owner = load(TRUSTED_IDENTITY=WHO, TRUSTED_ISSUER=services.issuer)
    assert owner.returncode == 0, owner.stderr
    assert log.exists()


def test_an_archive_carries_the_signature_to_a_machine_without_a_network(
    services: Services, trust: Path, bundle: Path, tmp_path: Path
) -> None:
    sign_bundle(bundle, signer(trust, services.token()))
    archived = WritingDocker().archive(bundle, tmp_path / "small.tar")
    (tmp_path / "there").mkdir()
    there = OtherMachine(tmp_path / "there")
    assert there.unpack(archived.file) == 0
    ended = there.install()
    assert ended.returncode == 0, ended.stderr
    assert verify_bundle(there.folder / NAME, trusted(services, trust)).files == 4


def test_a_deployment_demands_an_identity(services: Services, bundle: Path, trust: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny-llama-w4a16-nvfp4").symlink_to(bundle)
    demanded = {
        "ORCHESTRATOR_TRUSTED_IDENTITY": WHO,
        "ORCHESTRATOR_TRUSTED_ISSUER": services.issuer,
        "ORCHESTRATOR_TRUST_CONFIG": str(trust),
        "DOCKER_HOST": f"unix://{tmp_path}/no-docker",
    }

    def deploy(*options: str) -> subprocess.CompletedProcess[str]:
        arguments = ("--dist", str(tmp_path), "deploy", "tiny-llama-w4a16-nvfp4", *options)
        return orchestrator(*arguments, environment={**os.environ, **demanded}, folder=ROOT)

    sign_bundle(bundle, signer(trust, services.token()))
    stranger = deploy("--identity", "stranger@example.com")
    assert (stranger.returncode, "SIGNATURE_INVALID" in stranger.stderr) == (7, True), stranger.stderr
    assert "DOCKER_UNAVAILABLE" in deploy().stderr
    both = deploy("--key", "owner.pub")
    assert (both.returncode, "name one of them" in both.stderr) == (2, True), both.stderr
