"""Finds the browser that opens report pages in `make test-integrations`; exits 1 with the remedy if there is none.

    python scripts/browser.py

It installs Chromium only where nobody minds: as root, under `CI=true`, where there is apt-get.
"""

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REMEDY = (
    f"no browser on PATH (looked for {', '.join(NAMES)}), and the tests of report pages need one: "
    "run `apt-get install -y chromium` as root, or install Chromium or Chrome in another way"
)
_APT = (["apt-get", "update", "--quiet"], ["apt-get", "install", "--yes", "--quiet", "chromium"])


def find() -> str | None:
    """The path of a browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def may_install() -> bool:
    """Whether this is a machine of continuous integration that can be installed on."""
    return os.environ.get("CI") == "true" and os.geteuid() == 0 and shutil.which("apt-get") is not None


def main() -> int:
    if find() is None and may_install():
        for command in _APT:
            subprocess.run(command, check=False)  # whether it worked is seen below
    path = find()
    print(path or REMEDY, file=sys.stdout if path else sys.stderr)
    return 0 if path else 1


if __name__ == "__main__":
    sys.exit(main())
