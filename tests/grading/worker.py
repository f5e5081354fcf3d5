"""Runs the checks on one submission in a process of its own.

Started by runner.py in an empty temporary folder as

    python -I -B worker.py JOB

with a JSON object: `folder` has copies of the two modules, `rows` are the names of the rows, `seed`
and `time_limit` are what they are called; `fatal` has the calls that an earlier worker did not
survive; NumPy is in the folder `packages`, wherever it is installed. Results go as lines of JSON to
the file descriptor `results`: not to stdout, where a submission may print what it likes. The name
of the call in progress goes to the file `journal`.
"""

import contextlib
import json
import os
import resource
import sys
from pathlib import Path

LIMITS = {resource.RLIMIT_AS: 4 << 30, resource.RLIMIT_FSIZE: 64 << 20}  # bytes


def main(job):
    if job["packages"] not in sys.path:
        sys.path.append(job["packages"])
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from grading import checks
    from grading.submission import CLOCK, Submission

    del sys.path[0]

    def report(result):
        os.write(job["results"], (json.dumps(result) + "\n").encode())

    for kind, limit in LIMITS.items():
        with contextlib.suppress(ValueError, OSError):  # where the system does not have it
            resource.setrlimit(kind, (limit, limit))
    CLOCK.start(job["time_limit"], job["journal"], job["fatal"])
    submission = Submission(_sources(Path(job["folder"])))
    submission.register()
    for row in checks.ROWS:
        if row.name in job["rows"]:
            report(checks.run(row, submission, job["seed"]))


def _sources(folder):
    names = ("modules.py", "mlp_numpy.py")
    return {n: (folder / n).read_bytes() if (folder / n).exists() else None for n in names}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    # Not an ordinary exit: threads and exit handlers of the submission must not run on.
    os._exit(0)
