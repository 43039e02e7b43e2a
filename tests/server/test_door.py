"""Who may come in, how much they may send, and what they learn when something of ours breaks."""

import re

import pytest

from quire.core.config import ServerConfig
from quire.core.errors import ConfigError, EngineDead, Overloaded
from quire.server.app import create_app
from quire.server.middleware.hosts import is_loopback
from quire.server.serve import with_keys

pytestmark = pytest.mark.anyio

OPEN = {"/health", "/v1/health", "/ping", "/livez", "/readyz", "/startupz"}
CHAT = "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}


async def test_every_route_but_the_health_ones_needs_a_key(bring_up):
    async with bring_up(api_key=["right", "also right"]) as client:
        app = client._transport.app
        for route in app.routes:
            for method in route.methods:
                answer = await client.request(method, route.path.replace("{id:path}", "fake"))
                assert (answer.status_code == 401) == (route.path not in OPEN), route.path
        assert {route.path for route in app.routes} >= OPEN


@pytest.mark.parametrize(
    "path", ["//health", "/health/", "/HEALTH", "/v1/../health", "/%68ealth/x", "/nothing", "/health?x", "/v1//models"]
)
async def test_tricks_with_paths_open_nothing(bring_up, path):
    async with bring_up(api_key=["right"]) as client:
        answer = await client.get(path)
        assert answer.status_code == (200 if path == "/health?x" or path == "/v1/../health" else 401)


async def test_a_host_header_opens_nothing(bring_up):
    async with bring_up(api_key=["right"], allowed_hosts=["*"]) as client:
        for host in ("x/health?", "localhost/health", "", "health", "a b"):
            assert (await client.get("/v1/models", headers={"host": host})).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": "Bearer right"}, 200),
        ({"authorization": "bearer also right"}, 200),
        ({"x-api-key": "right"}, 200),
        ({"api-key": "also right"}, 200),
        ({"authorization": "Bearer wrong", "x-api-key": "right"}, 200),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": "right"}, 401),
        ({"authorization": "Basic right"}, 401),
        ({"x-api-key": "right2"}, 401),
        ({"x-api-key": b"\xff\xfe"}, 401),
        ({"x-api-key": ""}, 401),
        ({}, 401),
    ],
)
async def test_keys(bring_up, headers, status):
    async with bring_up(api_key=["right", "also right"]) as client:
        answer = await client.get("/v1/models", headers=headers)
        assert answer.status_code == status
        if status == 401:
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_behind_a_proxy_only_the_same_routes_are_open(llm):
    import httpx

    app = create_app(llm, ServerConfig(api_key=["right"]), ["fake"])
    transport = httpx.ASGITransport(app, root_path="/v1")
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/v1/health")).status_code == 200
        assert (await client.get("/v1/v1/models")).status_code == 401
        assert (await client.get("/v1health")).status_code == 401


@pytest.mark.parametrize(
    ("root", "asked", "status"),
    [
        ("/llm", "/v1/models", 200),
        ("/llm", "/llm/v1/models", 200),
        ("/llm", "/llm/llm/v1/models", 404),
        ("/llm", "/llmv1/models", 404),
        ("/v1", "/v1/models", 200),
        ("/v1", "/v1/v1/models", 404),
    ],
)
async def test_a_proxys_prefix_may_be_there_without_the_proxy(llm, root, asked, status):
    import httpx

    app = create_app(llm, ServerConfig(api_key=["right"], root_path=root), ["fake"])
    transport = httpx.ASGITransport(app, root_path=root)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        path = root + asked  # as uvicorn tells it
        assert (await client.get(path)).status_code == 401
        assert (await client.get(path, headers={"authorization": "Bearer right"})).status_code == status


def test_an_empty_key_is_a_mistake(llm):
    with pytest.raises(ConfigError):
        create_app(llm, ServerConfig(api_key=[" "]), ["fake"])


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:80", 200),
        ("[::1]:8000", 200),
        ("[::1]", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:80", 403),
        ("localhost:80:80", 403),
        ("", 403),
    ],
)
async def test_hosts_on_loopback(bring_up, host, status):
    async with bring_up() as client:
        answer = await client.get("/health", headers={"host": host})
        assert answer.status_code == status
        if status == 403:
            assert answer.json()["error"]["type"] == "permission_error"


async def test_hosts_beyond_loopback_and_named_ones(bring_up):
    async with bring_up(host="0.0.0.0") as client:
        assert (await client.get("/health", headers={"host": "evil.example"})).status_code == 200
    async with bring_up(allowed_hosts=["Mine.example"]) as client:
        assert (await client.get("/health", headers={"host": "mine.example:1"})).status_code == 200
        assert (await client.get("/health", headers={"host": "other.example"})).status_code == 403


def test_loopback_addresses():
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""))


def test_other_machines_need_a_key():
    assert with_keys(ServerConfig(), {}).api_key == []
    with pytest.raises(ConfigError, match="--api-key"):
        with_keys(ServerConfig(host="0.0.0.0"), {})
    assert with_keys(ServerConfig(host="0.0.0.0"), {"VLLM_API_KEY": "k"}).api_key == ["k"]
    assert with_keys(ServerConfig(host="0.0.0.0", insecure=True), {}).insecure
    with pytest.raises(ConfigError, match="HTTPS"):
        with_keys(ServerConfig(ssl_keyfile="key.pem"), {})


async def test_browsers_of_other_origins(bring_up):
    preflight = {"origin": "https://page.example", "access-control-request-method": "POST"}
    async with bring_up() as client:
        answer = await client.get("/health", headers={"origin": "https://page.example"})
        assert "access-control-allow-origin" not in answer.headers
        assert (await client.options(CHAT, headers=preflight)).status_code == 405
    async with bring_up(allowed_origins=["https://page.example"], api_key=["right"]) as client:
        answer = await client.options(CHAT, headers=preflight)
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        answer = await client.post(CHAT, headers={"origin": "https://page.example"}, json={})
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        answer = await client.options(CHAT, headers=preflight | {"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in answer.headers


async def test_bodies_are_limited_while_they_arrive(bring_up, llm):
    async def pieces():
        for _ in range(3):
            yield b"x" * 600

    async with bring_up(max_body_bytes=1024) as client:
        for content in (b"x" * 1025, pieces()):
            answer = await client.post(CHAT, content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "request_too_large"
        assert (await client.post(CHAT, json=HI)).status_code == 200


async def test_headers_are_limited(bring_up):
    async with bring_up(max_header_count=20, max_header_bytes=2000) as client:
        many = await client.get("/health", headers=[("host", "localhost"), *((f"x-{i}", "1") for i in range(30))])
        long = await client.get("/health", headers={"x-long": "x" * 2000})
        path = await client.get("/health?" + "x" * 2000)
        assert [answer.status_code for answer in (many, long, path)] == [431] * 3
        assert many.json()["error"]["code"] == "headers_too_large"


@pytest.mark.parametrize(
    ("given", "is_kept"), [("a-1.b:c_D", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("é", False)]
)
async def test_request_ids(client, given, is_kept):
    answer = await client.post(CHAT, json=HI, headers={"x-request-id": given.encode()})
    stamped = answer.headers["x-request-id"]
    assert (stamped == given) == is_kept
    assert answer.json()["id"] == f"chatcmpl-{stamped}"
    assert re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", stamped)


async def test_our_own_mistakes_stay_ours(client, llm, caplog):
    llm.refuses = RuntimeError('File "/usr/lib/secret.py" at 0xdeadbeef')
    answer = await client.post(CHAT, json=HI, headers={"x-request-id": "find-me"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "find-me"
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("server_error", "internal_error", None)
    assert "find-me" in error["message"] and "secret" not in answer.text
    assert "find-me" in caplog.text and "secret" in caplog.text


async def test_overload_says_when_to_come_back(client, llm):
    llm.refuses = Overloaded("Full.", retry_after_s=2.4)
    answer = await client.post(CHAT, json=HI)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["error"] == {
        "message": "Full.",
        "type": "overloaded_error",
        "param": None,
        "code": "overloaded",
    }


async def test_a_dead_engine(client, llm):
    assert (await client.get("/health")).json() == {"status": "ok"}
    llm.failure = "It was killed."
    for path in ("/health", "/ping", "/readyz", "/livez"):
        answer = await client.get(path)
        assert answer.status_code == 503
        assert "It was killed." in answer.json()["error"]["message"]
    assert (await client.get("/startupz")).status_code == 200
    assert (await client.post(CHAT, json=HI)).status_code == 503
    assert (await client.post("/ping")).status_code == 503
    llm.failure = None
    llm.breaks = EngineDead("Just now.")
    assert (await client.post(CHAT, json=HI)).status_code == 503


async def test_draining(client):
    client._transport.app.state.service.is_draining = True
    assert (await client.get("/health")).status_code == 503
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.get("/livez")).status_code == 200
    answer = await client.post(CHAT, json=HI)
    assert answer.status_code == 503 and "retry-after" in answer.headers
