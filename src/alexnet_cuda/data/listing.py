"""The files of a folder or an archive under their names, whichever of the two it is."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from .dataset import DataError

ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")
TAR_BYTES = 4 << 30  # a compressed tar cannot be read here and there, so it is kept in memory


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    archive: Path
    name: str
    read: Callable[[], bytes]

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"


File = str | Path | Member
Listing = dict[str, File]
"""Files by their names relative to the folder or archive, with / between the parts; a name that ends in / is that of a
folder. In order, the same on every machine; hidden files are left out."""


def open_file(file: File) -> BinaryIO:
    """The file, open for reading."""
    return io.BytesIO(file.read()) if isinstance(file, Member) else open(file, "rb")


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVES)


def listing(path: Path) -> Listing:
    """What the folder or archive holds. DataError when there is none or it cannot be read."""
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise DataError(f"{path}: no such folder" + (" or archive" if is_archive(path.name) else ""))
    if not is_archive(path.name):
        raise DataError(f"{path}: expected a folder, this is a file")
    try:
        return _zip(path) if path.name.lower().endswith(".zip") else _tar(path)
    # what the readers raise for damaged archives and, the last two, for names and methods that they do not know
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, ValueError, NotImplementedError) as e:
        raise DataError(f"{path}: cannot be read: {str(e).partition(':')[0]}") from e
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror or e}") from e


def below(files: Listing, folder: str) -> Listing:
    """The part of a listing in ``folder`` (which ends in /), under names relative to it."""
    return {name[len(folder) :]: file for name, file in files.items() if name.startswith(folder) and name != folder}


def tops(files: Listing) -> list[str]:
    """The names of the folders at the top of a listing."""
    return [name[:-1] for name in files if name.endswith("/") and name.count("/") == 1]


def unwrapped(files: Listing) -> Listing:
    """The listing without the one folder that everything lies in, as archives often have it."""
    tops = {name.partition("/")[0] + "/" for name in files}
    return below(files, tops.pop()) if len(tops) == 1 else files


def _folder(path: Path) -> Listing:
    found: Listing = {}

    def add(folder: str, prefix: str, within: tuple[str, ...]) -> None:
        within = (*within, os.path.realpath(folder))
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if _hidden(entry.name):
                    continue
                if not entry.is_dir():
                    found[prefix + entry.name] = entry.path
                elif not entry.is_symlink() or os.path.realpath(entry.path) not in within:
                    found[f"{prefix}{entry.name}/"] = entry.path
                    add(entry.path, f"{prefix}{entry.name}/", within)

    try:
        add(str(path), "", ())
    except OSError as e:
        raise DataError(f"{e.filename or path}: {e.strerror}") from e
    return found


def _zip(path: Path) -> Listing:
    archive = zipfile.ZipFile(path)
    names = (name for name in archive.namelist() if not any(map(_hidden, name.split("/"))))
    return _with_folders({name: Member(path, name, partial(archive.read, name)) for name in names}, path)


def _tar(path: Path) -> Listing:
    found: Listing = {}
    total = 0
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if any(map(_hidden, name.split("/"))):
                continue
            if member.isfile():
                total += member.size
                if total > TAR_BYTES:
                    raise DataError(f"{path}: more than {TAR_BYTES >> 30} GiB; unpack it and name the folder")
                stream = archive.extractfile(member)
                assert stream is not None
                found[name] = Member(path, name, io.BytesIO(stream.read()).getvalue)
    return _with_folders(found, path)


def _with_folders(files: Listing, path: Path) -> Listing:
    """The listing with the folders of its files, which an archive need not name, in order."""
    folders = {f"{parent}/" for name in files for parent in PurePosixPath(name).parents if parent.name}
    return dict(sorted((files | {name: Member(path, name, bytes) for name in folders}).items()))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")  # the latter is a Synology's, with thumbnails
