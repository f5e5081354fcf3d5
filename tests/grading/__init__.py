"""The grader: checks of somebody's modules.py and mlp_numpy.py, row by row of a table.

The checks and what is right:

    reference.py   the assignment's formulas, and their derivatives
    diagnosis.py   compares numbers, and says in one sentence what is probably wrong
    values.py      checks of each module by itself, against the formulas
    network.py     checks of the whole network
    behaviour.py   checks of caches, shapes, stability, side effects, precision, NumPy only, loops
    checks.py      the rows of the table

The submission, in a process of its own:

    submission.py  the modules as a check sees them: it sends arrays and gets arrays back
    process.py     starts that process, in a sandbox if possible, asks it, and ends it
    launch.py      the first code that runs there: it gives up all rights that are not needed
    worker.py      runs there beside the submission: loads the modules, calls them, and answers

Around them:

    delivery.py    the submissions in what a learning platform delivers
    folder.py      finds and reads the files of a submission
    notebook.py    takes the two modules out of a notebook
    feedback.py    points, where to look, and no paths
    runner.py      grades one submission, and writes the report as a table or as JSON

`../grade.py` grades a folder or a zip of submissions.

None of it imports this package's own modules.py: the expected values are independent of it.
"""

import os

# Before NumPy is loaded: on a machine with many cores, threads that wait for one another would use
# up the processor time of a submission, and tell a number of cores by it.
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
os.environ.update(ONE_THREAD)
