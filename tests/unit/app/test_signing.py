"""A signed bundle: what is checked, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from orchestrator.app.settings import Settings
from orchestrator.app.signing import read_signing_key, sign_bundle, verify_bundle
from orchestrator.bundle.files import sums_text
from orchestrator.bundle.keyless import Identity, TrustedIdentity
from orchestrator.bundle.signing import read_private_key
from orchestrator.errors import BundleIncompleteError, DependencyMissingError, SignatureInvalidError, SigningKeyError
from tests.support.keys import make_key

FILES = {
    "model/config.json": "{}",
    "model/model-00001.safetensors": "weights",
    "model/draft/config.json": "{}",
    "compose.yaml": "services: {}",
    "secrets/README": "keys go here",
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in FILES.items()}
    (folder / "SHA256SUMS").write_text(sums_text(sums))
    return folder


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_key(tmp_path / "owner.pem")


def sign(bundle: Path, key: Path, **environment: str) -> Path:
    return sign_bundle(bundle, read_signing_key(Settings(environment), str(key))).file


def test_a_signed_bundle_is_verified_with_the_key_that_is_named(bundle: Path, key: Path) -> None:
    sign(bundle, key)
    (bundle / ".env").write_text("PORT=8001")
    (bundle / "secrets" / "api_keys").write_text("the user's")
    (bundle / "images" / "0").mkdir(parents=True)
    (bundle / "images" / "0" / "00000.part").write_text("of an archive")
    verified = verify_bundle(bundle, key.with_suffix(".pub"))
    der = serialization.load_pem_public_key(key.with_suffix(".pub").read_bytes()).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert verified.signer.facts["key_sha256"] == hashlib.sha256(der).hexdigest()
    assert verified.files == 4
    assert verified.unsigned == (".env", "SHA256SUMS", "images/0/00000.part", "secrets/README", "secrets/api_keys")


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_keys_of_each_curve_of_the_format_sign(bundle: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    key = make_key(tmp_path / "owner.pem", curve=curve)
    sign(bundle, key)
    assert verify_bundle(bundle, key.with_suffix(".pub")).files == 4


def test_the_model_is_not_read_to_sign_it(bundle: Path, key: Path) -> None:
    (bundle / "model" / "model-00001.safetensors").unlink()
    sign(bundle, key)
    with pytest.raises(SignatureInvalidError, match=r"missing: model/model-00001\.safetensors"):
        verify_bundle(bundle, key.with_suffix(".pub"))


def test_a_file_that_the_user_has_changed_is_not_signed(bundle: Path, key: Path) -> None:
    (bundle / "compose.yaml").write_text("services: {more: {}}")
    with pytest.raises(SignatureInvalidError, match=r"compose\.yaml"):
        sign(bundle, key)
    assert not (bundle / "model.sig").exists()


def change(bundle: Path) -> None:
    (bundle / "model" / "model-00001.safetensors").write_text("Weights")


def remove(bundle: Path) -> None:
    (bundle / "compose.yaml").unlink()


def add(bundle: Path) -> None:
    (bundle / "model" / "model-00002.safetensors").write_text("more weights")


def link(bundle: Path) -> None:
    (bundle / "model" / "config.json").rename(bundle.parent / "config.json")
    (bundle / "model" / "config.json").symlink_to(bundle.parent / "config.json")


def link_a_folder(bundle: Path) -> None:
    (bundle / "model" / "draft").rename(bundle.parent / "draft")
    (bundle / "model" / "draft").symlink_to(bundle.parent / "draft")


def hide_among_the_ignored(bundle: Path) -> None:
    (bundle / "model" / ".env").write_text("")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (change, "changed: model/model-00001.safetensors"),
        (remove, r"missing: compose\.yaml"),
        (add, "not signed: model/model-00002.safetensors"),
        (link, r"not signed: model/config\.json \(a link"),
        (link_a_folder, r"missing: model/draft/config\.json"),
        (hide_among_the_ignored, r"not signed: model/\.env"),
    ],
)
def test_a_bundle_that_is_not_as_it_was_signed_is_refused(
    bundle: Path, key: Path, damage: Callable[[Path], None], named: str
) -> None:
    sign(bundle, key)
    damage(bundle)
    with pytest.raises(SignatureInvalidError, match=named):
        verify_bundle(bundle, key.with_suffix(".pub"))


def test_a_signature_by_another_key_is_refused(bundle: Path, key: Path, tmp_path: Path) -> None:
    sign(bundle, make_key(tmp_path / "stranger.pem"))
    with pytest.raises(SignatureInvalidError, match="was not made with the key"):
        verify_bundle(bundle, key.with_suffix(".pub"))


def test_a_bundle_without_a_signature_is_refused(bundle: Path, key: Path) -> None:
    with pytest.raises(SignatureInvalidError, match="is not signed"):
        verify_bundle(bundle, key.with_suffix(".pub"))
    with pytest.raises(BundleIncompleteError):
        verify_bundle(bundle / "nothing", key.with_suffix(".pub"))


def test_one_changed_byte_of_a_signature_is_refused(bundle: Path, key: Path) -> None:
    file = sign(bundle, key)
    document = json.loads(file.read_text())
    payload = bytearray(base64.b64decode(document["dsseEnvelope"]["payload"]))
    payload[len(payload) // 2] ^= 1
    document["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    file.write_text(json.dumps(document))
    with pytest.raises(SignatureInvalidError):
        verify_bundle(bundle, key.with_suffix(".pub"))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"verificationMaterial": {"publicKey": {}}, "dsseEnvelope": 1}', "\0"]
)
def test_what_is_no_signature_is_refused(bundle: Path, key: Path, text: str) -> None:
    (bundle / "model.sig").write_text(text)
    with pytest.raises(SignatureInvalidError, match=r"no signature of OpenSSF Model Signing"):
        verify_bundle(bundle, key.with_suffix(".pub"))


@pytest.mark.parametrize("kind", ["nested", "a link", "a pipe", "a folder", "endless"])
def test_a_signature_that_would_hang_or_crash_its_reader_is_refused(bundle: Path, key: Path, kind: str) -> None:
    file = bundle / "model.sig"
    match kind:
        case "nested":
            file.write_text("[" * 100_000)
        case "a link":
            file.symlink_to("/dev/zero")
        case "a pipe":
            os.mkfifo(file)
        case "a folder":
            file.mkdir()
        case _:
            file.touch()
            os.truncate(file, 1 << 40)
    with pytest.raises(SignatureInvalidError, match="no signature"):
        verify_bundle(bundle, key.with_suffix(".pub"))


def edited(change: Callable[[dict[str, Any]], None]) -> Callable[[Path, Path], None]:
    """Sign a statement that was changed, with the right key."""

    def make(file: Path, key: Path) -> None:
        document = json.loads(file.read_text())
        statement = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
        change(statement)
        payload = json.dumps(statement).encode()
        signature = read_private_key(key, None).sign(
            b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(payload), payload)
        )
        document["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
        document["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
        file.write_text(json.dumps(document))

    return make


@pytest.mark.parametrize(
    "make",
    [
        edited(lambda statement: statement.update(predicateType="https://slsa.dev/provenance/v1")),
        edited(lambda statement: statement["predicate"]["serialization"].update(method="shards")),
        edited(lambda statement: statement["predicate"]["resources"][0].update(algorithm="blake2")),
        edited(lambda statement: statement["subject"][0]["digest"].update(sha256="0" * 64)),
    ],
)
def test_a_signed_statement_of_another_kind_is_refused(
    bundle: Path, key: Path, make: Callable[[Path, Path], None]
) -> None:
    make(sign(bundle, key), key)
    with pytest.raises(SignatureInvalidError, match=r"no signature of OpenSSF Model Signing"):
        verify_bundle(bundle, key.with_suffix(".pub"))


def test_a_signature_by_an_identity_names_the_options_that_check_it(bundle: Path, key: Path) -> None:
    file = sign(bundle, key)
    document = json.loads(file.read_text())
    document["verificationMaterial"] = {"certificate": {"rawBytes": ""}, "tlogEntries": []}
    file.write_text(json.dumps(document))
    with pytest.raises(SignatureInvalidError, match="without a key") as error:
        verify_bundle(bundle, key.with_suffix(".pub"))
    assert "--identity WHO --issuer URL" in error.value.hint


def test_without_the_extra_an_identity_neither_signs_nor_is_checked(
    bundle: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(bundle, key)
    monkeypatch.setitem(sys.modules, "sigstore.sign", None)
    identity = TrustedIdentity(Identity("owner@example.com", "https://issuer.example"))
    for use in (lambda: read_signing_key(Settings({}), "keyless"), lambda: verify_bundle(bundle, identity)):
        with pytest.raises(DependencyMissingError, match="sigstore is missing") as error:
            use()
        assert "[keyless]" in error.value.hint


PASSWORD = "ORCHESTRATOR_KEY_PASSWORD"


def test_a_locked_key_needs_its_password(bundle: Path, tmp_path: Path) -> None:
    key = make_key(tmp_path / "locked.pem", password=b"correct horse")
    with pytest.raises(SigningKeyError, match="locked by a password") as error:
        sign(bundle, key)
    assert PASSWORD in error.value.hint
    with pytest.raises(SigningKeyError):
        sign(bundle, key, **{PASSWORD: "wrong"})
    sign(bundle, key, **{PASSWORD: "correct horse"})
    assert verify_bundle(bundle, key.with_suffix(".pub")).files == 4


def test_keys_of_other_kinds_and_other_files_are_refused(bundle: Path, key: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for content in (
        ed25519.Ed25519PrivateKey.generate().private_bytes(*form),
        b"nothing",
        key.with_suffix(".pub").read_bytes(),
    ):
        other.write_bytes(content)
        with pytest.raises(SigningKeyError, match="P-256"):
            sign(bundle, other)
    make_key(other, curve=ec.SECP256K1())
    with pytest.raises(SigningKeyError, match="another kind"):
        sign(bundle, other)
    sign(bundle, key)
    for file in (other.with_suffix(".pub"), key, tmp_path / "missing"):
        with pytest.raises(SigningKeyError):
            verify_bundle(bundle, file)


def test_the_same_files_have_the_same_statement_wherever_they_lie(bundle: Path, key: Path) -> None:
    first = json.loads(sign(bundle, key).read_text())["dsseEnvelope"]["payload"]
    for file in (bundle / "model").rglob("*"):
        os.utime(file, (1, 1))
    assert json.loads(sign(bundle, key).read_text())["dsseEnvelope"]["payload"] == first
