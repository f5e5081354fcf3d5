"""The grader's half: checks of somebody's modules.py and mlp_numpy.py, row by row of a table.

    reference.py   the assignment's formulas, and their derivatives by complex steps
    submission.py  loads the two modules and hides the differences in style that are allowed
    diagnosis.py   compares numbers, and says in one sentence what is probably wrong
    values.py      checks of each module by itself, against the formulas
    network.py     checks of the whole network
    behaviour.py   checks of caches, shapes, stability, side effects, precision, loops
    checks.py      the rows of the table
    worker.py      runs the checks in a process of its own
    runner.py      starts the worker, enforces the time limits, makes the report

None of it imports this package's own modules.py: the expected values are independent of it.
"""
