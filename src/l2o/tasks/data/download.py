"""A downloader for `pooch` that goes on where an interrupted download stopped."""

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import requests
import urllib3

# Beyond the largest file that is fetched, CIFAR-10 with 170 MB: a server that sends without end is cut off.
MAX_DOWNLOAD = 2**28

_CONNECT_SECONDS, _READ_SECONDS = 10, 60
_CHUNK = 2**16


def download_resumable(url: str, output_file: str, _pooch: object = None) -> None:
    """Downloads `url` to `output_file`, with a progress bar on standard error.

    What arrives is kept in a `.part` file beside the output, so that the next call asks only for the rest. Whether old
    and new bytes belong together is for the caller's checksum to tell: `pooch` compares it and starts anew.

    Args:
        url: address, http or https.
        output_file: where the whole file goes; replaced in one step.

    Raises:
        requests.RequestException: if the server cannot be reached, refuses, stops early or sends too much.
    """
    part = Path(output_file).with_name(PurePosixPath(urlsplit(url).path).name + ".part")
    start = part.stat().st_size if part.exists() else 0
    # "identity": a server that calls a .gz file's packing its own encoding would otherwise have it unpacked on the way.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=(_CONNECT_SECONDS, _READ_SECONDS)) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink(missing_ok=True)
            raise requests.HTTPError(f"the {start:,} bytes fetched before do not fit the file; they were deleted")
        response.raise_for_status()
        if response.status_code == requests.codes.partial_content:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                part.unlink(missing_ok=True)
                raise requests.HTTPError("the server sent another range than the one asked for")
        else:
            start = 0
        _append(response, part, start)
    part.replace(output_file)


def _append(response: requests.Response, part: Path, start: int) -> None:
    # Here, so that importing the package neither takes the time nor draws from Python's random numbers, as rich does.
    from rich.console import Console
    from rich.progress import Progress

    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdecimal() else None
    received = start
    with part.open("ab" if start else "wb") as file, Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(part.stem, total=total, completed=start)
        try:
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                file.write(chunk)
                received += len(chunk)
                progress.update(bar, completed=received)
                if received > MAX_DOWNLOAD:
                    file.truncate(0)
                    raise requests.ConnectionError(f"the server sent more than {MAX_DOWNLOAD:,} bytes")
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(f"the download stopped after {received:,} bytes ({error})") from error
