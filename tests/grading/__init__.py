"""The grader: checks of somebody's modules.py and mlp_numpy.py, row by row of a table.

checks.py lists the rows. The checks are in values.py (each module by itself), network.py (the whole
network) and behaviour.py (caches, shapes, side effects); they compare what a submission gives with
the formulas in reference.py, and diagnosis.py says in one sentence what is probably wrong. None of
them imports this package's own modules.py: the expected values are independent of it.

submission.py is a submission as a check sees it. It runs in a process of its own: process.py starts
it, in a sandbox if possible, launch.py gives up all rights there, and worker.py calls the modules.

delivery.py, folder.py and notebook.py find the files of a submission, runner.py grades it and
writes the report, feedback.py adds points, and `../grade.py` grades a whole course.
"""

import os

# Set before NumPy is loaded: threads that wait for one another use processor time, the more of it
# the more cores a machine has, and limits count processor time.
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
os.environ.update(ONE_THREAD)
