"""The files of a checkpoint: flushed to the disk, listed in a manifest with checksums, verified."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Flush every file in `folder` to the disk and write their sizes and checksums, and `content`, to its manifest.

    Raises:
        OSError: if that fails, as on a full disk.
    """
    files = {}
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": _digest(path)}
    for path in [each for each in folder.rglob("*") if each.is_dir()]:
        flush_folder(path)
    content = {"format": 1, **content, "files": files}
    write_json(folder / MANIFEST, {**content, "sha256": _content_digest(content)})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, once it and every file it lists are found as they were written.

    Raises:
        ValueError: naming what is missing or changed.
        OSError: if a file cannot be read.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict):
        raise ValueError(f"{MANIFEST} is missing or half-written")
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    if _content_digest(content) != manifest.get("sha256"):
        raise ValueError(f"{MANIFEST} does not match its checksum")
    if content["format"] != 1:
        raise ValueError(f"{MANIFEST} has format {content['format']}, this version reads format 1")
    for name, expected in content["files"].items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        size = path.stat().st_size
        if size != expected["size"]:
            raise ValueError(f"{name} has {size} bytes instead of {expected['size']}")
        if _digest(path) != expected["sha256"]:
            raise ValueError(f"{name} does not match its checksum")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON, whole or not at all, flushed to the disk.

    Raises:
        OSError: if it cannot be written.
        ValueError, TypeError: if JSON cannot hold it.
    """
    write_text(path, json.dumps(content, indent=1, allow_nan=False))


def write_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all, flushed to the disk. Raises OSError if it cannot be written."""
    temporary = path.with_name(f".{path.name}.writing")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    flush_folder(path.parent)


def read_json(path: Path) -> Any:
    """The content of a JSON file; None where it is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def flush_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content_digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
