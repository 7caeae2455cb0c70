"""The documentation pages in a real browser, as a person sees them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from example.mongodb import HOST, free_port
from oauth2_m2m import OAuth2M2M
from tests.machine import secret_of

ROOT = Path(__file__).parents[2]
CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
    "--window-size=1100,1400",
]
#: ReDoc shows its maker's logo from the maker's host; the policy keeps it from being fetched.
FOREIGN = "cdn.redoc.ly"
PATIENCE_SECONDS = 30

pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(
        not (CHROMIUM and CHROMEDRIVER),
        reason="no Chromium here (Debian: apt-get install chromium chromium-driver)",
    ),
]


@pytest.fixture
def site(mongo_url: str, database_name: str) -> Iterator[str]:
    """The example, served by uvicorn to a browser."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "example.main:app", "--host", HOST, "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, "MONGODB_URL": mongo_url, "MONGODB_DB": database_name},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_live(f"http://{HOST}:{port}", process)
        yield f"http://{HOST}:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """A browser that has never been anywhere."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for option in (*OPTIONS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER))
    try:
        yield driver
    finally:
        driver.quit()


async def test_authorize_gets_a_token_by_client_credentials_and_uses_it(
    site: str, browser: webdriver.Chrome, async_database: object, tmp_path: Path
) -> None:
    """In Swagger UI, "Authorize" with id and secret opens the guarded route."""
    m2m = OAuth2M2M(async_database)  # type: ignore[arg-type]
    secret = secret_of(await m2m.clients.register("browser", scopes=["read"]))
    browser.get(f"{site}/docs")
    _found(browser, "button.authorize").click()
    _found(browser, ".auth-container input[type=text]").send_keys("browser")
    _found(browser, ".auth-container input[type=password]").send_keys(secret)
    _found(browser, ".scopes label[for*=read]").click()
    _found(browser, ".auth-btn-wrapper button.authorize").click()
    _found(browser, ".auth-btn-wrapper button.btn-done").click()
    _found(browser, "[id$=protected_protected_get] .opblock-summary-control").click()
    _found(browser, "button.try-out__btn").click()
    _found(browser, "button.execute").click()
    answer = _found(browser, ".live-responses-table .microlight").text
    browser.save_screenshot(str(tmp_path / "authorized.png"))
    assert "Hello browser, you have accessed a protected route!" in answer
    assert _complaints(browser) == []


@pytest.mark.parametrize(
    ("path", "element"), [("/docs", ".opblock-tag"), ("/redoc", "h1")], ids=["swagger", "redoc"]
)
def test_pages_render_from_this_server_alone(
    site: str, browser: webdriver.Chrome, path: str, element: str
) -> None:
    """Each page shows the API under its Content-Security-Policy, and asks no other host."""
    browser.get(site + path)
    assert _found(browser, element).is_displayed()
    asked = browser.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert asked
    foreign = [url for url in asked if not url.startswith((site, "data:", "blob:"))]
    complaints = _complaints(browser)
    assert all(FOREIGN in url for url in foreign)
    assert len(complaints) == len(foreign)
    assert all(FOREIGN in text and "Content Security Policy" in text for text in complaints)


def _found(browser: webdriver.Chrome, selector: str) -> WebElement:
    """The element, as soon as it can be used."""

    def usable(driver: webdriver.Chrome) -> WebElement | None:
        for element in driver.find_elements(By.CSS_SELECTOR, selector):
            if element.is_displayed() and element.is_enabled():
                return element
        return None

    found = WebDriverWait(browser, PATIENCE_SECONDS).until(usable)
    assert found is not None
    return found


def _complaints(browser: webdriver.Chrome) -> list[str]:
    """What the browser refused or failed to do since this was last asked."""
    entries = browser.get_log("browser")  # type: ignore[no-untyped-call]
    return [entry["message"] for entry in entries if entry["level"] in {"SEVERE", "WARNING"}]


def _wait_until_live(site: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{site}/health/live").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail("the example did not start")
