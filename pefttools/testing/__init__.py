"""The contracts as functions: what a plugin of your own must hold, to be called from its tests.

Example:
    A task of your own, on a base and rows of your own::

        from pefttools.testing import check_task

        def test_my_task(tmp_path):
            check_task("my-task", base="./tiny-bert", rows=ROWS, folder=tmp_path)
"""

from pefttools.testing.tasks import check_task

__all__ = ["check_task"]
