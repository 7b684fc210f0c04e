"""Files and parts of files behind an http or https address, by the standard library: proxies, redirections, retries.

Parts are asked for over a connection that is kept: a new one for each image would take several round trips. Where that
does not do - a proxy, a redirection, whatever goes wrong - `urllib` asks, once for each part.
"""

from __future__ import annotations

import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from importlib.metadata import version

from scenewise.errors import MissingError, UserError

TIMEOUT = 30.0  # seconds without an answer
WAITS = (0.5, 2.0, 8.0)  # seconds before asking again: servers that are restarted or busy answer within them
LARGEST = 2**26  # bytes of a file that is asked for as a whole
_AGAIN = (408, 425, 429, 500, 502, 503, 504)  # states that pass
_MOVED = (301, 302, 303, 307, 308)
_CONNECTIONS = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
_Place = tuple[int, str, str]  # a process that was forked makes connections of its own; scheme, host and port
_kept: dict[_Place, http.client.HTTPConnection] = {}
_moved: set[_Place] = set()
_TOTAL = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


def quote(name: str) -> str:
    """Return the name of a file as a part of an address."""
    return urllib.parse.quote(name, safe="")


def fetch(url: str) -> bytes:
    """Return a small file; UserError where it cannot be had."""
    content, _ = _ask(url, {}, whole=True, most=LARGEST + 1)
    if len(content) > LARGEST:
        raise UserError(f"data: {url} is larger than {LARGEST} bytes: not what is looked for")
    return content


def fetch_range(url: str, offset: int, length: int, *, total: int) -> bytes:
    """Return `length` bytes from `offset` on of a file of `total` bytes.

    Raises UserError where it cannot be had, has another length, or the server sends whole files only.
    """
    wanted = {"Range": f"bytes={offset}-{offset + length - 1}"}
    content, said = _ask_kept(url, wanted, length) or _ask(url, wanted, whole=False, most=length)
    found = _TOTAL.fullmatch(said.strip())
    if found is None:
        raise UserError(f"data: {url}: the server does not say which bytes it sends (Content-Range: {said!r})")
    first, last, there = map(int, found.groups())
    if there != total:
        raise _other_length(url, there, total)
    if (first, last) != (offset, offset + length - 1):
        raise UserError(f"data: {url}: the server sends the bytes {first}-{last} instead of {wanted['Range']}")
    return content


def _ask_kept(url: str, headers: dict[str, str], length: int) -> tuple[bytes, str] | None:
    """Return `length` bytes and their Content-Range over the connection that is kept; None where that does not do."""
    parts = urllib.parse.urlsplit(url)
    place = os.getpid(), parts.scheme, parts.netloc
    proxied = parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname or "")
    if proxied or place in _moved or parts.scheme not in _CONNECTIONS:
        return None
    connection = None
    try:
        connection = _kept.pop(place, None) or _CONNECTIONS[parts.scheme](parts.netloc, timeout=TIMEOUT)
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        connection.request("GET", target, headers={"User-Agent": _agent(), **headers})
        answer = connection.getresponse()
        if answer.status in _MOVED:
            _moved.add(place)
        content = answer.read(length) if answer.status == 206 else b""
        if len(content) == length:
            if answer.isclosed() and not answer.will_close:  # read to its end
                _kept[place], connection = connection, None
            return content, str(answer.headers.get("Content-Range", ""))
    except (OSError, http.client.HTTPException, ValueError):
        pass  # asked again, and told, by `_ask`
    finally:
        if connection is not None:
            connection.close()
    return None


def hang_up() -> None:
    """Close the connections that are kept, and forget what is known of servers."""
    for connection in _kept.values():
        connection.close()
    _kept.clear()
    _moved.clear()


def _agent() -> str:
    return f"scenewise/{version('scenewise')}"


def _ask(url: str, headers: dict[str, str], *, whole: bool, most: int) -> tuple[bytes, str]:
    """Return what an address answers, `most` bytes of it, and its Content-Range; asks again where that may help."""
    request = urllib.request.Request(url, headers={"User-Agent": _agent(), **headers})
    problem = ""
    for wait in (0.0, *WAITS):
        time.sleep(wait)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                if not whole and answer.status != 206:
                    raise UserError(
                        f"data: {url}: the server sends whole files only (no range requests); copy the shards to a disk"
                    )
                said, content = str(answer.headers.get("Content-Range", "")), answer.read(most)
                if whole or len(content) == most:
                    return content, said
                problem = f"only {len(content)} of {most} bytes came"
        except UserError:  # a ValueError too
            raise
        except urllib.error.HTTPError as error:
            with error:
                problem = f"{error.code} {error.reason}"
                if error.code == 416:
                    raise UserError(f"data: {url} is shorter than it was when it was packed; copy it again") from None
                if error.code in (404, 410):
                    raise MissingError(f"data: {url} is missing ({problem})") from None
                if error.code not in _AGAIN:
                    raise UserError(f"data: {url} cannot be read ({problem})") from None
        except http.client.InvalidURL as error:
            raise UserError(f"data: {url} is no address that can be asked: {error}") from None
        except (OSError, http.client.HTTPException) as error:  # no connection, or one that broke
            problem = str(error) or type(error).__name__
        except ValueError as error:
            raise UserError(f"data: {url} is no address that can be asked: {error}") from None
    raise UserError(f"data: {url} cannot be read, asked {len(WAITS) + 1} times: {problem}")


def _other_length(url: str, found: int, wanted: int) -> UserError:
    return UserError(f"data: {url} has {found} bytes instead of {wanted}: another file than was packed; copy it again")
