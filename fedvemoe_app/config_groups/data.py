"""The settings of the task bank, and of who holds which task."""

from __future__ import annotations

from dataclasses import dataclass

from fedvemoe_app.settings import listed, setting


@dataclass(frozen=True, slots=True)
class DataSettings:
    """The task bank and who holds which task."""

    dataset_name: str = setting(
        "builtin:tasks", "task bank: a hub name, a local folder or file, or builtin:tasks"
    )
    streaming: bool = setting(False, "read the bank as a stream, holding only assigned tasks")
    client_task_mode: str = setting(
        "keyword",
        "how silos get tasks: by keyword in definitions, by a map file, or in turn",
        choices=("keyword", "explicit", "round-robin"),
    )
    keyword_categories: str = setting(
        "translation,reasoning,code,rewriting", "categories given to silos in turn, by comma"
    )
    keyword_file: str = setting("", "TOML file with own keyword lists; empty uses the built-in")
    assignment_file: str = setting("", "JSON or TOML map silo -> tasks, for explicit")
    tasks_file: str = setting("", "deployment: file of the names of tasks scored one by one")
    tasks_per_category: int = setting(3, "tasks of its category that a silo holds", low=1)
    max_instances: int = setting(0, "instances kept per task and split; 0 keeps all", low=0)
    probe_fraction: float = setting(
        0.15, "share of a task's training part set aside as probe", low=0.01, high=0.5
    )
    seq_len: int = setting(128, "longest sequence in tokens, prompt and answer", low=8)

    @property
    def categories(self) -> tuple[str, ...]:
        """The keyword categories, in the order in which silos get them."""
        return listed(self.keyword_categories)
