import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from l2o.evaluation.report import Report, write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser on PATH (looked for {', '.join(NAMES)})")

LIGHT, DARK = (0xF5, 0xF6, 0xF8), (0x12, 0x16, 0x1D)
PASS, FAIL = (0xDF, 0xF3, 0xEA), (0xFD, 0xE8, 0xE2)


def screenshot(folder: Path, report: Report, *options: str, width: int, height: int = 2400) -> np.ndarray:
    """What a browser shows of the report: `[height, width, 3]`, values 0 to 255."""
    write_report(folder / "report.html", report)
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    command += ["--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}", *options]
    command += [f"--screenshot={folder / 'page.png'}", f"--window-size={width},{height}"]
    subprocess.run([*command, (folder / "report.html").as_uri()], check=True, capture_output=True, timeout=120)
    return np.rint(imread(folder / "page.png")[:, :, :3] * 255).astype(int)


def count(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((image == colour).all(-1).sum())


@pytest.mark.parametrize("width", [1400, 390])
def test_the_report_fits_a_desktop_and_a_phone(tmp_path: Path, report: Report, width: int) -> None:
    image = screenshot(tmp_path, report, width=width)
    assert image.shape[1] == width
    # Nothing reaches the page's right margin, though the table has twelve columns: no sideways scrolling.
    assert (image[:, -8:] == LIGHT).all()
    assert count(image, PASS) > 500
    assert count(image, FAIL) > 500
    # The figure is shown: pixels of the learned curve's colour.
    assert count(image, (0x00, 0x72, 0xB2)) > 50


def test_the_report_is_dark_where_the_reader_prefers_it(tmp_path: Path, report: Report) -> None:
    image = screenshot(tmp_path, report, "--blink-settings=preferredColorScheme=0", width=800, height=900)
    assert count(image, DARK) > 10_000
    assert count(image, LIGHT) < 100  # the edges of letters aside
