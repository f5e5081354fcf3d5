"""Runs the checks on one submission in a process of its own.

Started by runner.py in an empty temporary folder as

    python -I -B worker.py FOLDER RESULTS SEED TIME_LIMIT ROW...

FOLDER holds copies of the two modules. What happens is reported as lines of JSON on the file
descriptor RESULTS: not on stdout, where a submission may print what it likes.
"""

import json
import os
import sys
from pathlib import Path

MEMORY = 4 << 30  # bytes of address space


def main(folder, results, seed, time_limit, *names):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from grading import checks
    from grading.submission import CLOCK, Submission

    del sys.path[0]

    def report(kind, value):
        os.write(int(results), (json.dumps([kind, value]) + "\n").encode())

    _limit_memory()
    CLOCK.start(float(time_limit))
    report("begin", None)
    submission = Submission(_sources(Path(folder)))
    submission.register()
    for row in checks.ROWS:
        if row.name in names:
            report("begin", row.name)
            report("end", checks.run(row, submission, int(seed)))
    report("done", None)


def _sources(folder):
    names = ("modules.py", "mlp_numpy.py")
    return {n: (folder / n).read_bytes() if (folder / n).exists() else None for n in names}


def _limit_memory():
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    main(*sys.argv[1:])
    # Not an ordinary exit: threads and exit handlers of the submission must not run on.
    os._exit(0)
