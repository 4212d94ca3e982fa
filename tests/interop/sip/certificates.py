"""An authority made for the run, and certificates of it for this machine's address."""

import subprocess
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """Signs; whoever trusts `file` trusts those whom it has signed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self.file = folder, folder / "ca.pem"
        openssl("req", "-x509", *KEY, "-days", "1", "-subj", "/CN=authority", "-keyout", self._key, "-out", self.file)

    def sign(self, name: str, ip: str) -> tuple[Path, Path]:
        """A certificate for this address, and its key."""
        request, certificate, key = (self._folder / f"{name}.{kind}" for kind in ("csr", "pem", "key"))
        wanted = ("-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:{ip}")
        openssl("req", *KEY, *wanted, "-keyout", key, "-out", request)
        signed = ("-CA", self.file, "-CAkey", self._key, "-CAcreateserial", "-copy_extensions", "copy", "-days", "1")
        openssl("x509", "-req", "-in", request, *signed, "-out", certificate)
        return certificate, key

    @property
    def _key(self) -> Path:
        return self._folder / "ca.key"


def openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]}: {done.stderr}")
