from __future__ import annotations

import re
from importlib.resources import files

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from gateway.dashboard.rendering import ASSETS, asset
from gateway.routes import dashboard, pages

OWN_SCRIPTS = ("page.js", "chat.js", "dashboard.js")


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.include_router(pages.router)
    app.include_router(dashboard.router)
    return TestClient(app)


@pytest.mark.parametrize("path", ["/chat", "/dashboard/login"])
def test_page_loads_only_files_that_this_server_has(client: TestClient, path: str) -> None:
    html = client.get(path).text

    links = re.findall(r'(?:src|href)="([^"]+)"', html)
    found = [link for link in links if link.startswith("/assets/")]
    assert len(found) >= 2
    assert {client.get(link).status_code for link in found} == {200}
    assert [link for link in links if not link.startswith(("/", "#"))] == []


@pytest.mark.parametrize("path", ["/chat", "/dashboard/login", "/assets/page.js"])
def test_page_may_load_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    policy = client.get(path).headers["content-security-policy"]

    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/chat", "/dashboard/login"])
def test_page_has_no_script_or_style_of_its_own(client: TestClient, path: str) -> None:
    html = client.get(path).text

    assert not re.search(r"<style|<script>|<script [^>]*>[^<]| style=| on\w+=", html)


def test_scripts_never_turn_text_into_markup() -> None:
    for name in OWN_SCRIPTS:
        script = asset(name).body.decode()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", script)


def test_every_file_of_the_folder_is_served() -> None:
    folder = files("gateway").joinpath("dashboard", "static")

    assert {entry.name for entry in folder.iterdir()} == set(ASSETS)


def test_packed_file_is_the_file(client: TestClient) -> None:
    packed = client.get("/assets/htmx.min.js", headers={"accept-encoding": "gzip"})
    plain = client.get("/assets/htmx.min.js", headers={"accept-encoding": "identity"})

    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content == asset("htmx.min.js").body


def test_unchanged_file_is_answered_304_without_a_body(client: TestClient) -> None:
    first = client.get("/assets/dashboard.css")

    again = client.get("/assets/dashboard.css", headers={"if-none-match": first.headers["etag"]})

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


def test_only_the_linked_version_is_kept_for_long(client: TestClient) -> None:
    linked = re.search(r"assets/page\.js\?v=\w+", client.get("/chat").text)

    assert linked is not None
    assert "immutable" in client.get(f"/{linked[0]}").headers["cache-control"]
    for stale in ("/assets/page.js", "/assets/page.js?v=old"):
        assert client.get(stale).headers["cache-control"] == "no-cache"


def test_key_is_kept_for_the_tab_alone() -> None:
    scripts = "".join(asset(name).body.decode() for name in OWN_SCRIPTS)

    assert "sessionStorage" in scripts
    assert not re.search(r"localStorage|document\.cookie", scripts)
