"""docs/api.md has a line for every route, and for none that is not there."""

import re
from pathlib import Path

from quire.core.config import ServerConfig
from quire.server.app import create_app

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_every_route_has_its_line(llm):
    app = create_app(llm, ServerConfig(), ["fake"])
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    told: dict[str, str] = {}
    for line in lines:
        for path in re.findall(r"`(?:GET|POST|PUT|DELETE|HEAD) (/[^`?]*)", line.split(" | ")[0]):
            told[path] = line
    endpoints = {endpoint.path.replace(":path}", "}"): endpoint for endpoint in app.state.endpoints}
    assert not sorted(endpoints.keys() - told.keys()), "these routes have no line in docs/api.md"
    assert not sorted(told.keys() - endpoints.keys()), "docs/api.md tells of routes that are not there"
    for path, endpoint in endpoints.items():
        assert ("*open*" in told[path]) == endpoint.is_open, path
        assert ("*order*" in told[path]) == endpoint.is_order, path
