"""Draw the picture of the server's page in the documentation: `python benchmarks/serve_page.py`."""

import argparse
import subprocess
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

from browser import running_browser, wait_until

from softpatch.data.demo import write_demo_dataset
from softpatch.estimator import SoftPatch

IMAGES = Path(__file__).parent.parent / "docs/images"
WIDTH, HEIGHT = 1280, 1060
SHOWN = 6


def main() -> None:
    """Serve the default, fitted on the demo's product, and judge some of its test images on the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=IMAGES, help="folder for the picture")
    output = parser.parse_args().output.absolute()
    with tempfile.TemporaryDirectory() as folder, chdir(folder), running_browser() as browser:
        write_demo_dataset(Path("images"))
        SoftPatch().fit("images/train").save("flange.safetensors")
        shown = sorted(Path("images/test").rglob("*.png"), key=lambda path: (path.name, path.parent.name))[:SHOWN]
        command = [sys.executable, "-m", "softpatch", "serve", "flange.safetensors", "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            assert server.stdout is not None
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
            page.goto(server.stdout.readline().split()[0])
            wait_until(page, "document.getElementById('model').options.length")
            page.set_input_files("#files", [str(path) for path in shown])
            wait_until(page, "document.querySelector('[data-count=waiting]').textContent === '0'")
            page.wait_for_timeout(300)  # until images are decoded
            page.screenshot(path=output / "serve-page.png")
            server.terminate()


if __name__ == "__main__":
    main()
