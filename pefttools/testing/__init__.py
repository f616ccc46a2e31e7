"""The contracts as functions: what a plugin of your own must satisfy, to be called from its tests.

Example:
    A task of your own, on a base and rows of your own; a method, a number format, and an objective::

        from pefttools.testing import check_method, check_objective, check_task, check_variant

        def test_my_task(tmp_path):
            check_task("my-task", base="./tiny-bert", rows=ROWS, folder=tmp_path)

        def test_my_method(tmp_path):
            check_method("my-method", base="./tiny-bert", folder=tmp_path)

        def test_my_variant(tmp_path):
            check_variant("my-variant", base="./tiny-bert", folder=tmp_path)

        def test_my_objective(tmp_path):
            check_objective("my-objective", base="./tiny-bert", rows=ROWS, folder=tmp_path)
"""

from pefttools.testing.methods import check_method
from pefttools.testing.objectives import check_objective
from pefttools.testing.tasks import check_task
from pefttools.testing.variants import check_variant

__all__ = ["check_method", "check_objective", "check_task", "check_variant"]
