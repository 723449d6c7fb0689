"""questlog itself as one file for Spark's workers, so that they shape with the lander's own version."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from pathlib import Path

_KEPT = {".py", ".toml"}


def package_zip(folder: Path) -> Path:
    """Write this very package to *folder* and return the file; its name changes with what it holds.

    A worker keeps what it has imported: under one name it would go on with an older version.
    """
    root = Path(__file__).parents[2]
    files = sorted(path for path in root.rglob("*") if path.suffix in _KEPT and path.is_file())
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    target = folder / f"questlog-{digest.hexdigest()[:12]}.zip"
    if not target.exists():
        handle, draft = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in files:
                packed.write(path, Path(root.name) / path.relative_to(root))
        os.replace(draft, target)
    return target
