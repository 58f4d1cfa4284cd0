"""Signs bundles, and checks them and their signatures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator.app.settings import Settings
from orchestrator.bundle.contents import MODEL_FOLDER
from orchestrator.bundle.files import IMAGES, INSTALL, INSTALLED, SIGNATURE, SUMS, SUMS_SIGNATURE, read_sums
from orchestrator.bundle.keyless import Identity, KeylessSigner, TrustedIdentity, keyless_signer
from orchestrator.bundle.private_files import PRIVATE
from orchestrator.bundle.signing import (
    PrivateKey,
    PublicKey,
    Signed,
    Signer,
    read_private_key,
    read_public_key,
    read_signature,
    statement_of,
)
from orchestrator.errors import BundleIncompleteError, SignatureInvalidError, machine_faults
from orchestrator.events import Observer, Progress, silence
from orchestrator.store.fingerprint import sha256_of
from orchestrator.values import frozen

KEYLESS = "keyless"
"""In place of a key: sign with an identity."""
_PASSWORD = "ORCHESTRATOR_KEY_PASSWORD"  # noqa: S105 - the name of the variable
_NOT_SIGNED = (SIGNATURE, *PRIVATE, SUMS, SUMS_SIGNATURE, INSTALLED, IMAGES, INSTALL)
"""Files beside the signed ones: the signature, the user's files, and those of an archive."""
_NAMED = 5
"""Most files that a message names."""


@frozen
class Verified:
    """A bundle that is as it was signed."""

    folder: Path
    files: int
    """Number of signed files."""
    signer: PublicKey | Identity
    """The key or the identity that was trusted."""
    unsigned: tuple[str, ...]
    """Files that the signature is not about: the user's settings and secrets, and those of an archive."""


@frozen
class Signature:
    """The signature of a bundle."""

    file: Path
    signer: PublicKey | Identity
    """What it is checked with."""


def read_signing_key(
    settings: Settings, key: str, *, trust_config: Path | None = None, interactive: bool = False
) -> PrivateKey | KeylessSigner:
    """Read the key to sign with.

    Args:
        settings: The environment, for the key's password, or for the identity's token.
        key: The path of its PEM file, or `keyless` for an identity.
        trust_config: For `keyless`: the services and their keys; None: Sigstore's own.
        interactive: For `keyless`: a person can log in.

    Raises:
        SigningKeyError: It cannot sign.
        IdentityTokenError: There is no token that can sign.
        TrustConfigError: The trust configuration cannot be used.
        SigstoreError: The services cannot be found.
        DependencyMissingError: The library for `keyless` is not installed.
    """
    if key == KEYLESS:
        return keyless_signer(settings.environment, trust_config, interactive=interactive)
    return read_private_key(Path(key), settings.environment.get(_PASSWORD))


def sign_bundle(folder: Path, signer: Signer) -> Signature:
    """Sign a bundle that was just written. The model is not read: its digests are those of the store.

    Args:
        folder: The bundle.
        signer: The key to sign with, or the identity.

    Raises:
        SignatureInvalidError: The user has changed a file since the bundle was written.
        IdentityTokenError: The identity's token has expired.
        SigstoreError: A service for the identity did not answer as it should.
    """
    whole = Signed(folder.name, read_sums(folder), _NOT_SIGNED)
    files = {name: digest for name, digest in whole.files.items() if not whole.ignores(name)}
    small = {name: digest for name, digest in files.items() if not name.startswith(f"{MODEL_FOLDER}/")}
    changed = [name for name, digest in small.items() if sha256_of(folder / name) != digest]
    if changed:
        message = f"{folder}: changed since the bundle was written, so not signed: {_listed(changed)}"
        raise SignatureInvalidError(message, hint="write settings into .env, or remove the folder and write it again")
    text, checked_by = signer.seal(statement_of(Signed(folder.name, files, whole.ignored)))
    file = folder / SIGNATURE
    with machine_faults(f"writing {file}"):
        file.write_text(text, encoding="utf-8")
    return Signature(file, checked_by)


def verify_bundle(folder: Path, trusted: Path | TrustedIdentity, observer: Observer = silence) -> Verified:
    """Check every file of a bundle against its signature.

    Args:
        folder: The bundle.
        trusted: The file of the public key that is trusted, or the identity.
        observer: Gets the progress.

    Raises:
        SigningKeyError: The key cannot check signatures.
        TrustConfigError: The identity's trusted root cannot be used.
        SigstoreError: It cannot be fetched.
        DependencyMissingError: The library for identities is not installed.
        SignatureInvalidError: The signature is missing or by another, or a file is changed, missing or not signed.
    """
    key = trusted if isinstance(trusted, TrustedIdentity) else read_public_key(trusted)
    if not folder.is_dir():
        message = f"there is no bundle {folder}"
        raise BundleIncompleteError(message, hint="name the folder of a bundle, such as dist/RECIPE")
    signed = read_signature(folder / SIGNATURE, key)
    with machine_faults(f"reading {folder}"):
        present = frozenset(_present(folder))
        problems = [problem for problem in _problems(folder, signed, present, observer) if problem]
    if problems:
        message = f"{folder} is not as it was signed:\n" + "\n".join(f"  {problem}" for problem in problems)
        raise SignatureInvalidError(message, hint="get the bundle from its owner again")
    unsigned = sorted(name for name in present if signed.ignores(name) and name != SIGNATURE)
    signer = key.identity if isinstance(key, TrustedIdentity) else key
    return Verified(folder, len(signed.files), signer, tuple(unsigned))


def _problems(folder: Path, signed: Signed, present: frozenset[str], observer: Observer) -> Iterator[str]:
    """Compare the names first. If they are right, compare every byte."""
    missing = signed.files.keys() - present
    added = [name for name in present - signed.files.keys() - {SIGNATURE} if not signed.ignores(name)]
    if missing or added:
        yield f"missing: {_listed(missing)}" if missing else ""
        yield f"not signed: {_listed(added)}" if added else ""
        return
    changed = list(_changed(folder, signed, observer))
    yield f"changed: {_listed(changed)}" if changed else ""


def _changed(folder: Path, signed: Signed, observer: Observer) -> Iterator[str]:
    total = sum((folder / name).stat().st_size for name in signed.files)
    done = 0
    for name, digest in sorted(signed.files.items()):
        observer(Progress(done, total, "bytes", f"check: {name}"))
        if sha256_of(folder / name) != digest:
            yield name
        done += (folder / name).stat().st_size


def _present(folder: Path) -> Iterator[str]:
    """List everything in a folder. A link is listed with a mark, so that it is no signed file."""
    for place, folders, names in os.walk(folder):
        root = Path(place)
        for path in (root / name for name in (*folders, *names)):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                yield f"{name} (a link or special file)"
            elif path.is_file():
                yield name


def _listed(names: Iterable[str]) -> str:
    """Name some of the files, in a form that a terminal can show."""
    ordered = [name if name.isprintable() else repr(name) for name in sorted(names)]
    more = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
    return ", ".join(ordered[:_NAMED]) + more
