"""The command `llm`, told of the server by extra-openai-models.yaml: prompts, streams, schemas, tools, talks."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

URL = f"{sys.argv[1]}/v1"
with urllib.request.urlopen(f"{URL}/models") as answer:
    MODEL = json.load(answer)["data"][0]["id"]
home = Path.home() / "llm"
home.mkdir()
common = f"  model_name: {MODEL}\n  api_base: {URL}\n"
(home / "extra-openai-models.yaml").write_text(
    f"- model_id: chat\n{common}  supports_schema: true\n  supports_tools: true\n"
    f"- model_id: responses\n{common}  responses: true\n  supports_schema: true\n  supports_tools: true\n"
    f"- model_id: plain\n{common}  completion: true\n"
)
HI = "What is the capital of France?"
SHAPE = json.dumps(
    {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    }
)


def llm(*words: str, code: int = 0) -> str:
    command = [Path(sys.executable).parent / "llm", *words]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LLM_USER_PATH": str(home)})
    assert ended.returncode == code, (words, ended)
    return (ended.stderr if code else ended.stdout).strip()


listed = llm("models")
assert all(f": {name}" in listed for name in ("chat", "responses", "plain")), listed

for name in ("chat", "responses"):
    cold = ("-m", name, "-o", "temperature", "0", "-o", "max_tokens", "100")
    said = llm(*cold, HI)
    assert "Paris" in said and said == llm(*cold, "--no-stream", HI), said
    assert json.loads(llm(*cold, "--schema", SHAPE, HI)) == {"city": "Paris"}
    assert json.loads(llm(*cold, "--schema", SHAPE, "--no-stream", HI)) == {"city": "Paris"}
    assert llm(*cold, "-T", "llm_version", "What is the version of llm?"), name
    logged = json.loads(llm("logs", "-n", "1", "--json"))
    assert logged[0]["tools"][0]["name"] == "llm_version", logged
    llm(*cold, HI)
    llm("-c", "-o", "temperature", "0", "Thanks.")
    first, second = json.loads(llm("logs", "-n", "2", "--json"))
    assert first["conversation_id"] == second["conversation_id"], (first, second)
    assert 0 < first["input_tokens"] < second["input_tokens"] and first["output_tokens"] > 1, (first, second)
    wrong = llm("-m", name, "-o", "temperature", "0", "-o", "max_tokens", "900000", HI, code=1)
    assert "900000" in wrong, wrong

plain = llm("-m", "plain", "-o", "temperature", "0", "-o", "max_tokens", "4", "The capital of France is")
assert "Paris" in plain, plain
assert "Paris" in llm("-m", "chat", "-o", "temperature", "0", "-o", "max_tokens", "20", "--async", HI)
print("ok")
