"""Downloads into a sink: all of a file, verified, or nothing."""

from __future__ import annotations

from dfs.client.content import Download, Locator, look, verifier_for
from dfs.client.failures import Replaced, VerifyFailed
from dfs.client.localfile import AtomicFile, Sink
from dfs.client.partfile import PartFile
from dfs.client.results import StoredFile
from dfs.client.session import Session
from dfs.client.source import Progress
from dfs.client.spans import FIRST, Spans
from dfs.client.spread import Spread

_RESTARTS = 3
"""How often a file that is replaced under the reader is begun again."""


def fetch(
    session: Session,
    locator: Locator,
    sink: Sink,
    *,
    if_match: str | None = None,
    if_none_match: str | None = None,
    progress: Progress,
    jobs: int = 1,
) -> StoredFile:
    """The file into `sink`, which is committed when the content has been verified, else aborted.

    A large file comes over up to `jobs` connections at once, if `sink` is a file. A file that is replaced meanwhile is begun again, at most three times, then `Replaced` is raised.
    """

    def once() -> StoredFile:
        end = FIRST if jobs > 1 and isinstance(sink, AtomicFile) else None
        download = Download(session, locator, if_match=if_match, if_none_match=if_none_match, end=end)
        spread: Spread | None = None
        try:
            info = download.open()
            verifier = verifier_for(session, locator, info)
            done = 0
            progress(0, info.size)
            if isinstance(sink, AtomicFile) and download.end < info.size:
                spread = Spread(session, locator, info, sink, Spans(), jobs, progress)
                spread.run(download, verifier)
            else:
                for piece in download.pieces():
                    verifier.feed(piece)
                    sink.write(piece)
                    done += len(piece)
                    progress(done, info.size)
                verifier.finish()
        finally:
            if spread is None:  # else it is one of its own threads that reads
                download.close()
        sink.commit()
        return info

    try:
        for _ in range(_RESTARTS):
            try:
                return once()
            except Replaced:
                sink.restart()
        return once()
    finally:
        sink.abort()


def fetch_on(
    session: Session,
    locator: Locator,
    part: PartFile,
    *,
    if_match: str | None = None,
    progress: Progress,
    jobs: int = 1,
) -> StoredFile:
    """The rest of a download that was begun before; what is there is kept unless it is finished.

    A part of another file is begun again, and so is one that does not verify, once.
    """

    def once() -> StoredFile:
        info = _fetch_rest(session, locator, part, if_match, progress, jobs)
        part.commit()
        return info

    try:
        for _ in range(_RESTARTS):
            before = part.holds.total()
            try:
                return once()
            except Replaced:
                part.restart()
            except VerifyFailed:
                part.restart()
                if not before:  # all of it came just now: what is stored is at fault, not the part
                    raise
        return once()
    finally:
        part.abort()


def _fetch_rest(
    session: Session, locator: Locator, part: PartFile, if_match: str | None, progress: Progress, jobs: int
) -> StoredFile:
    if part.holds.total():
        known = look(session, locator, if_match=if_match)
        if known.etag != part.etag or part.holds.end() > known.size:
            part.restart()
        elif part.holds.total() == known.size:
            _verify_part(session, locator, part, known)
            return known
    end = None
    if jobs > 1:
        end = part.holds.gaps(part.offset + FIRST)[0][1]
    download = Download(session, locator, if_match=if_match, offset=part.offset, etag=part.etag, end=end)
    spread: Spread | None = None
    try:
        info = download.open()
        part.begin(info.etag)
        verifier = verifier_for(session, locator, info)
        if download.end < info.size:
            spread = Spread(session, locator, info, part, part.holds, jobs, progress)
            spread.run(download, verifier)
            return info
        part.keep_beginning()
        for piece in part.existing():
            verifier.feed(piece)
        progress(part.offset, info.size)
        for piece in download.pieces():
            verifier.feed(piece)
            part.write(piece)
            progress(part.offset, info.size)
        verifier.finish()
        return info
    finally:
        if spread is None:
            download.close()


def _verify_part(session: Session, locator: Locator, part: PartFile, info: StoredFile) -> None:
    verifier = verifier_for(session, locator, info)
    for piece in part.existing():
        verifier.feed(piece)
    verifier.finish()
