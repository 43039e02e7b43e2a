"""The evaluation harness by local-completions and local-chat-completions, on a task of its own that nothing fetches.

What is scored is compared with what the server says itself; the numbers do not depend on how requests are batched.
"""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

URL = sys.argv[1]
with urllib.request.urlopen(f"{URL}/v1/models") as answer:
    MODEL = json.load(answer)["data"][0]["id"]

QUESTIONS = [
    {"question": "The capital of France is", "choices": [" Paris", " a potato", " seven"], "answer": 0},
    {"question": "The opposite of hot is", "choices": [" Tuesday", " cold", " under"], "answer": 1},
    {"question": "One, two, three, four,", "choices": [" banana", " green", " five"], "answer": 2},
]
COMMON = "dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\ntest_split: test\n"
CHOOSE = COMMON + (
    'task: choose\noutput_type: multiple_choice\ndoc_to_text: "{{question}}"\n'
    "doc_to_target: answer\ndoc_to_choice: choices\ntarget_delimiter: ''\nmetric_list:\n  - metric: acc\n"
)
WRITE = COMMON + (
    'task: write\noutput_type: generate_until\ndoc_to_text: "{{question}}"\ndoc_to_target: "{{choices[answer]}}"\n'
    'generation_kwargs:\n  until: ["\\n", "."]\n  max_gen_toks: 12\n  do_sample: false\nmetric_list:\n'
    "  - metric: exact_match\n"
)
ROLL = COMMON + (
    "task: roll\noutput_type: loglikelihood_rolling\ndoc_to_text: ''\n"
    'doc_to_target: "{{question}}"\nmetric_list:\n  - metric: word_perplexity\n'
)
tasks = Path("tasks")
tasks.mkdir()
(tasks / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
for name, text in (("choose", CHOOSE), ("write", WRITE), ("roll", ROLL)):
    (tasks / f"{name}.yaml").write_text(text.replace("{data}", str((tasks / "questions.jsonl").resolve())))


def evaluate(kind: str, path: str, names: str, *more: str, **arguments: object) -> tuple[dict, dict[str, list[dict]]]:
    """The results, and the samples of each task."""
    out = Path(f"out{len(list(Path().glob('out*')))}")
    told = {"model": MODEL, "base_url": f"{URL}{path}", "num_concurrent": 1, "max_retries": 1, **arguments}
    command = [Path(sys.executable).parent / "lm_eval", "run", "--model", kind, "--include_path", str(tasks), "--tasks"]
    command += [names, "--model_args", ",".join(f"{key}={value}" for key, value in told.items()), "--log_samples"]
    ended = subprocess.run(
        [*command, "--output_path", str(out), *more],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
    )
    assert ended.returncode == 0, ended.stderr[-6000:]
    (results,) = out.rglob("results_*.json")
    samples = {
        name: [json.loads(line) for path in out.rglob(f"samples_{name}_*.jsonl") for line in path.open()]
        for name in names.split(",")
    }
    return json.loads(results.read_text())["results"], {
        name: sorted(found, key=lambda one: one["doc_id"]) for name, found in samples.items()
    }


def ask(path: str, **body: object) -> dict:
    """The server's own answer, without the harness."""
    sent = urllib.request.Request(f"{URL}/v1/{path}", json.dumps({"model": MODEL, **body}).encode())
    sent.add_header("content-type", "application/json")
    with urllib.request.urlopen(sent) as answer:
        return json.load(answer)["choices"][0]


def numbers(samples: list[dict]) -> list:
    return [one["filtered_resps"] for one in samples]


remote = {"tokenizer_backend": "remote", "max_length": 2048}
results, samples = evaluate("local-completions", "/v1/completions", "choose,write,roll", **remote)
assert results["choose"]["acc,none"] == 1.0, results["choose"]
assert 1 < results["roll"]["word_perplexity,none"] < 10000, results["roll"]
said = [one[0] for one in numbers(samples["write"])]
assert "Paris" in said[0] and "five" in said[2], said

# The sum over a choice's tokens, as the server scores them.
for sample, question in zip(samples["choose"], QUESTIONS, strict=True):
    for (score, _), choice in zip(sample["filtered_resps"], question["choices"], strict=True):
        scored = ask("completions", prompt=question["question"] + choice, max_tokens=0, echo=True, logprobs=1)
        starts = zip(scored["logprobs"]["text_offset"], scored["logprobs"]["token_logprobs"], strict=True)
        expected = sum(logprob for start, logprob in starts if start >= len(question["question"]))
        assert abs(float(score) - expected) < 1e-3, (sample, score, expected)

# Many at once and in batches, with text instead of ids: the same numbers.
remote["num_concurrent"] = 4
batched = evaluate("local-completions", "/v1/completions", "choose,write", "--batch_size", "2", **remote)
assert numbers(batched[1]["choose"]) == numbers(samples["choose"]), batched
assert numbers(batched[1]["write"]) == numbers(samples["write"]), batched
plain = {"tokenizer_backend": None, "tokenized_requests": False, "max_length": 2048}
texts = evaluate("local-completions", "/v1/completions", "write", **plain)
assert numbers(texts[1]["write"]) == numbers(samples["write"]), texts

chats = evaluate("local-chat-completions", "/v1/chat/completions", "write", "--apply_chat_template", num_concurrent=2)
for (said,), question in zip(numbers(chats[1]["write"]), QUESTIONS, strict=True):
    messages = [{"role": "user", "content": question["question"]}]
    asked = ask("chat/completions", messages=messages, max_tokens=12, temperature=0, stop=["\n", "."])
    assert said == asked["message"]["content"] != "", (said, asked)
print("ok")
