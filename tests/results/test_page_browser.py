"""The results page in headless Chromium."""

import html
import http.server
import json
import re
import shutil
import subprocess
import threading

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"
)

MEASURE = """<script>addEventListener('load', () => {
  const wide = [...document.querySelectorAll('body *')].filter(e =>
    !e.closest('.scroll') && !e.closest('pre') && e.getBoundingClientRect().right > innerWidth + 1);
  const text = [...document.querySelectorAll('p,td,th,li,figcaption,dd')].filter(e =>
    e.offsetParent && parseFloat(getComputedStyle(e).fontSize) < 12);
  const broken = [...document.images].filter(i => !i.complete || i.naturalWidth === 0);
  const result = document.querySelector('#result .scroll');
  const columns = {};  // top of the first name in each column
  for (const e of document.querySelectorAll('.ids li')) {
    const box = e.getBoundingClientRect();
    columns[box.left] = Math.min(columns[box.left] ?? Infinity, box.top);
  }
  document.title = JSON.stringify({hidden: result.scrollWidth - result.clientWidth,
    cells: [...result.querySelectorAll('tbody td')].filter(e => e.offsetParent).length,
    columns: Object.values(columns).map(Math.round), scroll: document.documentElement.scrollWidth,
    inner: innerWidth, wide: wide.map(e => e.tagName), small: text.length,
    images: document.images.length, broken: broken.length,
    requests: performance.getEntriesByType('resource')
      .map(r => r.name).filter(n => !n.startsWith('data:'))});
});</script>"""


def chromium(folder, *arguments):
    # --no-sandbox: containers have no user namespaces. The profile must not be the user's.
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        f"--user-data-dir={folder / 'profile'}",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def frame(results_page, tmp_path_factory):
    """The page, with a script that measures it, inside frames as wide as a phone's and a desk's.

    Chromium's own window cannot be narrower than 500 pixels on some platforms.
    """
    folder = tmp_path_factory.mktemp("browser")
    text = results_page.read_text(encoding="utf-8")
    measured = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    (folder / "measured.html").write_text(measured.replace("</body>", MEASURE + "</body>"))
    for width in (390, 1280):
        (folder / f"frame{width}.html").write_text(
            "<!DOCTYPE html><body style='margin:0'><iframe src='measured.html' style='border:0;"
            f"width:{width}px;height:800px'></iframe><pre id=out></pre><script>"
            "addEventListener('load', () => setTimeout(() => {document.getElementById('out')"
            ".textContent = document.querySelector('iframe').contentDocument.title}, 300))</script>"
        )
    return folder


def measure(frame, width):
    dump = chromium(
        frame,
        "--allow-file-access-from-files",
        "--virtual-time-budget=5000",
        f"--window-size={max(800, width)},900",
        "--dump-dom",
        (frame / f"frame{width}.html").as_uri(),
    )
    return json.loads(html.unescape(re.search(r'<pre id="out">(.*?)</pre>', dump)[1]))


@pytest.fixture(scope="module")
def measured(frame):
    return measure(frame, 390)


def test_page__does_not_scroll_sideways_on_a_phone(measured):
    assert measured["inner"] == 390
    assert measured["scroll"] <= 390
    assert measured["wide"] == []


def test_page__every_number_of_the_headline_is_seen_without_scrolling_the_table(measured):
    assert measured["hidden"] == 0
    assert measured["cells"] == 5 * 8


def test_page__columns_of_dropped_images_are_in_line(frame):
    columns = measure(frame, 1280)["columns"]
    assert len(columns) > 1
    assert len(set(columns)) == 1


def test_page__text_is_legible_on_a_phone(measured):
    assert measured["small"] == 0


def test_page__shows_every_picture_without_a_request(measured):
    assert measured["images"] >= 8
    assert measured["broken"] == 0
    assert measured["requests"] == []


class Recorder(http.server.BaseHTTPRequestHandler):
    """Serves the page and remembers what was asked for."""

    def do_GET(self):
        self.server.asked.append(self.path)
        body = self.server.page
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Stay silent."""


def test_page__asks_its_own_server_for_nothing_but_itself(results_page, tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    server.asked, server.page = [], results_page.read_bytes()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/results.html"
        chromium(tmp_path, "--virtual-time-budget=3000", "--dump-dom", address)
    finally:
        server.shutdown()
        server.server_close()
    assert server.asked == ["/results.html"]


def test_page__prints(results_page, tmp_path):
    pdf = tmp_path / "page.pdf"
    chromium(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={pdf}", results_page.as_uri())
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    pages = max(int(n) for n in re.findall(rb"/Count (\d+)", content))
    assert 3 <= pages <= 20
