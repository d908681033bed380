"""Make the screenshots of the documents: `python docs/site/screenshots.py`, minutes of CPU.

It trains a short run on the embedded scenes (`make scenes`), writes its pages, and shows them in headless Chromium
by `pip install playwright`.
"""

import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs/images/screens"
DATA = "data.root=data/scenes/ADEChallengeData2016"
RUN = "runs/screens/dysample"
LENGTH = ["steps=240", "logging.every=10", "evaluation.every=60"]
QUALITY = 80  # of WebP


def run(*words: str) -> None:
    """Run a command of the repository. `check_data` may end with 1, which means findings."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT)
    if done.returncode > 1:
        sys.exit(done.returncode)


def keep(page: Page, name: str) -> None:
    """Keep what a page shows as NAME.webp."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        picture.convert("RGB").save(PICTURES / f"{name}.webp", quality=QUALITY, method=6)


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """The address of a TensorBoard that has started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(folder),
        "--port",
        str(port),
        "--load_fast=false",
    ]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(60):
            with suppress(OSError):
                urlopen(address).close()
                break
            time.sleep(1)
        time.sleep(10)  # until it has read the runs
        yield address
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Train, write the pages, make the pictures."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("error: chromium: is not installed; install it, or name it by CHROMIUM=PATH")
    where = [f"output_dir={Path(RUN).parent}", f"run_name={Path(RUN).name}"]
    run("train.py", "--cfg", "configs/small/seg.yaml", DATA, *LENGTH, *where)
    pages = ROOT / "runs/screens"
    run("-m", "tools.report", RUN, "--out", str(pages / "report.html"))
    run("-m", "tools.errors", "--checkpoint", RUN, "--out", str(pages / "errors.html"))
    run("-m", "tools.check_data", "--cfg", "configs/small/seg.yaml", DATA, "--out", str(pages / "check_data.html"))
    with sync_playwright() as playwright, tensorboard(pages) as address:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 960})
        for name in ("report", "errors", "check_data"):
            page.goto((pages / f"{name}.html").as_uri())
            keep(page, name)
        page.goto(f"{address}?tagFilter=train/loss$|learning_rate|mIoU|bIoU#timeseries")
        page.get_by_text("Settings", exact=True).first.click()  # closes them
        page.wait_for_timeout(15000)  # until the curves are drawn
        keep(page, "tensorboard")
        browser.close()


if __name__ == "__main__":
    main()
