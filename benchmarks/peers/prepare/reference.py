"""Greedy answers of transformers in float32, by which every engine's accuracy is judged. Runs in its environment.

    python -m benchmarks.peers.prepare.reference FOLDER FILE.json NUM_TOKENS

The file holds, for each question, the ids of the rendered chat prompt and up to NUM_TOKENS ids of the answer; an answer
that ends sooner ends with the end-of-text token.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

QUESTIONS = (
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain in two sentences why the sky is blue.",
    "Give me three tips for sleeping better.",
    "What is 17 plus 25?",
    "Translate 'good morning' into Spanish.",
    "Who wrote Romeo and Juliet?",
    "Write a Python function that reverses a string.",
    "What is the difference between a virus and a bacterium?",
    "Name five animals that live in the desert.",
    "Summarise the story of Cinderella in three sentences.",
    "How do I boil an egg?",
    "What does a heat pump do?",
    "Write a short thank-you note to a teacher.",
    "List the planets of the solar system in order.",
    "Why do leaves change colour in autumn?",
    "What is a prime number?",
    "Suggest a name for a grey cat.",
    "How does a bicycle stay upright?",
    "What is the boiling point of water at sea level?",
    "Describe a sunset to someone who has never seen one.",
    "Which is heavier, a kilogram of iron or a kilogram of feathers?",
    "What causes the tides?",
    "Give me a recipe for pancakes.",
)


def main() -> None:
    folder, target, num_tokens = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts, answers = [], []
    for question in QUESTIONS:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        answer = model.generate(**prompt, do_sample=False, max_new_tokens=num_tokens)
        length = prompt["input_ids"].shape[1]
        prompts.append(prompt["input_ids"][0].tolist())
        answers.append(answer[0, length:].tolist())
    target.write_text(json.dumps({"questions": QUESTIONS, "prompts": prompts, "answers": answers}))


if __name__ == "__main__":
    main()
