"""The files of a folder or an archive under their names, whichever of the two it is."""

from __future__ import annotations

import importlib
import io
import os
import posixpath
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from .. import names
from .dataset import DataError

ARCHIVES = (
    *(".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz"),
    *(".tar.bz2", ".tbz2", ".tbz", ".tar.zst", ".tzst"),
)
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
    except (DataError, MemoryError):
        raise
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror or e}") from e
    except Exception as e:  # a damaged archive can raise anything at all from inside its readers
        raise DataError(f"{path}: cannot be read: {str(e).partition(':')[0] or type(e).__name__}") from e


def below(files: Listing, folder: str) -> Listing:
    """The part of a listing in ``folder`` (which ends in /), under names relative to it."""
    return {name[len(folder) :]: file for name, file in files.items() if name.startswith(folder) and name != folder}


def tops(files: Listing) -> list[str]:
    """The names of the folders at the top of a listing."""
    return [name[:-1] for name in files if name.endswith("/") and name.count("/") == 1]


def unwrapped(files: Listing, classes: Collection[str] = ()) -> Listing:
    """The listing without the folders that all other folders lie in, as archives often have them; a class is none."""
    while (
        len(top := tops(files)) == 1
        and names.text(top[0]) not in classes
        and tops(inside := below(files, f"{top[0]}/"))
    ):
        files = inside
    return files


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
    stored = archive.namelist()
    foreign = not any("/" in name for name in stored)  # some programs on Windows write what Windows has between folders
    found: Listing = {}
    for entry in stored:
        name = _plain(entry.replace("\\", "/") if foreign else entry)
        if not any(map(_hidden, name.split("/"))):
            found[name] = Member(path, name, partial(archive.read, entry))
    return _with_folders(found, path)


def _tar(path: Path) -> Listing:
    found: Listing = {}
    links: dict[str, str] = {}
    total = 0
    with _opened(path) as archive:
        for member in archive:
            name = _plain(member.name)
            if any(map(_hidden, name.split("/"))):
                continue
            if member.issym() or member.islnk():
                links[name] = _target(name, member)
            elif member.isfile():
                total += member.size
                if total > TAR_BYTES:
                    raise DataError(f"{path}: more than {TAR_BYTES >> 30} GiB; unpack it and name the folder")
                stream = archive.extractfile(member)
                assert stream is not None
                found[name] = Member(path, name, io.BytesIO(stream.read()).getvalue)
    return _with_folders(found | _linked(found, links, path), path)


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar, to be read from its beginning to its end. DataError where nothing is there that unpacks it."""
    if not path.name.lower().endswith("zst") or "zst" in tarfile.TarFile.OPEN_METH:
        with tarfile.open(path) as archive:
            yield archive
        return
    try:
        zstd = importlib.import_module("backports.zstd")  # the package zstandard would take a cut file for a whole one
    except ImportError:
        raise DataError(
            f"{path}: Zstandard needs Python 3.14 or pip install 'alexnet-cuda[zstd]' (backports.zstd); or unpack it"
        ) from None
    with zstd.open(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        yield archive


def _target(name: str, link: tarfile.TarInfo) -> str:
    """The name in the archive that a link means: a symbolic one counts from its folder, a hard one from the top."""
    start = posixpath.dirname(name) if link.issym() else ""
    return posixpath.normpath(posixpath.join(start, link.linkname))


def _linked(found: Listing, links: dict[str, str], path: Path) -> Listing:
    """The files that links to files and folders of an archive stand for; a link to nothing in it is a file that cannot
    be read. As in folders, links do not lead in circles."""
    folders = {str(parent) for name in found for parent in PurePosixPath(name).parents}
    more: Listing = {}
    for name, target in links.items():
        passed = {name}
        while target in links and target not in passed:
            passed.add(target)
            target = links[target]
        file = found.get(target)
        if isinstance(file, Member):
            more[name] = Member(path, name, file.read)
        elif target not in folders:
            more[name] = Member(path, name, partial(_broken, target))
        elif not name.startswith(f"{target}/"):
            inside = below(found, f"{target}/")
            more |= {f"{name}/{rest}": each for rest, each in inside.items() if isinstance(each, Member)}
    return more


def _broken(target: str) -> bytes:
    raise FileNotFoundError(f"a link to {target}, which is not in the archive")


def _plain(name: str) -> str:
    """The name without parts that stand for the folder itself."""
    plain = "/".join(part for part in name.split("/") if part not in ("", "."))
    return f"{plain}/" if plain and name.endswith(("/", "/.")) else plain


def _with_folders(files: Listing, path: Path) -> Listing:
    """The listing with the folders of its files, which an archive need not name, in order."""
    folders = {f"{parent}/" for name in files for parent in PurePosixPath(name).parents if parent.name}
    return dict(sorted((files | {name: Member(path, name, bytes) for name in folders}).items()))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")  # the latter is a Synology's, with thumbnails
