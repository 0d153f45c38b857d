"""How long the dashboard's first page takes in a browser at 1.5 Mbit/s, nothing cached.

    python -m benchmarks.policies.first_page http://127.0.0.1:8080 KEY

Needs chromium on PATH and a running gateway. Prints, of ten loads, when the page was painted first
and when all of it was there, and the bytes that came.
"""

from __future__ import annotations

import asyncio
import shutil
import sys

from playwright.async_api import Page, async_playwright

N_LOADS = 10
LINE = {"offline": False, "latency": 40, "downloadThroughput": 187_500, "uploadThroughput": 93_750}
TIMES = """
() => [
  performance.getEntriesByName("first-contentful-paint")[0].startTime,
  performance.getEntriesByType("navigation")[0].loadEventEnd,
]
"""


async def measure(page: Page, url: str, key: str) -> None:
    await page.goto(f"{url}/dashboard/login")
    await page.fill("#key", key)
    await page.click("button[type=submit]")
    await page.wait_for_load_state("load")
    link = await page.context.new_cdp_session(page)
    sent: list[int] = []
    await link.send("Network.enable")
    await link.send("Network.setCacheDisabled", {"cacheDisabled": True})
    await link.send("Network.emulateNetworkConditions", LINE)
    link.on("Network.loadingFinished", lambda event: sent.append(event["encodedDataLength"]))
    painted_ms, loaded_ms = [], []
    for _ in range(N_LOADS):
        sent.clear()
        await page.goto(f"{url}/dashboard", wait_until="load")
        painted, loaded = await page.evaluate(TIMES)
        painted_ms.append(painted)
        loaded_ms.append(loaded)
    for name, found in (("painted", sorted(painted_ms)), ("loaded", sorted(loaded_ms))):
        sys.stdout.write(f"{name}: {found[N_LOADS // 2]:.0f} ms, at most {found[-1]:.0f} ms\n")
    sys.stdout.write(f"{sum(sent):,.0f} bytes\n")


async def run(url: str, key: str) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        await measure(await browser.new_page(), url.rstrip("/"), key)
        await browser.close()


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
