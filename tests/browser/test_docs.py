"""The documentation pages in a real browser, as a person sees them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
    "--window-size=1000,900",
]
#: ReDoc shows its maker's logo from the maker's host; the policy keeps it from being fetched.
FOREIGN = "cdn.redoc.ly"
PATIENCE_SECONDS = 30

#: What the README shows. `make screenshots` takes them anew.
IMAGES = ROOT / "docs" / "images"
PICTURES = ("locks", "authorize", "authorized")
Picture = Callable[[str], None]

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


@pytest.fixture
def picture(browser: webdriver.Chrome, tmp_path: Path) -> Picture:
    """Takes a picture of what is seen; for the README only when that is asked for."""
    folder = IMAGES if "SCREENSHOTS" in os.environ else tmp_path

    def take(name: str) -> None:
        assert name in PICTURES
        browser.save_screenshot(str(folder / f"{name}.png"))

    return take


async def test_authorize_gets_a_token_by_client_credentials_and_uses_it(
    site: str, browser: webdriver.Chrome, async_database: object, picture: Picture
) -> None:
    """Guarded routes show a lock and their scopes; "Try it out" is refused until "Authorize"."""
    m2m = OAuth2M2M(async_database)  # type: ignore[arg-type]
    secret = secret_of(await m2m.clients.register("browser", scopes=["read"]))
    browser.get(f"{site}/docs")

    _found(browser, ".opblock")
    assert _locked_paths(browser) == _guarded_paths(site)
    assert {"/protected", "/admin-only"} <= _guarded_paths(site)
    _scroll_to(browser, _operation(browser, "/protected"))
    assert not _operation(browser, "/protected").find_elements(By.CSS_SELECTOR, ".locked")
    picture("locks")

    _operation(browser, "/protected").find_element(
        By.CSS_SELECTOR, ".opblock-summary-control"
    ).click()
    _found(browser, "button.try-out__btn").click()
    assert _executed(browser) == ("401", False)

    assert _scopes_behind_the_lock(browser, "/admin-only") == ["admin"]
    assert _scopes_behind_the_lock(browser, "/protected", close=False) == ["read"]
    _found(browser, ".auth-container input[type=text]").send_keys("browser")
    _found(browser, ".auth-container input[type=password]").send_keys(secret)
    _found(browser, ".scopes label[for*=read]").click()
    picture("authorize")
    _found(browser, ".auth-btn-wrapper button.authorize").click()
    _found(browser, ".auth-btn-wrapper button.btn-done").click()

    assert _executed(browser) == ("200", True)
    assert _operation(browser, "/protected").find_elements(By.CSS_SELECTOR, ".locked")
    _scroll_to(browser, _found(browser, ".request-url"), "start")  # above it stands the token
    picture("authorized")
    # The browser's own word on the 401 above; nothing else went wrong.
    (refused,) = _complaints(browser)
    assert "/protected" in refused
    assert "401" in refused


def test_the_pictures_are_there_and_small() -> None:
    """What the README shows is a picture of a page, and quickly loaded."""
    for name in PICTURES:
        content = (IMAGES / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert 5_000 < len(content) < 150_000


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


def _guarded_paths(site: str) -> set[str]:
    """The paths of the API that ask for a token, as the document says."""
    paths = httpx.get(f"{site}/openapi.json").json()["paths"]
    return {
        path
        for path, methods in paths.items()
        if any("oauth2_m2m" in security for m in methods.values() for security in _security(m))
    }


def _security(method: dict[str, Any]) -> list[str]:
    return [name for each in method.get("security", []) for name in each]


def _locked_paths(browser: webdriver.Chrome) -> set[str]:
    """The paths that are shown with a lock."""
    return {
        str(operation.find_element(By.CSS_SELECTOR, "[data-path]").get_attribute("data-path"))
        for operation in browser.find_elements(By.CSS_SELECTOR, ".opblock")
        if operation.find_elements(By.CSS_SELECTOR, ".authorization__btn")
    }


def _operation(browser: webdriver.Chrome, path: str) -> WebElement:
    """The box of an operation."""
    named = browser.find_element(By.CSS_SELECTOR, f'[data-path="{path}"]')
    return named.find_element(By.XPATH, "ancestor::*[contains(@class, 'opblock ')][1]")


def _scopes_behind_the_lock(
    browser: webdriver.Chrome, path: str, *, close: bool = True
) -> list[str]:
    """The scopes that are offered where one clicks on the lock of an operation."""
    lock = _operation(browser, path).find_element(By.CSS_SELECTOR, ".authorization__btn")
    _scroll_to(browser, lock)
    lock.click()
    _found(browser, ".scopes")
    names = [each.text for each in browser.find_elements(By.CSS_SELECTOR, ".scopes p.name")]
    if close:
        _found(browser, ".dialog-ux .close-modal").click()
    return names


def _executed(browser: webdriver.Chrome) -> tuple[str, bool]:
    """Press "Execute"; the status that is shown, and whether the greeting is."""
    for clear in browser.find_elements(By.CSS_SELECTOR, "button.btn-clear"):
        clear.click()  # or what is seen could be the answer before
    _found(browser, "button.execute").click()
    status = _found(browser, ".live-responses-table .response .response-col_status").text
    answer = _found(browser, ".live-responses-table .microlight").text
    return status.split()[0], "Hello browser, you have accessed a protected route!" in answer


def _scroll_to(browser: webdriver.Chrome, element: WebElement, place: str = "center") -> None:
    browser.execute_script("arguments[0].scrollIntoView({block: arguments[1]})", element, place)


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
