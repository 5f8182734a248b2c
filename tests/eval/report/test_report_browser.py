"""The report in a headless browser: it renders, its tables sort, and it fetches nothing."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no {', '.join(NAMES)} on PATH")

TIMEOUT_S = 60  # of a launch, which takes a second or two
SWITCHES = (
    *("--headless", "--disable-gpu", "--disable-extensions", "--disable-sync", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"),
    *("--proxy-server=127.0.0.1:1", "--proxy-bypass-list=<-loopback>"),  # nothing gets out
    *("--window-size=1100,1600", "--hide-scrollbars", "--virtual-time-budget=1000", "--dump-dom"),
)
# Clicks on a heading twice and on another once, and leaves what the columns then say.
CLICKS = """<script>
const column = (i) => [...document.querySelectorAll("#results tbody")[0].rows]
  .map((row) => row.cells[i].textContent.trim());
const click = (i) => document.querySelectorAll("#results thead button")[i].click();
const found = {};
click(5); found.rising = column(5);
click(5); found.falling = column(5);
click(0); found.methods = column(0);
found.sorted = document.querySelectorAll("#results th")[0].getAttribute("aria-sort");
found.widths = [document.documentElement.scrollWidth, document.documentElement.clientWidth];
document.body.dataset.found = JSON.stringify(found);
</script></body>"""
BROKEN = """<!doctype html><body><h1>Broken</h1><img src="http://example.invalid/x.png">
<script>notThere();</script></body>"""


class Dom(HTMLParser):
    """Counts tags, keeps headings and what the body says was found."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.headings, self.found, self._within = [], [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._within = tag
        if tag == "body":
            self.found = json.loads(dict(attrs).get("data-found", "{}"))

    def handle_data(self, data):
        if self._within in ("h1", "h2", "h3") and data.strip():
            self.headings.append(data.strip())

    def handle_endtag(self, tag):
        self._within = None


def opened(page, folder):
    """What the browser made of a page: its DOM, a screenshot, console messages, requests."""
    log, shot = folder / "net.json", folder / "shot.png"
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    ended = subprocess.run(
        [
            BROWSER,
            *SWITCHES,
            *as_root,
            f"--user-data-dir={folder / 'profile'}",
            f"--log-net-log={log}",
            f"--screenshot={shot}",
            page.as_uri(),
        ],
        capture_output=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    content = json.loads(log.read_text())
    start = content["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    jobs = [event.get("params", {}) for event in content["events"] if event["type"] == start]
    # The browser's own requests, for updates and the time, have no origin.
    own = "not an origin"
    return SimpleNamespace(
        dom=Dom(ended.stdout.decode()),
        shot=shot,
        console=[line for line in ended.stderr.decode().splitlines() if "CONSOLE" in line],
        requests=[job["url"] for job in jobs if "url" in job and job.get("initiator") != own],
    )


@pytest.fixture(scope="module")
def shown(report_page, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    page = folder / "report.html"
    page.write_text(report_page.replace("</body>", CLICKS))
    return opened(page, folder)


def test_report__renders(shown, report_run):
    results = report_run[0]
    assert shown.console == []
    for heading in (
        "Retrieval by learned product codes",
        "Results",
        "Who is better than whom",
        "Differences in mAP@50, query by query",
        "mAP@50 by code length",
        "mAP@50 against speed at 2 to 3 bytes",
        "Seeds",
        "Codewords of PQ-VAE, 16 bits",
        "Nearest images at 16 bits",
        "How this was made",
    ):
        assert heading in shown.dom.headings
    assert shown.dom.tags.count("svg") == 21
    # Rows of the four tables, one of them of all costs, and their headings.
    seeded = [row for row in results.rows if row.seeds]
    counted = 2 * len(results.rows) + len(results.comparisons) + len(seeded) + 4
    assert shown.dom.tags.count("tr") == counted


def test_report__is_not_blank_and_not_too_wide(shown):
    pixels = np.asarray(Image.open(shown.shot).convert("L"), float)
    assert pixels.shape == (1600, 1100)
    for part in np.array_split(pixels, 4):
        assert part.std() > 5
    scrolled, visible = shown.dom.found["widths"]
    assert scrolled <= visible


def test_report__a_click_on_a_heading_sorts(shown, report_run):
    found = shown.dom.found
    compared = [row for row in report_run[0].rows if not row.reference]
    shares = sorted(row.metrics["map@50"] for row in compared)
    assert [text.split(" ±")[0] for text in found["rising"]] == [f"{100 * x:.2f}" for x in shares]
    assert all(re.fullmatch(r"\d+\.\d\d ±\d+\.\d\d", text) for text in found["rising"])
    assert found["falling"] == found["rising"][::-1]
    names = [re.sub(r" \d seeds", "", text) for text in found["methods"]]
    assert names == ["<b>$bold</b>", "IVF", "IVF", "LSH", "PQ", "PQ"]
    assert found["sorted"] == "ascending"


def test_report__fetches_nothing(shown, report_page, tmp_path):
    assert shown.requests == []
    addresses = re.findall(r"""(?:src|href|action|data)\s*=\s*["']?([^"'\s>]+)""", report_page)
    assert [one for one in addresses if not one.startswith(("#", "data:"))] == []
    # The same browser would have noticed.
    (tmp_path / "broken.html").write_text(BROKEN)
    broken = opened(tmp_path / "broken.html", tmp_path)
    assert broken.requests == ["http://example.invalid/x.png"]
    assert "notThere is not defined" in broken.console[0]
