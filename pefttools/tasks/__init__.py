"""What a task is: its columns, head, loss, metrics and predictions."""

from pefttools.tasks.task import Evaluation, Task, TaskConfig, TaskModel, tasks

__all__ = ["Evaluation", "Task", "TaskConfig", "TaskModel", "tasks"]
