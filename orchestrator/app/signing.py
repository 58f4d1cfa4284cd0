"""Signs bundles, and checks them and their signatures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.app.settings import Settings
from orchestrator.bundle.contents import MODEL_FOLDER
from orchestrator.bundle.files import IMAGES, INSTALL, INSTALLED, SIGNATURE, SUMS, SUMS_SIGNATURE, read_sums
from orchestrator.bundle.private_files import PRIVATE
from orchestrator.bundle.signing import (
    PrivateKey,
    PublicKey,
    Signed,
    read_private_key,
    read_public_key,
    read_signature,
    signature_text,
)
from orchestrator.errors import BundleIncompleteError, SignatureInvalidError, SigningKeyError, machine_faults
from orchestrator.events import Observer, Progress, silence
from orchestrator.store.fingerprint import sha256_of

_KEYLESS = "keyless"
_PASSWORD = "ORCHESTRATOR_KEY_PASSWORD"  # noqa: S105 - the name of the variable
_NOT_SIGNED = (SIGNATURE, *PRIVATE, SUMS, SUMS_SIGNATURE, INSTALLED, IMAGES, INSTALL)
"""Files beside the signed ones: the signature, the user's files, and those of an archive."""
_NAMED = 5
"""Most files that a message names."""


@dataclass(frozen=True)
class Verified:
    """A bundle that is as it was signed."""

    folder: Path
    files: int
    """Number of signed files."""
    key: PublicKey
    """The key that was trusted."""
    unsigned: tuple[str, ...]
    """Files that the signature is not about: the user's settings and secrets, and those of an archive."""


def read_signing_key(settings: Settings, key: str) -> PrivateKey:
    """Read the key to sign with.

    Args:
        settings: The environment, for the key's password.
        key: The path of its PEM file.

    Raises:
        SigningKeyError: It cannot sign.
    """
    if key == _KEYLESS:
        message = "keyless signing is not supported: it needs an identity provider, Fulcio and Rekor"
        hint = "sign with a key: --sign KEY.pem; or sign the finished bundle: model_signing sign sigstore FOLDER"
        raise SigningKeyError(message, hint=hint)
    return read_private_key(Path(key), settings.environment.get(_PASSWORD))


def sign_bundle(folder: Path, key: PrivateKey) -> Path:
    """Sign a bundle that was just written. The model is not read: its digests are those of the store.

    Args:
        folder: The bundle.
        key: The key to sign with.

    Returns:
        The file of the signature.

    Raises:
        SignatureInvalidError: The user has changed a file since the bundle was written.
    """
    whole = Signed(folder.name, read_sums(folder), _NOT_SIGNED)
    files = {name: digest for name, digest in whole.files.items() if not whole.ignores(name)}
    small = {name: digest for name, digest in files.items() if not name.startswith(f"{MODEL_FOLDER}/")}
    changed = [name for name, digest in small.items() if sha256_of(folder / name) != digest]
    if changed:
        message = f"{folder}: changed since the bundle was written, so not signed: {_listed(changed)}"
        raise SignatureInvalidError(message, hint="write settings into .env, or remove the folder and write it again")
    file = folder / SIGNATURE
    with machine_faults(f"writing {file}"):
        file.write_text(signature_text(Signed(folder.name, files, whole.ignored), key), encoding="utf-8")
    return file


def verify_bundle(folder: Path, key_file: Path, observer: Observer = silence) -> Verified:
    """Check every file of a bundle against its signature.

    Args:
        folder: The bundle.
        key_file: The public key that is trusted.
        observer: Gets the progress.

    Raises:
        SigningKeyError: The key cannot check signatures.
        SignatureInvalidError: The signature is missing or by another key, or a file is changed, missing or not signed.
    """
    key = read_public_key(key_file)
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
    return Verified(folder, len(signed.files), key, tuple(unsigned))


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
