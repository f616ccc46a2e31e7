"""What a task is: its columns, head, loss, metrics and predictions."""

from pefttools.tasks.task import Built, Evaluation, Task, TaskConfig, tasks

__all__ = ["Built", "Evaluation", "Task", "TaskConfig", "tasks"]
