"""Keys: the watchdog signs leases, the operator signs lifts. Ed25519; the only file that knows the `cryptography` package."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agentfund.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from agentfund.secrets import Secret

SHORTEST = 8
"""Characters that a passphrase has at least."""

_SCRYPT = {"n": 2**15, "r": 8, "p": 1}

Verify = Callable[[bytes, bytes], bool]
"""Takes a signature and what was signed; says whether they belong together."""


class Key:
    """A private key that signs. It never prints.

    Args:
        seed: its 32 bytes.
    """

    __slots__ = ("_private", "public")

    def __init__(self, seed: bytes) -> None:
        ed25519 = _ed25519()
        self._private = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
        self.public: str = self._private.public_key().public_bytes_raw().hex()

    def __repr__(self) -> str:
        return f"<Key {self.public[:16]}>"

    @classmethod
    def new(cls) -> Key:
        """Return a fresh key."""
        return cls(os.urandom(32))

    def sign(self, what: bytes) -> str:
        """Return the signature, in hexadecimal digits."""
        signature: bytes = self._private.sign(what)
        return signature.hex()

    def dump(self, passphrase: Secret | None = None) -> bytes:
        """Return the key as a file holds it; with a passphrase nobody reads it without.

        Raises:
            ConfigError: the passphrase is too short.
        """
        seed: bytes = self._private.private_bytes_raw()
        if passphrase is None:
            return json.dumps({"kind": "plain", "seed": seed.hex()}).encode() + b"\n"
        if len(passphrase.reveal()) < SHORTEST:
            raise ConfigError(f"a passphrase has at least {SHORTEST} characters; take a longer one")
        salt, nonce = os.urandom(16), os.urandom(12)
        sealed = _cipher(passphrase, salt).encrypt(nonce, seed, self.public.encode())
        told = {"kind": "sealed", "salt": salt.hex(), "nonce": nonce.hex(), "sealed": sealed.hex(), "public": self.public}
        return json.dumps(told).encode() + b"\n"


def load_key(content: bytes, passphrase: Secret | None = None) -> Key:
    """Return the key that a file holds.

    Raises:
        ConfigError: the file holds no key, or the passphrase does not open it.
    """
    try:
        told = json.loads(content)
        if told["kind"] == "plain":
            return Key(bytes.fromhex(told["seed"]))
        salt, nonce, sealed = (bytes.fromhex(told[name]) for name in ("salt", "nonce", "sealed"))
        public = str(told["public"])
    except (ValueError, LookupError, TypeError):
        raise ConfigError("the key file is damaged: restore it from your copy, or make new keys in a new folder") from None
    if passphrase is None:
        raise ConfigError("the key is sealed: its passphrase is needed")
    try:
        return Key(_cipher(passphrase, salt).decrypt(nonce, sealed, public.encode()))
    except Exception:  # the package's InvalidTag, or a seed of another length: the same for whoever tries
        raise ConfigError("the passphrase does not open the key") from None


def is_sealed(content: bytes) -> bool:
    """Return whether a key file needs a passphrase."""
    try:
        return bool(json.loads(content)["kind"] != "plain")
    except (ValueError, LookupError, TypeError):
        return True


def verifier(public: str) -> Verify:
    """Return what verifies signatures of the key with this public half.

    Raises:
        ConfigError: that is no public key.
    """
    ed25519 = _ed25519()
    from cryptography.exceptions import InvalidSignature

    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    except ValueError:
        raise ConfigError(f"{public[:80]!r} is no public key: it has 64 hexadecimal digits") from None

    def verify(signature: bytes, what: bytes) -> bool:
        try:
            key.verify(signature, what)
        except InvalidSignature:
            return False
        return True

    return verify


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise MissingExtra("cryptography", "watchdog") from None
    return ed25519


def _cipher(passphrase: Secret, salt: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return ChaCha20Poly1305(Scrypt(salt=salt, length=32, **_SCRYPT).derive(passphrase.reveal().encode()))
