"""HTTP as this package speaks it: a named client, careful redirects, errors that say what to do, back-off.

Requests are made one hop at a time, because a redirect decides who sees the credentials: headers of the
caller travel on to the same host only, an encrypted address never becomes a plain one, no other host leads to
this machine itself, and only http and https are followed.
"""

from __future__ import annotations

import email.utils
import hashlib
import ipaddress
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urljoin, urlsplit, urlunsplit

import requests
import urllib3

from openus import __version__
from openus.errors import TransferError, UnreachableError

# Zenodo and others refuse the default names of HTTP libraries, so the client says what it is.
USER_AGENT = f"openus/{__version__} (rebuilds an open ultrasound corpus)"
TRICKLE = 16 << 10
"""Bytes that must come within the time limit of a read, or nothing has come."""
MAX_REDIRECTS = 10
TRANSIENT = frozenset({202, 204, 408, 425, 429, 500, 502, 503, 504, 520, 522, 524})
# Failures of urllib3 surface unwrapped while a body is read, those of requests before.
NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
SECRET_PARTS = (
    "token", "signature", "credential", "secret", "password", "api_key", "apikey", "x-amz-", "x-goog-",
)  # fmt: skip
SECRET_NAMES = frozenset(
    {"sig", "auth", "key", "policy", "expires", "key-pair-id", "awsaccesskeyid", "googleaccessid"}
)


_silent: set[str] = set()
"""Hosts of which no answer came after all attempts: they are asked once more for the next file, not as patiently."""


class HttpError(TransferError):
    """A host answered with an error status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class InterruptionError(TransferError):
    """The network failed, or the host asked to come back later: worth another attempt.

    retry_after: seconds the host asked to wait, or None. connected: False where no answer came at all.
    """

    def __init__(self, message: str, retry_after: float | None = None, connected: bool = True) -> None:
        super().__init__(message)
        self.retry_after, self.connected = retry_after, connected


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with jitter that depends on the address and the attempt, not on the clock.

    attempts: tries in a row without a new byte. connect_attempts: tries where no host answered at all.
    base, cap: seconds of the first and of the longest wait. patience: the longest wait a host may ask for.
    """

    attempts: int = 6
    connect_attempts: int = 3
    base: float = 1.0
    cap: float = 60.0
    patience: float = 300.0

    def delay(self, key: str, attempt: int) -> float:
        """Seconds to wait after failure number `attempt` (from 1): between half and all of base * 2^(n-1)."""
        digest = hashlib.sha256(f"{key}#{attempt}".encode()).digest()
        jitter = int.from_bytes(digest[:4], "big") / 2**32
        return min(self.cap, self.base * 2.0 ** (attempt - 1)) * (0.5 + jitter / 2)


@dataclass
class Retrier:
    """Counts failures of one operation and waits between them; a failure too many is raised.

    wait: sleeps for so many seconds, or less where the operation is to end.
    """

    policy: RetryPolicy
    key: str
    wait: Callable[[float], object] = time.sleep
    failures: int = field(default=0, init=False)
    gained: int = field(default=0, init=False)

    def progressed(self, count: int) -> None:
        """`count` new bytes arrived: the count starts again, so that a long file survives many drops."""
        self.gained += count
        if self.gained >= TRICKLE:
            self.failures, self.gained = 0, 0

    def failed(self, error: InterruptionError) -> None:
        self.failures, self.gained = self.failures + 1, 0
        host = urlsplit(self.key).netloc
        most = self.policy.attempts
        if not error.connected:
            most = 1 if host in _silent else self.policy.connect_attempts
        if self.failures >= most:
            tried = f"{self.failures} attempts" if self.failures > 1 else "1 attempt"
            kind = TransferError if error.connected else UnreachableError
            if not error.connected:
                _silent.add(host)
            raise kind(f"{error} (gave up after {tried}; run it again to go on)") from error
        wait = self.policy.delay(self.key, self.failures)
        if error.retry_after is not None:
            if error.retry_after > self.policy.patience:
                raise TransferError(
                    f"{error}; the host asks to wait {error.retry_after:.0f} s, try again then"
                )
            wait = max(error.retry_after, 0.0)
        self.wait(wait)


def new_session() -> requests.Session:
    """A session with this package's name; bodies are asked for as they are stored, without compression."""
    session = requests.Session()
    session.headers["User-Agent"] = USER_AGENT
    session.headers["Accept-Encoding"] = "identity"
    return session


def check_address(url: str) -> None:
    """Raise `TransferError` unless `url` is an absolute http(s) address."""
    try:
        parts = urlsplit(url)
        good = parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise TransferError(f"{url!r}: not an http(s) address; correct it in the manifest")


def redact(url: str) -> str:
    """`url` without user name, password, fragment, and the values of parameters that may carry a secret.

    What is left is safe to print and to store, and stays the same from one signed address to the next.
    """
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query, True) if not _is_secret(name)]
    netloc = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, netloc, parts.path, urlencode(query, safe="/:,"), ""))


def _is_secret(parameter: str) -> bool:
    name = parameter.lower()
    return name in SECRET_NAMES or any(part in name for part in SECRET_PARTS)


def open_url(
    session: requests.Session,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: tuple[float, float] = (15.0, 60.0),
    accept: frozenset[int] = frozenset(),
) -> requests.Response:
    """GET `url` and return the streaming response of the last hop; the caller closes it.

    `headers` are dropped when a redirect leaves the host. `accept`: error statuses to hand back.
    Raises `InterruptionError` for what may pass, `HttpError` for refusals, `TransferError` for bad redirects.
    """
    here, own = url, dict(headers or {})
    _check_scheme(url, url)
    for _ in range(MAX_REDIRECTS + 1):
        response = _get(session, here, own, timeout)
        target = response.headers.get("Location")
        if response.status_code not in (301, 302, 303, 307, 308) or not target:
            return _check_status(response, here, accept)
        response.close()
        there = urljoin(here, quote(target, safe="%/:=&?~#+!$,;'@()*[]"))
        _check_scheme(here, there)
        if not _same_site(urlsplit(here), urlsplit(there)):
            own = {
                name: value for name, value in own.items() if name.lower() in ("range", "if-range", "accept")
            }
        here = there
    raise TransferError(
        f"{redact(url)}: more than {MAX_REDIRECTS} redirects, the last to {redact(here)}; the link is broken: "
        "open the dataset's page in a browser"
    )


def _get(
    session: requests.Session, url: str, headers: dict[str, str], timeout: tuple[float, float]
) -> requests.Response:
    # A callable `auth` keeps requests from replacing an explicit Authorization by one from ~/.netrc.
    explicit = any(name.lower() == "authorization" for name in headers)
    try:
        response = session.get(
            url, headers=headers, timeout=timeout, stream=True, allow_redirects=False,
            auth=_leave_headers if explicit else None,
        )  # fmt: skip
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError) as error:
        raise TransferError(f"{redact(url)}: not an address that can be opened ({error})") from error
    except NETWORK_ERRORS as error:
        raise interruption(url, error, connected=False) from error
    _silent.discard(urlsplit(url).netloc)
    return response


def _leave_headers(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def interruption(url: str, error: BaseException, *, connected: bool) -> TransferError:
    """A network failure as an error of this package: `InterruptionError` where trying again may help."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return TransferError(
            f"{redact(url)}: the certificate of the host cannot be verified; check the clock and the "
            "certificates of this machine, or the proxy in between"
        )
    if (
        isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError)
        or "timed out" in text
    ):
        reason = "no answer within the time limit"
    elif "NameResolution" in text or "getaddrinfo" in text or "Name or service" in text:
        reason = "the name of the host cannot be resolved; is there a network?"
    elif "refused" in text.lower():
        reason = "the host refuses the connection"
    else:
        reason = f"the connection broke ({type(error).__name__})"
    return InterruptionError(f"{redact(url)}: {reason}", connected=connected)


def _check_scheme(here: str, there: str) -> None:
    old, new = urlsplit(here).scheme.lower(), urlsplit(there).scheme.lower()
    if new not in ("http", "https"):
        raise TransferError(
            f"{redact(here)}: leads to an address of scheme '{new}'; only http and https are followed"
        )
    if old == "https" and new == "http":
        raise TransferError(
            f"{redact(here)}: redirects from https to plain http ({redact(there)}), which is not followed; "
            "fetch the file by hand if you trust it"
        )
    if _is_own(there) and not _is_own(here):
        raise TransferError(
            f"{redact(here)}: redirects to this machine itself ({redact(there)}): not followed"
        )


def _is_own(url: str) -> bool:
    """Whether an address names this machine, or the link it hangs on, where clouds keep credentials."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    inner = getattr(address, "ipv4_mapped", None) or address
    return bool(inner.is_loopback or inner.is_link_local or inner.is_unspecified)


def _same_site(here: SplitResult, there: SplitResult) -> bool:
    if (here.hostname or "").lower() != (there.hostname or "").lower():
        return False
    ports = {"http": 80, "https": 443}
    old, new = here.port or ports[here.scheme], there.port or ports[there.scheme]
    return old == new or (old, new) == (80, 443)


def _check_status(response: requests.Response, url: str, accept: frozenset[int]) -> requests.Response:
    status = response.status_code
    if status in (200, 206) or status in accept:
        return response
    retry_after = _seconds(response.headers.get("Retry-After"), response.headers.get("Date"))
    response.close()
    if status in TRANSIENT:
        reason = (
            "too many requests" if status == 429 else "not ready" if status < 300 else "trouble at the host"
        )
        raise InterruptionError(f"{redact(url)}: {reason} (HTTP {status})", retry_after)
    hints = {
        401: "it needs a login; see the dataset's page for the account and the credentials to set",
        403: "the host refuses; it may need an account or accepted terms, or keeps programs out",
        404: "there is no such file any more; see the dataset's page for where it went",
        410: "the file was withdrawn; see the dataset's page for where it went",
        451: "it is withheld for legal reasons where you are",
    }
    hint = hints.get(status, "the host refuses the request")
    raise HttpError(
        f"{redact(url)}: HTTP {status}, {hint}; a copy of your own can be given with --local", status
    )


def _seconds(value: str | None, date: str | None) -> float | None:
    """``Retry-After`` in seconds, from a number or an HTTP date; None where absent or unreadable.

    A date is counted from the host's own `date`, because the clock of this machine may be wrong or may jump.
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    then, now = _timestamp(value), _timestamp(date)
    return None if then is None else max(0.0, then - (time.time() if now is None else now))


def _timestamp(date: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return None


def _persist(url: str, retry: RetryPolicy | None, attempt: Callable[[], bytes]) -> bytes:
    """Call `attempt` until it succeeds or the policy's patience ends."""
    retrier = Retrier(retry or RetryPolicy(), redact(url))
    while True:
        try:
            return attempt()
        except InterruptionError as error:
            retrier.failed(error)
        except NETWORK_ERRORS as error:
            failure = interruption(url, error, connected=True)
            if not isinstance(failure, InterruptionError):
                raise failure from error
            retrier.failed(failure)


def get_bytes(
    session: requests.Session,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    retry: RetryPolicy | None = None,
    limit: int = 64 << 20,
) -> bytes:
    """The whole body of a small answer (an API, a page), with retries; at most `limit` bytes."""

    def attempt() -> bytes:
        with open_url(session, url, headers=headers) as response:
            body: bytes = response.raw.read(limit + 1, decode_content=True)
        return body

    body = _persist(url, retry, attempt)
    if len(body) > limit:
        raise TransferError(
            f"{redact(url)}: the answer is larger than {limit} bytes; is it the right address?"
        )
    return body


def get_json(
    session: requests.Session,
    url: str,
    *,
    params: Mapping[str, str | int] | None = None,
    headers: Mapping[str, str] | None = None,
    retry: RetryPolicy | None = None,
) -> Any:
    """The JSON answer of an API; raise `TransferError` where it is not JSON."""
    if params:
        url += ("&" if "?" in url else "?") + urlencode(params)
    return _parse(
        url, get_bytes(session, url, headers={"Accept": "application/json", **(headers or {})}, retry=retry)
    )


def post_json(
    session: requests.Session, url: str, fields: Mapping[str, str], *, retry: RetryPolicy | None = None
) -> Any:
    """The JSON answer to a form. Redirects are not followed: the form may hold a key."""
    check_address(url)

    def attempt() -> bytes:
        with session.post(url, data=dict(fields), timeout=(15.0, 60.0), allow_redirects=False) as response:
            return _check_status(response, url, frozenset()).content

    return _parse(url, _persist(url, retry, attempt))


def _parse(url: str, body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        start = body[:80].decode("utf-8", "replace").replace("\n", " ")
        raise TransferError(
            f"{redact(url)}: expected JSON from the host's API, found {start!r}; the API may have changed"
        ) from error
