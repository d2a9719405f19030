"""Makes docs/report.png: the first screen of a report, as Chromium shows it.

python docs/report_picture.py runs/quickstart/report/index.html
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PICTURE = Path(__file__).with_name("report.png")
SIZE_PX = (1400, 980)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_COLOURS = 128


def take(page: Path, picture: Path = PICTURE) -> None:
    """Write the first screen of `page` to `picture`, a PNG of `SIZE_PX`.

    Raises:
        SystemExit: there is no page, no browser, or the browser gives no picture.
    """
    if not page.is_file():
        raise SystemExit(f"{page} is no report; `make quickstart` makes runs/quickstart/report/index.html.")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"No browser found; install one of {', '.join(BROWSERS)} (Debian: chromium).")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        command = [
            *(
                browser,
                "--headless=new",
                "--no-sandbox",
                "--hide-scrollbars",
                f"--user-data-dir={folder}/data",
            ),
            *(f"--window-size={SIZE_PX[0]},{SIZE_PX[1]}", f"--screenshot={shot}", page.resolve().as_uri()),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if not shot.is_file():
            raise SystemExit(f"{browser} gave no picture: {done.stderr[-500:]}")
        with Image.open(shot) as image:
            # Small areas keep their colours: a model's dot is a few pixels.
            how = Image.Quantize.MAXCOVERAGE
            few = image.convert("RGB").quantize(_COLOURS, method=how, dither=Image.Dither.NONE)
            few.save(picture, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    take(Path(sys.argv[1]))
