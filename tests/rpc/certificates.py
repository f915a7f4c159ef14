"""An authority of our own, and certificates that it signs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from agentfund.rpc import Tls


class Authority:
    """Signs certificates for names.

    Args:
        folder: where they lie.
        name: its own name.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.ca = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        _openssl("req", "-x509", *_KEY, "-keyout", self._key, "-out", self.ca, "-subj", f"/CN={name}", "-days", "3650")

    def certificate(self, name: str) -> Tls:
        """Return a certificate for a name, with this authority as the one that the other side is trusted by."""
        key, cert = self.folder / f"{name}.key", self.folder / f"{name}.pem"
        signed = ("-CA", self.ca, "-CAkey", self._key, "-addext", f"subjectAltName=DNS:{name}")
        _openssl("req", "-x509", *_KEY, "-keyout", key, "-out", cert, "-subj", f"/CN={name}", "-days", "3650", *signed)
        return Tls(ca=self.ca, cert=cert, key=key)


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: str | Path) -> None:
    command = shutil.which("openssl")
    if command is None:
        assert not os.environ.get("CI"), "the openssl command is missing: install it"
        pytest.skip("the openssl command is not installed")
    subprocess.run([command, *map(str, arguments)], check=True, capture_output=True)
