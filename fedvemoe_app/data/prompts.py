"""How a task instance becomes the text a language model reads, and the text it answers."""

from __future__ import annotations

from typing import Any

from fedvemoe_app.data.task import Instance, Task

PLAIN = "{definition}\n{input}\nAnswer:"


def has_chat_template(tokenizer: Any) -> bool:
    """Say whether the base was trained on conversations."""
    return bool(getattr(tokenizer, "chat_template", None))


def prompt(tokenizer: Any, task: Task, instance: Instance) -> str:
    """Return the chat form where the tokenizer has a chat template, else the plain form."""
    if not has_chat_template(tokenizer):
        return PLAIN.format(definition=task.definition, input=instance.input)
    message = {"role": "user", "content": f"{task.definition}\n\n{instance.input}"}
    return str(tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True))


def answer(tokenizer: Any, text: str) -> str:
    """Return the answer as it follows the prompt: after a space in the plain form."""
    return text if has_chat_template(tokenizer) else f" {text}"
