"""The services of Sigstore on a port of this machine, with keys of their own.

Fulcio's POST /api/v2/signingCert, POST /api/v1/log/entries of Rekor (entries `dsse` 0.0.1) and /api/v2/log/entries of
its second version (`hashedrekord` 0.0.2), a timestamp authority of RFC 3161 and an OpenID provider with a log-in by
browser. They check what the real ones do: `pkg/server/grpc_server.go` of sigstore/fulcio and
`pkg/types/dsse/v0.0.1/entry.go` of sigstore/rekor.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from tests.support.xet import QuietServer

WHO = "owner@example.com"
AUDIENCE = "sigstore"
_HASH = ec.ECDSA(hashes.SHA256())
_ISSUER, _ISSUER_V2 = (ObjectIdentifier(f"1.3.6.1.4.1.57264.1.{number}") for number in (1, 8))
_SCT_LIST = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_DAY = dt.timedelta(days=1)
_USAGES = (
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "encipher_only",
    "decipher_only",
)
_TSA_CONFIG = """\
[tsa]
default_tsa = it
[it]
serial = serial
default_policy = 1.3.6.1.4.1.57264.2
digests = sha256
signer_digest = sha256
ess_cert_id_alg = sha256
"""


class RefusedError(Exception):
    """A service refuses a request, with this status and message."""


@dataclass
class Services:
    """All services, and what they do wrong where a test wants that."""

    folder: Path
    """For the files of `openssl ts`."""
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """What is answered to a path in place of the right answer."""
    url: str = ""
    timestamps: bool = False
    """Whether clients are told of the timestamp authority, as those of the public services are."""
    log_version: int = 1
    """The version of Rekor that clients are told of; the second has no time of its own."""
    seen: list[str] = field(default_factory=list)
    """The path of each request."""
    hung: set[str] = field(default_factory=set)
    """Paths that are never answered."""
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.provider, self.log_key, self.ct_key, self.root_key, self.ca_key, self.tsa_key = (
            ec.generate_private_key(ec.SECP256R1()) for _ in range(6)
        )
        self.root = _authority("root", self.root_key, "root", self.root_key)
        self.ca = _authority("intermediate", self.ca_key, "root", self.root_key)
        self.tsa = _authority("tsa", self.tsa_key, "root", self.root_key, stamps=True)
        self.entries = [b"an entry", b"another", b"and one more"]
        self.codes: dict[str, str] = {}

    @property
    def issuer(self) -> str:
        """The URL of the OpenID provider."""
        return f"{self.url}/auth"

    def token(self, who: str = WHO, *, lives: float = 300, **claims: object) -> str:
        """Make an identity token."""
        now = int(time.time())
        given = {"iss": self.issuer, "aud": AUDIENCE, "sub": who, "iat": now - 600, "exp": time.time() + lives}
        return jwt.encode({**given, **claims}, self.provider, algorithm="ES256")

    def trusted_root(self) -> dict[str, Any]:
        """The keys, as a TrustedRoot."""
        authorities = {"uri": self.url, "validFor": _validity(), "subject": {"organization": "o", "commonName": "c"}}
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [_log(self.url, self.log_key)],
            "ctlogs": [_log(f"{self.url}/ct", self.ct_key)],
            "certificateAuthorities": [{**authorities, "certChain": _chain(self.ca, self.root)}],
            "timestampAuthorities": [{**authorities, "certChain": _chain(self.tsa, self.root)}],
        }

    def trust_config(self, file: Path) -> Path:
        """Write the services and their keys into a file, as a ClientTrustConfig."""
        stamps = [_service(f"{self.url}/api/v1/timestamp")] if self.timestamps else []
        signing: dict[str, Any] = {
            "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "caUrls": [_service(self.url)],
            "oidcUrls": [_service(self.issuer)],
            "rekorTlogUrls": [{**_service(self.url), "majorApiVersion": self.log_version}],
            "tsaUrls": stamps,
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaConfig": {"selector": "ANY"},
        }
        kind = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
        document: dict[str, Any] = {"mediaType": kind, "trustedRoot": self.trusted_root(), "signingConfig": signing}
        file.write_text(json.dumps(document))
        return file

    def certify(self, token: str, body: bytes) -> dict[str, Any]:
        """Fulcio: check the token and that its bearer has the key, and certify it for ten minutes."""
        try:
            claims = jwt.decode(token, self.provider.public_key(), ["ES256"], audience=AUDIENCE, issuer=self.issuer)
        except jwt.InvalidTokenError as error:
            raise RefusedError(400, "There was an error processing the identity token") from error
        request = x509.load_pem_x509_csr(base64.b64decode(json.loads(body)["certificateSigningRequest"]))
        if not request.is_signature_valid:
            raise RefusedError(400, "The signature supplied in the request could not be verified")
        certificate = self._certificate(request.public_key(), claims["sub"])
        pem = [one.public_bytes(serialization.Encoding.PEM).decode() for one in (certificate, self.ca, self.root)]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": pem}}}

    def _certificate(self, key: Any, who: str) -> x509.Certificate:  # noqa: ANN401 - of the request
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        issuer = self.issuer.encode()
        name = x509.UniformResourceIdentifier(who) if "://" in who else x509.RFC822Name(who)
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=False, crl_sign=False, **dict.fromkeys(_USAGES, False)
        )
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca_key.public_key())
        builder = (
            x509.CertificateBuilder(self.ca.subject, x509.Name([]), key, x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + dt.timedelta(minutes=10))
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(authority, critical=False)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER, issuer), critical=False)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_V2, bytes([12, len(issuer)]) + issuer), critical=False)
        )
        precertificate = builder.sign(self.ca_key, hashes.SHA256()).tbs_certificate_bytes
        timestamps = x509.UnrecognizedExtension(_SCT_LIST, self._promised(precertificate, now))
        return builder.add_extension(timestamps, critical=False).sign(self.ca_key, hashes.SHA256())

    def _promised(self, precertificate: bytes, now: dt.datetime) -> bytes:
        """The certificate log's promise to list a certificate (RFC 6962, 3.2 and 3.3)."""
        moment = struct.pack("!Q", int(now.timestamp() * 1000))
        entry = _identifier(self.ca_key) + len(precertificate).to_bytes(3, "big") + precertificate
        signature = self.ct_key.sign(b"\0\0" + moment + b"\0\1" + entry + b"\0\0", _HASH)
        promise = b"\0" + _identifier(self.ct_key) + moment + b"\0\0" + b"\4\3" + _sized(signature)
        listed = _sized(_sized(promise))
        return bytes([4, len(listed)]) + listed

    def list_entry(self, body: bytes) -> dict[str, Any]:
        """Rekor: check a signed envelope, list what identifies it, and prove that it is listed."""
        content = json.loads(body)["spec"]["proposedContent"]
        envelope, (verifier,) = json.loads(content["envelope"]), content["verifiers"]
        payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"]
        key = x509.load_pem_x509_certificate(base64.b64decode(verifier)).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        (signature,) = (one["sig"] for one in envelope["signatures"])
        signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
        key.verify(base64.b64decode(signature), signed, _HASH)
        spec: dict[str, Any] = {
            "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(content["envelope"].encode()).hexdigest()},
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            "signatures": [{"signature": signature, "verifier": verifier}],
        }
        entry = rfc8785.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
        self.entries.append(entry)
        return {hashlib.sha256(entry).hexdigest(): self.proved(entry)}

    def list_digest(self, body: bytes) -> dict[str, Any]:
        """Rekor's second version: check a signed digest, list it, and prove that it is listed."""
        request = json.loads(body)["hashedRekordRequestV002"]
        signature, digest = request["signature"], base64.b64decode(request["digest"])
        raw = base64.b64decode(signature["verifier"]["x509Certificate"]["rawBytes"])
        key = x509.load_der_x509_certificate(raw).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(base64.b64decode(signature["content"]), digest, ec.ECDSA(Prehashed(hashes.SHA256())))
        data = {"algorithm": "SHA2_256", "digest": request["digest"]}
        spec: dict[str, Any] = {"hashedRekordV002": {"data": data, "signature": signature}}
        entry = rfc8785.dumps({"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": spec})
        self.entries.append(entry)
        listed = self.proved(entry)
        proof = listed["verification"]["inclusionProof"]
        return {
            "logIndex": str(listed["logIndex"]),
            "logId": {"keyId": _base64_of(listed["logID"])},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
            "canonicalizedBody": listed["body"],
            "inclusionProof": {
                "logIndex": str(proof["logIndex"]),
                "treeSize": str(proof["treeSize"]),
                "rootHash": _base64_of(proof["rootHash"]),
                "hashes": [_base64_of(one) for one in proof["hashes"]],
                "checkpoint": {"envelope": proof["checkpoint"]},
            },
        }

    def proved(self, entry: bytes) -> dict[str, Any]:
        """Prove that the last entry is listed."""
        leaves = [hashlib.sha256(b"\0" + one).digest() for one in self.entries]
        index, root = len(leaves) - 1, _root(leaves)
        note = f"127.0.0.1 - 1\n{len(leaves)}\n{base64.b64encode(root).decode()}\n"
        signed = _identifier(self.log_key)[:4] + self.log_key.sign(note.encode(), _HASH)
        listed: dict[str, Any] = {
            "body": base64.b64encode(entry).decode(),
            "integratedTime": int(time.time()),
            "logID": _identifier(self.log_key).hex(),
            "logIndex": index,
        }
        promise = self.log_key.sign(rfc8785.dumps(listed), _HASH)
        proof = {
            "checkpoint": f"{note}\n\N{EM DASH} 127.0.0.1 {base64.b64encode(signed).decode()}\n",
            "hashes": [one.hex() for one in _path(index, leaves)],
            "logIndex": index,
            "rootHash": root.hex(),
            "treeSize": len(leaves),
        }
        verification = {"inclusionProof": proof, "signedEntryTimestamp": base64.b64encode(promise).decode()}
        return {**listed, "verification": verification}

    def stamp(self, query: bytes) -> bytes:
        """The timestamp authority, which is OpenSSL's."""
        for name, content in (
            ("query", query),
            ("tsa.cnf", _TSA_CONFIG.encode()),
            ("tsa.pem", self.tsa.public_bytes(serialization.Encoding.PEM)),
            ("tsa.key", self.tsa_key.private_bytes(*_PRIVATE)),
        ):
            (self.folder / name).write_bytes(content)
        command = ["openssl", "ts", "-reply", "-config", "tsa.cnf", "-section", "it", "-queryfile", "query"]
        command += ["-signer", "tsa.pem", "-inkey", "tsa.key", "-out", "reply"]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
        return (self.folder / "reply").read_bytes()

    def log_in(self, query: dict[str, list[str]]) -> str:
        """The OpenID provider: the person has logged in, so send the browser back with a code."""
        code = hashlib.sha256(query["state"][0].encode()).hexdigest()
        self.codes[code] = query["code_challenge"][0]
        return f"{query['redirect_uri'][0]}?{urlencode({'code': code, 'state': query['state'][0]})}"

    def redeem(self, form: dict[str, list[str]]) -> dict[str, Any]:
        """The OpenID provider: give a token for a code, to whoever began the log-in (RFC 7636)."""
        digest = hashlib.sha256(form["code_verifier"][0].encode()).digest()
        if self.codes.pop(form["code"][0], None) != base64.urlsafe_b64encode(digest).rstrip(b"=").decode():
            raise RefusedError(400, "invalid_grant")
        return {"access_token": self.token()}


_PRIVATE = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _authority(
    name: str, key: ec.EllipticCurvePrivateKey, by: str, by_key: ec.EllipticCurvePrivateKey, *, stamps: bool = False
) -> x509.Certificate:
    """Certify an authority; one that stamps is none for certificates."""
    subject, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (name, by))
    now = dt.datetime.now(dt.UTC)
    usage = x509.KeyUsage(
        digital_signature=stamps, key_cert_sign=not stamps, crl_sign=False, **dict.fromkeys(_USAGES, False)
    )
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(by_key.public_key())
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), now - _DAY, now + _DAY)
        .add_extension(x509.BasicConstraints(ca=not stamps, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(signer, critical=False)
    )
    if stamps:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
    return builder.sign(by_key, hashes.SHA256())


def _der(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.DER, form)


def _identifier(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(_der(key)).digest()


def _base64_of(digits: str) -> str:
    return base64.b64encode(bytes.fromhex(digits)).decode()


def _sized(content: bytes) -> bytes:
    return struct.pack("!H", len(content)) + content


def _root(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1."""
    if len(leaves) == 1:
        return leaves[0]
    middle = _middle(leaves)
    return hashlib.sha256(b"\1" + _root(leaves[:middle]) + _root(leaves[middle:])).digest()


def _path(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962, 2.1.1."""
    if len(leaves) == 1:
        return []
    middle = _middle(leaves)
    if index < middle:
        return [*_path(index, leaves[:middle]), _root(leaves[middle:])]
    return [*_path(index - middle, leaves[middle:]), _root(leaves[:middle])]


def _middle(leaves: list[bytes]) -> int:
    """The largest power of two below their number."""
    return 1 << ((len(leaves) - 1).bit_length() - 1)


def _validity() -> dict[str, str]:
    return {"start": (dt.datetime.now(dt.UTC) - _DAY).strftime("%Y-%m-%dT%H:%M:%SZ")}


def _service(url: str) -> dict[str, Any]:
    return {"url": url, "majorApiVersion": 1, "validFor": _validity(), "operator": "tests"}


def _log(url: str, key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    public = {"rawBytes": base64.b64encode(_der(key)).decode(), "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
    identifier = {"keyId": base64.b64encode(_identifier(key)).decode()}
    return {
        "baseUrl": url,
        "hashAlgorithm": "SHA2_256",
        "publicKey": {**public, "validFor": _validity()},
        "logId": identifier,
    }


def _chain(*certificates: x509.Certificate) -> dict[str, Any]:
    raw = [one.public_bytes(serialization.Encoding.DER) for one in certificates]
    return {"certificates": [{"rawBytes": base64.b64encode(one).decode()} for one in raw]}


class _Handler(BaseHTTPRequestHandler):
    services: Services

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        self.services.seen.append(asked.path)
        if self._is_wrong(asked.path):
            return
        if asked.path == "/auth/login":
            self._send(302, b"", location=self.services.log_in(parse_qs(asked.query)))
        elif asked.path == "/auth/.well-known/openid-configuration":
            places = {f"{name}_endpoint": f"{self.services.issuer}/{place}" for name, place in _ENDPOINTS}
            self._send(200, json.dumps(places).encode())
        else:
            self._send(404, b"")

    def do_POST(self) -> None:
        self.services.seen.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._is_wrong(self.path):
            return
        try:
            self._send(201 if "log" in self.path else 200, self._answer(body))
        except RefusedError as refused:
            status, message = refused.args
            self._send(status, json.dumps({"code": 3, "message": message, "details": []}).encode())

    def _answer(self, body: bytes) -> bytes:
        match self.path:
            case "/api/v2/signingCert":
                return json.dumps(self.services.certify(self.headers["Authorization"].split()[1], body)).encode()
            case "/api/v1/log/entries":
                return json.dumps(self.services.list_entry(body)).encode()
            case "/api/v2/log/entries":
                return json.dumps(self.services.list_digest(body)).encode()
            case "/api/v1/timestamp":
                return self.services.stamp(body)
            case "/auth/token":
                return json.dumps(self.services.redeem(parse_qs(body.decode()))).encode()
            case _:
                raise RefusedError(404, "no such path")

    def _is_wrong(self, path: str) -> bool:
        if path in self.services.hung:
            self.services.ended.wait(60)
        elif path in self.services.answers:
            self._send(*self.services.answers[path])
        return path in self.services.hung or path in self.services.answers

    def _send(self, status: int, body: bytes, location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)


_ENDPOINTS = (("authorization", "login"), ("token", "token"))


@contextmanager
def serve_sigstore(folder: Path) -> Iterator[Services]:
    """Answer on a port of this machine until the block ends."""
    services = Services(folder)
    handler = type("Handler", (_Handler,), {"services": services})
    server = QuietServer(("127.0.0.1", 0), handler)
    services.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield services
    finally:
        services.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
