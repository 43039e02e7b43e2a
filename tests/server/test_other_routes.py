"""Models, tokens, versions, limits, docs."""

import re

import pytest

pytestmark = pytest.mark.anyio


async def test_model_cards(client):
    listed = (await client.get("/v1/models")).json()
    assert [card["id"] for card in listed["data"]] == ["fake", "also-fake"]
    card = listed["data"][0]
    assert (card["object"], card["owned_by"], card["root"], card["parent"]) == ("model", "quire", "org/fake", None)
    assert card["max_model_len"] == 64
    assert (await client.get("/v1/models/fake")).json() == card


async def test_tokenize(client):
    answer = (await client.post("/tokenize", json={"prompt": "xé", "return_token_strs": True})).json()
    assert answer["tokens"] == [257, 120, 195, 169]
    assert (answer["count"], answer["max_model_len"], answer["token_strs"][1]) == (4, 64, "x")
    answer = (await client.post("/tokenize", json={"prompt": "x", "add_special_tokens": False})).json()
    assert (answer["tokens"], answer["token_strs"]) == ([120], None)
    answer = (await client.post("/tokenize", json={"messages": [{"role": "user", "content": "x"}]})).json()
    assert bytes(answer["tokens"]) == b"u:x|a:"


async def test_detokenize(client):
    for tokens, text in (([120, 257], "x<257>"), ([], "")):
        answer = (await client.post("/detokenize", json={"tokens": tokens})).json()
        assert answer == {"prompt": text, "content": text, "text": text}


async def test_version_and_limits(client):
    assert set((await client.get("/version")).json()) == {"version"}
    limits = (await client.get("/v1/limits")).json()
    assert limits["max_model_len"] == 64 and limits["max_n"] == 128


async def test_the_schema_describes_every_route(client):
    described = (await client.get("/openapi.json?all=true")).json()
    app = client._transport.app
    assert set(described["paths"]) == {route.path.replace(":path", "") for route in app.routes}
    told = (await client.get("/openapi.json")).json()["paths"]
    assert set(described["paths"]) - set(told) >= {"/pause", "/sleep"} and "/v1/chat/completions" in told
    chat = described["paths"]["/v1/chat/completions"]["post"]
    assert set(chat["responses"]) >= {
        "200",
        "400",
        "401",
        "403",
        "404",
        "405",
        "408",
        "413",
        "415",
        "431",
        "500",
        "503",
    }
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    fields = described["components"]["schemas"]["ChatCompletionRequest"]
    assert {"messages", "temperature", "top_logprobs", "chat_template_kwargs"} <= set(fields["properties"])
    assert fields["required"] == ["messages"]
    ids = [op["operationId"] for ops in described["paths"].values() for op in ops.values()]
    assert len(ids) == len(set(ids))
    assert "security" not in described and "securitySchemes" not in described["components"]
    text = (await client.get("/openapi.json")).text
    for ref in set(re.findall(r'"\$ref":"#/components/schemas/([^"]+)"', text)):
        assert ref in described["components"]["schemas"]


async def test_the_schema_asks_for_a_key_where_the_server_does(bring_up):
    async with bring_up(api_key=["right"]) as client:
        described = (await client.get("/openapi.json", headers={"x-api-key": "right"})).json()
    assert described["security"] == [{"key": []}]
    assert described["paths"]["/health"]["get"]["security"] == []


async def test_in_the_schema_null_is_as_good_as_absent(client):
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    for request in ("ChatCompletionRequest", "StreamOptions"):
        about = schemas[request]
        for name, field in about["properties"].items():
            takes_null = field.keys() <= {"title", "description", "default"} or {"type": "null"} in field.get(
                "anyOf", ()
            )
            assert takes_null == (name not in about.get("required", ())), name


async def test_the_docs_page_needs_nothing_from_elsewhere(client):
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text and "http" not in page.text
    assert "/v1/chat/completions" in page.text and "temperature" in page.text


async def test_docs_can_be_closed(bring_up):
    async with bring_up(enable_docs=False) as client:
        assert (await client.get("/docs")).status_code == 404
        assert (await client.get("/openapi.json")).status_code == 404


async def test_tokens_of_several_prompts(client):
    answer = (await client.post("/v1/tokenize", json={"prompt": ["ab", ""], "return_token_strs": True})).json()
    assert (answer["tokens"], answer["count"]) == ([[257, 97, 98], [257]], [3, 1])
    assert answer["token_strs"] == [["<257>", "a", "b"], ["<257>"]]
    answer = (await client.post("/v1/detokenize", json={"tokens": [[97, 98], []]})).json()
    assert answer["text"] == answer["prompt"] == ["ab", ""]
    error = (await client.post("/detokenize", json={"tokens": [[97], [98, 260]]})).json()["error"]
    assert error["param"] == "$.tokens[1][1]"


async def test_tools_that_may_not_be_called_are_not_tokenized(client):
    body = {"messages": [{"role": "user", "content": "hi"}]}
    tools = {"tools": [{"type": "function", "function": {"name": "f"}}]}
    counts = [
        (await client.post("/tokenize", json=one)).json()["count"]
        for one in (body, body | tools, body | tools | {"tool_choice": "none"})
    ]
    assert counts[0] == counts[2] < counts[1]
