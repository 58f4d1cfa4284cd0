"""Signs a bundle with an identity, and checks such a signature, by the library of Sigstore, which is an extra.

Fulcio certifies who signs, for a key that is used once. Rekor, a public log, lists the signature with its time. The
trusted root has the keys of both, so a signature is checked without a network.
https://docs.sigstore.dev/about/overview, https://github.com/sigstore/sigstore-python
"""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from orchestrator.errors import (
    DependencyMissingError,
    IdentityTokenError,
    SignatureInvalidError,
    SigstoreError,
    TrustConfigError,
)
from orchestrator.values import frozen

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, UnrecognizedExtension
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.verify import Verifier

TOKEN = "SIGSTORE_ID_TOKEN"  # noqa: S105 - the name of the variable
TOKEN_FILE = "SIGSTORE_ID_TOKEN_FILE"  # noqa: S105
_ISSUER = "1.3.6.1.4.1.57264.1.8"
"""The extension of a certificate that names the issuer: https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md."""
_ROOT_TYPE = "application/vnd.dev.sigstore.trustedroot+json"
_LONGEST = 120.0
"""Seconds until the services must have answered; the library itself would wait without end."""
_ELSEWHERE = "without Sigstore's own services: --trust-config FILE"


@frozen
class Identity:
    """Who signed: a name, and the identity provider that knows it."""

    name: str
    issuer: str
    """The URL of the provider."""

    def __str__(self) -> str:
        """Name it in a sentence."""
        return f"{self.name} of {self.issuer}"

    @property
    def facts(self) -> Mapping[str, str]:
        """What a JSON document says about it."""
        return {"identity": self.name, "issuer": self.issuer}

    @property
    def option(self) -> str:
        """The options that check its signatures."""
        return shlex.join(["--identity", self.name, "--issuer", self.issuer])


@frozen
class KeylessSigner:
    """Signs with the identity of a token."""

    token: IdentityToken = field(repr=False)
    trust: ClientTrustConfig

    def seal(self, statement: bytes) -> tuple[str, Identity]:
        """Sign an in-toto statement.

        Args:
            statement: The statement.

        Returns:
            A Sigstore bundle, which was checked as its readers will check it, and who signed it.

        Raises:
            IdentityTokenError: The token has expired.
            SigstoreError: A service did not answer as it should.
        """
        sealed: Future[tuple[str, Identity]] = Future()

        def work() -> None:
            try:
                sealed.set_result(self._seal(statement))
            except Exception as error:  # noqa: BLE001 - it is raised again where the result is read
                sealed.set_exception(error)

        threading.Thread(target=work, name="sigstore", daemon=True).start()
        try:
            return sealed.result(timeout=_LONGEST)
        except TimeoutError as error:
            message = f"the bundle is not signed: the services of Sigstore gave no answer within {_LONGEST:.0f} s"
            raise SigstoreError(message, hint="run it again later: the bundle is written") from error

    def _seal(self, statement: bytes) -> tuple[str, Identity]:
        from sigstore.dsse import Statement  # noqa: PLC0415 - an extra
        from sigstore.sign import Signer, SigningContext  # noqa: PLC0415
        from sigstore.verify import Verifier  # noqa: PLC0415

        signed_by = _Anybody()
        with self._step("Fulcio gave no certificate", "look at the token: its audience must be `sigstore`"):
            signer = Signer(self.token, SigningContext.from_trust_config(self.trust))
        with self._step("the log Rekor gave no entry", "run it again later: the bundle is written"):
            bundle = signer.sign_dsse(Statement(statement))
        with self._step("the services do not fit their own trusted root", "ask their owner, or look at --trust-config"):
            Verifier(trusted_root=self.trust.trusted_root).verify_dsse(bundle, signed_by)
        return bundle.to_json() + "\n", signed_by.identity

    @contextmanager
    def _step(self, failed: str, hint: str) -> Iterator[None]:
        from sigstore.oidc import ExpiredIdentity  # noqa: PLC0415 - an extra

        try:
            yield
        except ExpiredIdentity as error:
            message = "the bundle is not signed: the identity token has expired"
            raise IdentityTokenError(message, hint="run it again with a new one: the bundle is written") from error
        except Exception as error:  # whatever a service answers, and whatever the library makes of it
            said = _said(error).replace(str(self.token), "[the token]")  # a service may repeat what it was sent
            message = f"the bundle is not signed: {failed}: {said}"
            raise SigstoreError(message, hint=hint) from error


def _said(error: BaseException) -> str:
    """Say in one line what went wrong: the library leaves some messages to the cause."""
    cause: BaseException | None = error
    while cause and not str(cause):
        cause = cause.__cause__ or cause.__context__
    return " ".join(str(cause or repr(error)).split())


class _Anybody:
    """Notes who signed, and refuses nobody."""

    identity: Identity

    def verify(self, cert: Certificate) -> None:
        """Read a certificate, whose chain was checked."""
        from cryptography.hazmat import asn1  # noqa: PLC0415 - since version 46, which the extra has
        from cryptography.x509 import ObjectIdentifier, SubjectAlternativeName  # noqa: PLC0415

        names = cert.extensions.get_extension_for_class(SubjectAlternativeName).value
        issuer = cast("UnrecognizedExtension", cert.extensions.get_extension_for_oid(ObjectIdentifier(_ISSUER)).value)
        (name,) = (one.value for one in names)
        self.identity = Identity(
            name.decode() if isinstance(name, bytes) else str(name), asn1.decode_der(str, issuer.value)
        )


@frozen
class TrustedIdentity:
    """Checks signatures of one identity."""

    identity: Identity
    trust_config: Path | None = None
    """The file with the trusted root, or a configuration that contains one; None: that of Sigstore's own services."""

    def opened(self, content: bytes, file: Path) -> bytes:
        """Check a Sigstore bundle, and return its in-toto statement.

        Args:
            content: The bundle.
            file: Its file, for messages.

        Raises:
            SignatureInvalidError: Somebody else made it, or it is damaged.
            TrustConfigError: The trusted root cannot be read.
            SigstoreError: The trusted root cannot be fetched.
        """
        check_installed()
        from sigstore.models import Bundle  # noqa: PLC0415 - an extra
        from sigstore.verify import policy  # noqa: PLC0415

        if "publicKey" in json.loads(content)["verificationMaterial"]:
            message = f"{file} was signed with a key, not by an identity"
            raise SignatureInvalidError(message, hint="check it with the key of its owner: --key FILE")
        verifier = _verifier(self.trust_config)
        name, issuer = self.identity.name, self.identity.issuer
        try:
            bundle = Bundle.from_json(content)
            trusted = policy.AllOf([policy.Identity(identity=name), policy.OIDCIssuerV2(issuer)])
            kind, statement = verifier.verify_dsse(bundle, trusted)
        except Exception as error:  # a stranger's file can make the library raise anything
            message = f"{file} was not made by {self.identity}: {_said(error)}"
            hint = (
                "compare the identity and its issuer with the owner's, and the trusted root; or do not use this bundle"
            )
            raise SignatureInvalidError(message, hint=hint) from error
        if kind != "application/vnd.in-toto+json":
            message = f"its content is of type {kind}"
            raise ValueError(message)
        return statement


def check_installed() -> None:
    """Check that the library is there.

    Raises:
        DependencyMissingError: It is not.
    """
    try:
        import sigstore.sign  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        message = "the Python package sigstore is missing, which signatures by an identity need"
        hint = "install the extra: pip install 'trtllm-orchestrator[keyless]'"
        raise DependencyMissingError(message, hint=hint) from error


def keyless_signer(environment: Mapping[str, str], trust_config: Path | None, *, interactive: bool) -> KeylessSigner:
    """Find a token and the services that take it.

    Args:
        environment: The environment variables, for the token.
        trust_config: The file with the services and their keys; None: Sigstore's own.
        interactive: Somebody can log in with a browser if there is no token.

    Raises:
        DependencyMissingError: The library is not installed.
        IdentityTokenError: There is no token, or it cannot be used.
        TrustConfigError: The file cannot be used.
        SigstoreError: The trusted root cannot be fetched, or the identity provider does not answer.
    """
    check_installed()
    token = _ready_token(environment)
    if token is None and not interactive:
        message = "there is no identity token to sign with"
        hint = f"put one for the audience `sigstore` into {TOKEN}, or into the file that {TOKEN_FILE} names"
        raise IdentityTokenError(message, hint=f"{hint}; or run it in a terminal to log in with a browser")
    trust = _client_trust(trust_config)
    return KeylessSigner(token or _log_in(trust), trust)


def _ready_token(environment: Mapping[str, str]) -> IdentityToken | None:
    """Read the token, or ask the CI system for one."""
    from sigstore.oidc import IdentityToken, detect_credential  # noqa: PLC0415 - an extra

    given = _given_token(environment)
    with _identity_faults():
        raw = given or detect_credential()
        return IdentityToken(raw) if raw else None


def _log_in(trust: ClientTrustConfig) -> IdentityToken:
    """Let a person log in with a browser."""
    from sigstore.oidc import Issuer  # noqa: PLC0415 - an extra

    with _identity_faults():
        return Issuer(trust.signing_config.get_oidc_url()).identity_token()


@contextmanager
def _identity_faults() -> Iterator[None]:
    from sigstore.oidc import IdentityError  # noqa: PLC0415 - an extra

    try:
        yield
    except IdentityError as error:
        # The cause is the JWT library's error, which tells an expired token from a malformed one.
        message = f"the identity token cannot be used: {_said(error.__cause__ or error)}"
        raise IdentityTokenError(message, hint=f"get a new one for the audience `sigstore`, in {TOKEN}") from error
    except Exception as error:  # whatever a provider answers, and whatever the library makes of it
        message = f"the identity provider does not answer as it should: {_said(error)}"
        raise SigstoreError(message, hint=f"put a token into {TOKEN}") from error


def _given_token(environment: Mapping[str, str]) -> str:
    file = environment.get(TOKEN_FILE)
    if environment.get(TOKEN) or not file:
        return environment.get(TOKEN, "").strip()
    try:
        return Path(file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"{file}: the identity token cannot be read: {getattr(error, 'strerror', 'it is no text')}"
        raise IdentityTokenError(message, hint=f"look at {TOKEN_FILE}") from error


def _client_trust(file: Path | None) -> ClientTrustConfig:
    """Read or fetch the services and their keys."""
    from sigstore.models import ClientTrustConfig  # noqa: PLC0415

    if file is None:
        return _fetched_trust()
    with _trust_faults(file, "it must be a ClientTrustConfig of Sigstore, with services to sign with"):
        trust = ClientTrustConfig.from_json(file.read_text(encoding="utf-8"))
        _ = trust.trusted_root, trust.signing_config  # each is checked when it is used
        return trust


def _verifier(file: Path | None) -> Verifier:
    """Read or fetch the keys alone."""
    from sigstore.models import ClientTrustConfig, TrustedRoot  # noqa: PLC0415
    from sigstore.verify import Verifier  # noqa: PLC0415

    if file is None:
        return Verifier(trusted_root=_fetched_trust().trusted_root)
    with _trust_faults(file, "it must be a TrustedRoot or a ClientTrustConfig of Sigstore"):
        text = file.read_text(encoding="utf-8")
        is_root = str(json.loads(text).get("mediaType")).startswith(_ROOT_TYPE)
        root = TrustedRoot.from_file(str(file)) if is_root else ClientTrustConfig.from_json(text).trusted_root
        return Verifier(trusted_root=root)


@contextmanager
def _trust_faults(file: Path, expected: str) -> Iterator[None]:
    from sigstore.errors import Error  # noqa: PLC0415 - an extra

    try:
        yield
    except (OSError, ValueError, AttributeError, Error) as error:
        said = error.strerror if isinstance(error, OSError) else f"{expected}: {str(error).splitlines()[0]}"
        message = f"{file} cannot be used as a trust configuration: {said}"
        raise TrustConfigError(message, hint="get it from the owner of the services") from error


def _fetched_trust() -> ClientTrustConfig:
    from sigstore.errors import Error  # noqa: PLC0415
    from sigstore.models import ClientTrustConfig  # noqa: PLC0415

    try:
        return ClientTrustConfig.production()
    except Error as error:
        message = f"the trusted root of Sigstore cannot be fetched: {error}: {error.__cause__ or error}"
        raise SigstoreError(message, hint=f"without a network, or {_ELSEWHERE}") from error
