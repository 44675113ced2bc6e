"""A look at one address without fetching it."""

from __future__ import annotations

from openus.errors import ChecksumError
from openus.hosts.base import RemoteFile
from openus.net import HttpError, InterruptionError, Retrier, RetryPolicy, open_url, redact
from openus.transfer.download import Transfer
from openus.transfer.mirrors import mirror_path

TIMEOUT = (10.0, 30.0)
RETRY = RetryPolicy(attempts=2, connect_attempts=2, base=0.5, cap=2.0, patience=10.0)


def probe_file(transfer: Transfer, file: RemoteFile) -> int | None:
    """The size of a file the host announces with its first bytes, or None.

    Raises `TransferError` where there is no such file or something else comes in its place, `ChecksumError`
    where the size is not what the manifest, the host's API or (for want of a checksum) the lock file says.
    """
    total = transfer.probe(file)
    known = transfer.lock.seen(f"https://{mirror_path(file)}" if file.mirror else redact(file.url))
    if known and total is not None and file.stable and file.hash is None and known.size != total:
        raise ChecksumError(
            f"{file.name} at {redact(file.url)}: had {known.size} bytes on {known.first_seen}, now has {total}"
        )
    return total


def probe_page(transfer: Transfer, url: str) -> int:
    """The status of a page: 200, or what the host answers instead. Raises `TransferError` where nobody answers."""
    retrier = Retrier(transfer.retry, redact(url))
    while True:
        try:
            with open_url(transfer.session, url, timeout=transfer.timeout) as response:
                return response.status_code
        except HttpError as error:
            return error.status
        except InterruptionError as error:
            retrier.failed(error)
