"""The pages in a real browser: nothing on the console, nothing that axe calls serious."""

from __future__ import annotations

import shutil

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import async_playwright

from gateway.app import utc_now
from tests.synthetic_books import fill

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PAGES = {
    "overview": "/dashboard",
    "spend": "/dashboard/spend",
    "savings": "/dashboard/savings",
    "routing": "/dashboard/routing",
    "latency": "/dashboard/latency",
    "budgets": "/dashboard/budgets",
    "turns": "/dashboard/turns",
    "turn": "/dashboard/turns/req_demo_00000003",
    "conversations": "/dashboard/conversations",
    "conversation": "/dashboard/conversations?name=chat-3",
    "policies": "/dashboard/policies",
    "keys": "/dashboard/keys",
    "audit": "/dashboard/audit",
    "chat": "/chat",
}
REDRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH"),
]


@pytest.fixture
async def browser():
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield started
        await started.close()


async def open_page(gateway, browser, *, key="an-admin-key-for-tests", **options):
    """Return a signed-in page and what its console said."""
    context = await browser.new_context(**options)
    page = await context.new_page()
    said = []
    page.on("console", lambda line: line.type in ("error", "warning") and said.append(line.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    await page.goto(f"{gateway.url}/dashboard/login")
    await page.fill("#key", key)
    await page.click("button[type=submit]")
    await page.wait_for_load_state("networkidle")
    return page, said


async def settled(page, path):
    """Go to a page and wait until what it loads by itself is there; return the answer."""
    answer = await page.goto(path, wait_until="load")
    if await page.locator("#what-if-answer").count():
        await page.wait_for_selector("#what-if-answer > p")
    return answer


async def serious_in(page, **options):
    """Return what axe finds serious or critical, with the elements it means."""
    found = await page.evaluate("options => axe.run(document, options)", options)
    return [
        (one["id"], [node["target"] for node in one["nodes"]])
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("is_full", [False, True], ids=["empty", "full"])
async def test_every_page_is_quiet_and_accessible_in_light_and_dark(gateway, browser, is_full):
    if is_full:
        fill(gateway.services.database, "demo", now=utc_now(), days=9, per_day=4)
    page, said = await open_page(gateway, browser, color_scheme="light")

    problems = {}
    for name, path in PAGES.items():
        answer = await settled(page, gateway.url + path)
        is_absent = not is_full and name in ("turn", "conversation")
        assert answer.status == (404 if is_absent else 200), name
        await page.evaluate(AXE_SCRIPT)
        await page.emulate_media(color_scheme="light")
        problems[name, "light"] = await serious_in(page)
        await page.emulate_media(color_scheme="dark")
        # Colours are all that the scheme changes.
        problems[name, "dark"] = await serious_in(page, runOnly=["color-contrast"])

    assert {place: found for place, found in problems.items() if found} == {}
    # The browser itself notes a page that is answered 404, which is right for those two.
    assert [line for line in said if "404" not in line or is_full] == []


async def test_no_page_scrolls_sideways(gateway, browser):
    fill(gateway.services.database, "demo", now=utc_now(), days=9, per_day=15)
    page, _ = await open_page(gateway, browser)

    for name, path in PAGES.items():
        await settled(page, gateway.url + path)
        for width in (360, 1280):
            await page.set_viewport_size({"width": width, "height": 800})
            await page.evaluate(REDRAWN)
            found = await page.evaluate("document.documentElement.scrollWidth")
            assert found <= width, (name, width)


async def test_current_page_is_seen_in_the_navigation_of_a_phone(gateway, browser):
    page, _ = await open_page(gateway, browser, viewport={"width": 360, "height": 800})
    await settled(page, f"{gateway.url}/dashboard/audit")

    box = await page.locator("nav [aria-current]").bounding_box()

    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360


async def test_chart_is_drawn_from_the_table_beside_it(gateway, browser):
    fill(gateway.services.database, "demo", now=utc_now(), days=9, per_day=15)
    page, _ = await open_page(gateway, browser)
    await page.goto(f"{gateway.url}/dashboard/spend?days=7&tenant=demo")

    assert await page.locator("figure.chart canvas").count() == 1
    assert await page.locator("figure.chart tbody tr").count() == 7


async def test_currency_switch_changes_figures_without_leaving_the_page(gateway, browser):
    fill(gateway.services.database, "demo", now=utc_now(), days=3, per_day=15)
    page, _ = await open_page(gateway, browser)
    assert "₹" in await page.inner_text("h1")

    await page.focus("#pick-currency")
    await page.select_option("#pick-currency", "USD")
    await page.wait_for_url("**currency=USD**")

    assert "$" in await page.inner_text("h1")
    assert await page.evaluate("document.activeElement.id") == "pick-currency"


async def test_slider_counts_again_as_it_moves(gateway, browser):
    fill(gateway.services.database, "demo", now=utc_now(), days=3, per_day=15)
    page, said = await open_page(gateway, browser)
    await page.goto(f"{gateway.url}/dashboard/routing?tenant=demo")
    await page.wait_for_selector("#what-if-answer >> text=as it is now")

    await page.focus("#threshold")
    await page.keyboard.press("ArrowRight")
    await page.wait_for_selector("#what-if-answer >> text=instead of")

    assert "0.56" in await page.inner_text("#what-if-answer")
    assert said == []


async def test_export_shows_progress_and_saves_a_file(gateway, browser):
    fill(gateway.services.database, "demo", now=utc_now(), days=9, per_day=15)
    page, _ = await open_page(gateway, browser)
    await page.goto(f"{gateway.url}/dashboard/spend?tenant=demo")

    async with page.expect_download() as coming:
        await page.click("a[data-export] >> nth=0")
    saved = await coming.value

    assert saved.suggested_filename == "spend-demo-by-model.csv"
    await page.wait_for_selector("[role=status] >> text=Saved")


async def test_pages_work_without_scripts(gateway, browser):
    fill(gateway.services.database, "demo", now=utc_now(), days=3, per_day=15)
    page, _ = await open_page(gateway, browser, java_script_enabled=False)

    await page.select_option("#pick-currency", "USD")
    await page.click("noscript button, form.controls button")

    assert "$" in await page.inner_text("h1")


async def test_first_page_is_there_within_a_second_at_1500_kbit(gateway, browser):
    fill(gateway.services.database, "demo", now=utc_now(), days=30, per_day=15)
    page, _ = await open_page(gateway, browser)
    sent = []
    link = await page.context.new_cdp_session(page)
    await link.send("Network.enable")
    await link.send("Network.setCacheDisabled", {"cacheDisabled": True})
    link.on("Network.loadingFinished", lambda event: sent.append(event["encodedDataLength"]))

    await page.goto(f"{gateway.url}/dashboard?tenant=demo")
    await page.wait_for_load_state("networkidle")

    # By the wire alone, so that a busy machine changes nothing: bits over bits per second.
    assert sum(sent) < 60_000
    assert sum(sent) * 8 / 1_500_000 < 1


async def test_turn_in_the_chat_page_shows_tier_reason_and_cost(gateway, browser):
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"{gateway.url}/chat")
    await page.fill("#key", gateway.key)
    await page.click("#key-form button[type=submit]")
    await page.fill("#text", "Hello")
    await page.click("#send")

    await page.wait_for_selector(".facts >> text=₹")
    assert await page.locator(".facts .tier").count() == 1
    await page.wait_for_selector("#why-body >> text=score")
