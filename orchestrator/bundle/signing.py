"""Signs a bundle in the format of OpenSSF Model Signing 1.0, and reads such a signature.

The signature is one file among the signed ones: a Sigstore bundle, in it a DSSE envelope, in it an in-toto statement
with the SHA-256 of every file. A key signs it here, an identity in `keyless.py`.
https://github.com/ossf/model-signing-spec, https://github.com/secure-systems-lab/dsse
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from orchestrator.bundle.keyless import Identity
from orchestrator.errors import SignatureInvalidError, SigningKeyError
from orchestrator.values import frozen

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
"""The hash of a signature for each curve, as Sigstore pairs them."""
_KEY_KIND = "expected a PEM file with an ECDSA key on P-256, P-384 or P-521"
_LARGEST = 1 << 26
"""Bytes of a signature; one of 100,000 files has a third of that."""
_FROM_OWNER = "get the bundle from its owner again"
_MAKE_KEY = "make one: openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem"


class Trusted(Protocol):
    """Checks signatures."""

    def opened(self, content: bytes, file: Path) -> bytes:
        """Check a Sigstore bundle, and return its in-toto statement. `file` is for messages."""


class Signer(Protocol):
    """Makes signatures."""

    def seal(self, statement: bytes) -> tuple[str, PublicKey | Identity]:
        """Sign an in-toto statement. Returns a Sigstore bundle, and what it is checked with."""


@frozen
class PublicKey:
    """A key that checks signatures."""

    key: ec.EllipticCurvePublicKey

    @property
    def digest(self) -> str:
        """Its fingerprint: the SHA-256 of its DER form."""
        return self._digest(serialization.Encoding.DER)

    @property
    def hint(self) -> str:
        """Its name in a signature: the SHA-256 of its PEM form."""
        return self._digest(serialization.Encoding.PEM)

    @property
    def facts(self) -> Mapping[str, str]:
        """What a JSON document says about it."""
        return {"key_sha256": self.digest}

    def opened(self, content: bytes, file: Path) -> bytes:
        """Check a Sigstore bundle, and return its in-toto statement. `file` is for messages.

        Raises:
            SignatureInvalidError: Somebody else made it.
        """
        bundle = json.loads(content)
        envelope = bundle["dsseEnvelope"]
        if "publicKey" not in bundle["verificationMaterial"]:
            message = f"{file} was signed without a key, by an identity or a certificate"
            hint = "check who signed it: --identity WHO --issuer URL in place of a key"
            raise SignatureInvalidError(message, hint=hint)
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        expected_type = bundle["mediaType"] == _MEDIA_TYPE and envelope["payloadType"] == _PAYLOAD_TYPE
        if not expected_type or not self._has_signed(_pre_authentication(payload), signature):
            message = f"{file} was not made with the key whose SHA-256 is {self.digest}"
            raise SignatureInvalidError(message, hint="ask the owner for the key, or do not use this bundle")
        return payload

    def _has_signed(self, content: bytes, signature: bytes) -> bool:
        try:
            self.key.verify(signature, content, ec.ECDSA(_HASHES[self.key.curve.name]))
        except InvalidSignature:
            return False
        return True

    def _digest(self, encoding: serialization.Encoding) -> str:
        content = self.key.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(content).hexdigest()


@frozen
class PrivateKey:
    """A key that signs."""

    key: ec.EllipticCurvePrivateKey

    @property
    def public(self) -> PublicKey:
        """The key that checks its signatures."""
        return PublicKey(self.key.public_key())

    def sign(self, content: bytes) -> bytes:
        """Sign with the hash that Sigstore pairs with the key's curve."""
        return self.key.sign(content, ec.ECDSA(_HASHES[self.key.curve.name]))

    def seal(self, statement: bytes) -> tuple[str, PublicKey]:
        """Sign an in-toto statement. Returns a Sigstore bundle, and the key that checks it."""
        envelope = {
            "payload": base64.b64encode(statement).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(self.sign(_pre_authentication(statement))).decode(), "keyid": ""}],
        }
        material = {"publicKey": {"hint": self.public.hint}, "tlogEntries": []}
        bundle = {"mediaType": _MEDIA_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope}
        return json.dumps(bundle) + "\n", self.public

    def sign_for_openssl(self, content: bytes) -> bytes:
        """Sign for `openssl dgst -sha256 -verify`, which takes any curve."""
        return self.key.sign(content, ec.ECDSA(hashes.SHA256()))


@frozen
class Signed:
    """What a signature is about."""

    name: str
    """The folder's name when it was signed."""
    files: Mapping[str, str]
    """The SHA-256 of each file, by path."""
    ignored: tuple[str, ...]
    """Files and folders that it is not about."""

    def ignores(self, name: str) -> bool:
        """Tell whether the signature is not about a file."""
        return any(name == one or name.startswith(f"{one}/") for one in self.ignored)


def read_private_key(file: Path, password: str | None) -> PrivateKey:
    """Read a key to sign with.

    Raises:
        SigningKeyError: It cannot sign.
    """
    content = _read_key(file)
    try:
        key = serialization.load_pem_private_key(content, password.encode() if password else None)
    except TypeError as error:  # the library's answer to a missing or superfluous password
        message = f"{file}: the key is locked by a password" if password is None else f"{file}: the key has no password"
        raise SigningKeyError(message, hint="set or unset ORCHESTRATOR_KEY_PASSWORD") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        message = f"{file} is not a private key, or its password is wrong; {_KEY_KIND}"
        raise SigningKeyError(message, hint=_MAKE_KEY) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
        message = f"{file} is a private key of another kind; {_KEY_KIND}"
        raise SigningKeyError(message, hint=_MAKE_KEY)
    return PrivateKey(key)


def read_public_key(file: Path) -> PublicKey:
    """Read a key to check signatures with.

    Raises:
        SigningKeyError: It cannot check signatures.
    """
    hint = "the owner of the private key writes it: openssl pkey -in KEY.pem -pubout -out KEY.pub"
    try:
        key = serialization.load_pem_public_key(_read_key(file))
    except (ValueError, UnsupportedAlgorithm) as error:
        message = f"{file} is not a public key; {_KEY_KIND}"
        raise SigningKeyError(message, hint=hint) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        message = f"{file} is a public key of another kind; {_KEY_KIND}"
        raise SigningKeyError(message, hint=hint)
    return PublicKey(key)


def _read_key(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        message = f"{file}: the key cannot be read: {error.strerror}"
        raise SigningKeyError(message, hint="name the PEM file of a key") from error


def statement_of(signed: Signed) -> bytes:
    """Write the in-toto statement about files, from their digests."""
    return json.dumps(_statement(signed), separators=(",", ":")).encode()


def _statement(signed: Signed) -> dict[str, object]:
    names = sorted(signed.files, key=PurePosixPath)
    resources = [{"name": name, "algorithm": "sha256", "digest": signed.files[name]} for name in names]
    serialized = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": list(signed.ignored),
    }
    return {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": signed.name, "digest": {"sha256": _root_digest([signed.files[name] for name in names])}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {"serialization": serialized, "resources": resources},
    }


def _root_digest(digests: Sequence[str]) -> str:
    """Calculate the digest of all digests."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def _pre_authentication(payload: bytes) -> bytes:
    """Encode the payload with its type, as DSSE has it signed."""
    return f"DSSEv1 {len(_PAYLOAD_TYPE)} {_PAYLOAD_TYPE} {len(payload)} ".encode() + payload


def read_signature(file: Path, trusted: Trusted) -> Signed:
    """Check a signature, and return what it is about.

    Args:
        file: The signature.
        trusted: The key or the identity that is trusted.

    Raises:
        SignatureInvalidError: It is missing or damaged, or somebody else made it.
    """
    if file.is_symlink() or (file.exists() and not (file.is_file() and file.stat().st_size <= _LARGEST)):
        message = f"{file} is no signature: it is a link, a special file, or larger than {_LARGEST} bytes"
        raise SignatureInvalidError(message, hint=_FROM_OWNER)
    try:
        return _read_statement(json.loads(trusted.opened(file.read_bytes(), file)))
    except FileNotFoundError as error:
        message = f"{file.parent} is not signed: there is no {file.name}"
        raise SignatureInvalidError(
            message, hint="its owner signs it: orchestrator bundle --sign KEY, or keyless"
        ) from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, binascii.Error) as error:
        message = f"{file} is no signature of OpenSSF Model Signing 1.0: {error!r}"
        raise SignatureInvalidError(message, hint=_FROM_OWNER) from error


def _read_statement(statement: Any) -> Signed:  # noqa: ANN401 - JSON by a trusted signer
    if (statement["_type"], statement["predicateType"]) != (_STATEMENT_TYPE, _PREDICATE_TYPE):
        message = f"it is a statement of type {statement['predicateType']}"
        raise ValueError(message)
    (subject,), predicate = statement["subject"], statement["predicate"]
    resources, serialized = predicate["resources"], predicate["serialization"]
    if serialized["method"] != "files" or any(one["algorithm"] != "sha256" for one in resources):
        message = "only signatures over the SHA-256 of whole files are supported"
        raise ValueError(message)
    if _root_digest([one["digest"] for one in resources]) != subject["digest"]["sha256"]:
        message = "its digest is not that of its files"
        raise ValueError(message)
    files = {str(one["name"]): str(one["digest"]) for one in resources}
    return Signed(str(subject["name"]), files, tuple(map(str, serialized.get("ignore_paths", ()))))
