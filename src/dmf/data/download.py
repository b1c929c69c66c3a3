"""The download step: from an address, a local archive or the phantom's seed to `data/raw/<set>`.

No address is trusted: what it sends is compared with the published checksum, or with the one that
was recorded when the address was first used, in `data/checksums.json`.
"""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from filelock import FileLock
from rich.console import Console

from dmf.data import archives, pairing, phantom, pixels, raw
from dmf.data.catalogue import Entry, Kaggle, Web, entries, reading_of, subjects_of
from dmf.data.patients import describe_pairs
from dmf.data.transfer import PATIENT, CertificateError, Policy, TransferError, fetch
from dmf.errors import DmfError
from dmf.files import read_json, reason, sha256_file, sha256_json, write_json
from dmf.layout import CHECKSUMS, DOWNLOADS, RAW
from dmf.records import Description
from dmf.settings import ArchiveSource, FolderSource, PhantomSource
from dmf.study import DownloadParameters

SHOWN = 10  # problems that one message lists
THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Content:
    """An archive or a folder at hand, where it comes from, and what its checksum was held against.

    `checked` is `published`, `first use` (recorded now), `recorded` (as at the first use) or `none`
    (a local archive that is not the published one).
    """

    path: Path
    address: str
    sha256: str
    checked: str


def download(
    dataset: str, parameters: DownloadParameters, root: Path, policy: Policy = PATIENT
) -> None:
    """Write `data/raw/<dataset>` (images, masks, manifests), whole or not at all.

    The set comes from the local archive or folder that the environment variable
    DMF_<DATASET>_ARCHIVE or the parameter `archive` names (relative paths: against `root`), else
    from the first of its addresses that delivers, and is kept below `root` for every study. A
    phantom set is generated. Raises DmfError, with the remedy, if nothing delivers, or what is
    delivered cannot be trusted or read.
    """
    source = parameters.source
    with _replacing(RAW / dataset) as work:
        folder = work / "set"
        if isinstance(source, PhantomSource):
            description = _simulate(source, folder, parameters)
        else:
            _say(_notice(dataset, source))
            content = _local(dataset, source, root) or _fetched(dataset, source, root, policy)
            files = content.path
            if not files.is_dir():
                files = work / "unpacked"
                archives.unpack(content.path, files)
            description = _read(files, source, folder, parameters, root)
            description |= {
                "address": content.address,
                "archive_sha256": content.sha256,
                "checksum": content.checked,
            }
            if table := _table_beside(source, root):
                description["table_sha256"] = sha256_file(table)
        write_json(
            folder / "manifest.json",
            {
                "dataset": dataset,
                "kind": source.kind,
                "synthetic": isinstance(source, PhantomSource),
                **description,
                "parameters": parameters.model_dump(mode="json", exclude={"source": {"archive"}}),
            },
        )
    _say(f"{dataset}: {description['images']} images in {RAW / dataset}")


def _simulate(
    source: PhantomSource, folder: Path, parameters: DownloadParameters
) -> dict[str, Any]:
    """Generate a phantom set into `folder`; return what its manifest says of it."""
    writer = raw.RawWriter(folder, classes=2)
    settings = source.model_dump(include={"seed", "size", "malignant_share"})
    for index in range(source.images):
        image, mask, lesion = phantom.generate(index, **settings)
        name = f"phantom_{index:04d}"
        writer.add(name, lesion, image, mask.astype(np.uint8), masks=1, source=name)
    return {
        "licence": "that of this project",
        "citation": "",
        "address": "simulated by dmf.data.phantom",
        **writer.finish(parameters.duplicates.threshold),
    }


def _read(
    files: Path,
    source: ArchiveSource | FolderSource,
    folder: Path,
    parameters: DownloadParameters,
    root: Path,
) -> dict[str, Any]:
    """Bring the pairs in `files` into `folder`; return what the manifest says of the set."""
    reading, subjects = reading_of(source), subjects_of(source)
    found = pairing.find_pairs(files, source)
    describe_pairs(found, subjects, root)
    if found.pairing == "sorted order":
        _say(
            "note: no names agree, but all numbers in them differ by the same, so images and masks "
            "are paired by their order; look at the card"
        )
    writer = raw.RawWriter(folder, classes=reading.classes)

    def bring(pair: pairing.Pair) -> pixels.UnusableError | None:
        try:
            image, mask = pixels.read_pair(pair, source)
        except pixels.UnusableError as error:
            return error
        name = pair.image.relative_to(files).as_posix()
        writer.add(
            pair.identifier,
            pair.lesion,
            image,
            mask,
            masks=len(pair.masks),
            source=name,
            patient=pair.patient,
        )
        return None

    with ThreadPoolExecutor(THREADS) as threads:
        for error in threads.map(bring, found.pairs):
            if error is None:
                continue
            if error.kind == "empty mask" and reading.without_lesion == "leave_out":
                found.ignored["with an empty mask"] += 1
            else:
                found.complain(error.kind, error.path, error.detail)
    if found.ignored:
        _say("left aside: " + ", ".join(f"{n} {name}" for name, n in found.ignored.items()))
    _judge(found, parameters.problems, writer.count)
    origin = _origin(source)
    if isinstance(origin, Entry) and writer.count != origin.images:
        _say(f"note: {origin.images} images were expected of this set, {writer.count} were read")
    contents = writer.finish(parameters.duplicates.threshold, subjects.frames_per_lesion)
    if contents.get("lesions_by_numbering") is False:
        _say(
            f"note: the names are no numbering of {subjects.frames_per_lesion} frames a lesion "
            "that the duplicates confirm; a grouped split keeps duplicates together, no more"
        )
    return {
        "licence": origin.licence,
        "citation": origin.citation,
        "pairing": found.pairing,
        "ignored": dict(found.ignored),
        "problems": [asdict(problem) for problem in found.problems],
        **contents,
    }


def _judge(found: pairing.Found, policy: str, usable: int) -> None:
    """Refuse a set with problems, or say which images are skipped."""
    if not found.problems and not usable:
        raise DmfError(
            "no usable image: all are left aside ("
            + ", ".join(f"{n} {what}" for what, n in found.ignored.items())
            + "). Masks are read as mask_threshold, class_values, without_lesion and table in "
            "params.yaml say."
        )
    if not found.problems:
        return
    counts = Counter(problem.kind for problem in found.problems)
    lines = [f"{len(found.problems)} problems: " + ", ".join(f"{n} {k}" for k, n in counts.items())]
    lines += [f"  {problem.file}: {problem.detail}" for problem in found.problems[:SHOWN]]
    if len(found.problems) > SHOWN:
        lines.append(f"  and {len(found.problems) - SHOWN} more")
    swapped = counts["implausible mask"] > usable  # then the others are wrong too, only smaller
    if policy == "skip" and usable and not swapped:
        _say("\n".join(lines) + "\nThese images are skipped and named in manifest.json.")
        return
    remedy = (
        "No usable image is left."
        if not usable
        else "Most masks are implausible, so that the others cannot be trusted. Set class_values."
        if swapped
        else "Mend the files, or leave these images out with data.problems: skip in params.yaml."
    )
    raise DmfError("\n".join([*lines, remedy]))


def _origin(source: ArchiveSource | FolderSource) -> Entry | FolderSource:
    return source if isinstance(source, FolderSource) else entries()[source.kind]


def _notice(dataset: str, source: ArchiveSource | FolderSource) -> str:
    origin = _origin(source)
    title = f" ({origin.title})" if isinstance(origin, Entry) else ""
    lines = [f"{dataset}{title}: licence {origin.licence}"]
    if origin.citation:
        lines.append(f"  cite: {origin.citation}")
    if isinstance(origin, Entry):
        lines.append(f"  check both at the source: {origin.page}")
        lines += [f"  note: {note}" for note in origin.notes]
    return "\n".join(lines)


def _local(dataset: str, source: ArchiveSource | FolderSource, root: Path) -> Content | None:
    """Return the archive or folder that the user named, if any."""
    named, path = _named(dataset, source, root)
    if path is None:
        return None
    if not path.exists():
        raise DmfError(f"{named} names {path}, which does not exist. Correct the path.")
    sha256 = _hash(path)
    known = _stated_checksums(_origin(source))
    return Content(path, f"local: {path.name}", sha256, "published" if sha256 in known else "none")


def _named(
    dataset: str, source: ArchiveSource | FolderSource, root: Path
) -> tuple[str, Path | None]:
    """Return where the user may name the set's archive or folder, and what stands there."""
    variable = f"DMF_{dataset.upper()}_ARCHIVE"
    value = os.environ.get(variable)
    named = variable if value else f"datasets.{dataset}.archive"
    value = value or source.archive
    return named, root / Path(value).expanduser() if value else None


def changed_since(dataset: str, parameters: DownloadParameters, root: Path) -> Path | None:
    """Return the user's file or folder that is not what `data/raw/<dataset>` was made from, if any.

    Contents are compared, those of an archive or folder where dates or the environment give cause.
    Raises DmfError, OSError or RuntimeError for what cannot be read.
    """
    source, description = parameters.source, RAW / dataset / "manifest.json"
    if isinstance(source, PhantomSource) or not description.exists():
        return None
    made, since = Description.read(description), description.stat().st_mtime
    named, path = _named(dataset, source, root)
    if path is not None and path.exists():
        found = (file.stat() for file in (path, *path.rglob("*")) if file.exists())
        newer = max(max(file.st_mtime, file.st_ctime) for file in found) > since
        if (named in os.environ or newer) and _hash(path) != made.get("archive_sha256"):
            return path
    table = _table_beside(source, root)
    if table and made.get("table_sha256") not in (None, sha256_file(table)):
        return table
    return None


def _table_beside(source: ArchiveSource | FolderSource, root: Path) -> Path | None:
    """Return the set's table that lies beside the project, if there is one."""
    table = subjects_of(source).table
    beside = root / Path(table.file).expanduser() if table else None
    return beside if beside and beside.is_file() else None


def _stated_checksums(origin: Entry | FolderSource) -> set[str | None]:
    if isinstance(origin, FolderSource):
        return set()
    return {place.sha256 for place in origin.places if isinstance(place, Web)}


def _fetched(
    dataset: str, source: ArchiveSource | FolderSource, root: Path, policy: Policy
) -> Content:
    """Return the archive from the first address that delivers one, kept in `data/downloads`."""
    origin = entries()[source.kind]
    failures = []
    # What was fetched before is taken before any address is asked again.
    for place in sorted(origin.places, key=lambda place: not _kept(place, root).is_file()):
        try:
            path = _kaggle(place) if isinstance(place, Kaggle) else _web(place, root, policy)
        except TransferError as error:
            failures.append(f"  {place}: {error}")
            continue
        sha256 = _hash(path)
        if isinstance(place, Web) and place.sha256:
            return Content(path, str(place), sha256, "published")
        return Content(path, str(place), sha256, _compare_with_first_use(place, path, sha256, root))
    if not failures:
        raise DmfError(
            f"{dataset} has no public address. Ask for it at {origin.page}, then name the archive "
            f"or folder: DMF_{dataset.upper()}_ARCHIVE=/path/to/it, or datasets.{dataset}.archive "
            "in params.yaml."
        )
    raise DmfError(
        f"{dataset} could not be downloaded. Tried:\n" + "\n".join(failures) + "\n"
        f"Without a network, get the archive from {origin.page} on another machine and name it: "
        f"DMF_{dataset.upper()}_ARCHIVE=/path/to/archive.zip, or datasets.{dataset}.archive in "
        "params.yaml. Otherwise try again later: what has arrived is kept and continued."
    )


def _kept(place: Web | Kaggle, root: Path) -> Path:
    """Return where an address's archive is kept."""
    name = Path(urlsplit(str(place)).path).name
    return root / DOWNLOADS / f"{hashlib.sha256(str(place).encode()).hexdigest()[:8]}-{name}"


def _web(place: Web, root: Path, policy: Policy) -> Path:
    """Return the archive of an address; raises TransferError if it does not deliver it."""
    path = _kept(place, root)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(path.name + ".lock")):
        if not path.is_file():
            _say(f"fetching {place}")
            try:
                fetch(place.address, path, policy=policy)
            except CertificateError as error:
                if place.sha256 is None:
                    raise
                _say(f"{error}; going on, because the published checksum will be compared")
                fetch(place.address, path, policy=policy, verify_certificate=False)
        if archives.format_of(path) is None:
            found = archives.describe(path)
            path.unlink()
            raise TransferError(f"sent no archive, but {found}")
        if place.sha256 is not None and (sha256 := sha256_file(path)) != place.sha256:
            path.unlink()
            raise TransferError(
                f"sent an archive with SHA-256 {sha256}, but {place.sha256} is the published one"
            )
    return path


def _kaggle(place: Kaggle) -> Path:
    """Return a Kaggle data set's folder; raises TransferError without client or credentials."""
    try:
        client = import_module("kagglehub")
    except ImportError:
        raise TransferError("needs the package kagglehub and credentials of Kaggle") from None
    try:
        if client.config.get_kaggle_credentials() is None:
            raise TransferError("no credentials of Kaggle were found (KAGGLE_USERNAME, KAGGLE_KEY)")
        return Path(client.dataset_download(place.kaggle))
    except TransferError:
        raise
    except Exception as error:  # the client lets any error of its own through
        raise TransferError(f"its client failed ({error})") from None


def _compare_with_first_use(place: Web | Kaggle, path: Path, sha256: str, root: Path) -> str:
    """Record the checksum of an address at its first use; refuse another one later."""
    checksums = root / CHECKSUMS
    checksums.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(checksums.with_suffix(".lock")):
        recorded = read_json(checksums) if checksums.is_file() else {}
        if str(place) not in recorded:
            write_json(checksums, recorded | {str(place): sha256})
            return "first use"
    if recorded[str(place)] != sha256:
        raise DmfError(
            f"{path}, from {place}, has SHA-256 {sha256}, but {checksums} recorded "
            f"{recorded[str(place)]} when this address was first used. The file was changed, here "
            f"or there. Delete {path} to fetch it again; if the publisher changed it and you trust "
            f"the change, delete the address from {checksums} too."
        )
    return "recorded"


def _hash(path: Path) -> str:
    """Return the SHA-256 of an archive, or of the names and contents of a folder's files."""
    try:
        if path.is_file():
            return sha256_file(path)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return sha256_json({file.relative_to(path).as_posix(): sha256_file(file) for file in files})
    except OSError as error:
        raise DmfError(
            f"{error.filename or path} could not be read ({reason(error)}). Check the disk and the "
            "permissions, then run the same command again."
        ) from error


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Yield a working folder; its `set` takes the place of `target` if the block succeeds."""
    work = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
            work.mkdir()
            try:
                yield work
                if target.exists():
                    target.rename(work / "old")
                (work / "set").rename(target)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise DmfError(
            f"{target} could not be written ({reason(error)}). Free some space or check "
            "the permissions, then run the same command again; nothing was half-written."
        ) from error


def _say(text: str) -> None:
    """Tell the user, away from the standard output that other programs read."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)
