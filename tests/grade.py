"""Grade a folder of submissions, one line of CSV for each.

python tests/grade.py SUBMISSIONS grades.csv

Every sub-folder of SUBMISSIONS is a submission; modules.py and mlp_numpy.py may be in it or
deeper, as archives unpack. The line has the verdict on each row of the table: passed, remark or
failed. With --reports FOLDER the table of each submission is written there too, as text and JSON.
Started again, it continues with the submissions that have no line yet.

It runs the code of strangers: read the warning in tests/README.md.
"""

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import secrets
import signal
import sys
import time
from multiprocessing import connection
from pathlib import Path

from grading import folder, runner
from grading.checks import ROWS
from grading.launch import die_with_parent
from grading.worker import describe
from tqdm import tqdm

COLUMNS = ["submission", "passed", *(row.name for row in ROWS), "seconds", "failed rows", "folder"]
PATIENCE = 90.0  # seconds for one submission, whose own limits end it long before


def main(argv=None):
    """Returns the exit status: 0 when every submission was graded, whatever the grades; 2 when
    there are none or a file cannot be used; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("submissions", help="folder with one sub-folder for each")
    parser.add_argument("csv", type=Path, help="file to write, or to continue")
    parser.add_argument("--reports", type=Path, metavar="FOLDER", help="write each table there")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many at a time")
    parser.add_argument("--seed", type=int, help="of the random sizes and numbers")
    args = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    try:
        if os.name != "posix":
            raise OSError("grading needs Linux or macOS")
        # Links too: they are refused, and the line says so.
        names = sorted(entry.name for entry in os.scandir(args.submissions) if entry.is_dir())
        if not names:
            raise OSError(f"{args.submissions} has no sub-folders")
        if args.reports:
            args.reports.mkdir(parents=True, exist_ok=True)
        lines = read_lines(args.csv)
        write_lines(args.csv, lines)
    except (OSError, ValueError) as error:
        parser.error(folder.printable(str(error)))
    done = {line[0] for line in lines}
    todo = [name for name in names if in_cell(folder.printable(name)) not in done]
    args.seed = secrets.randbelow(1 << 32) if args.seed is None else args.seed
    runner.sandbox_starts()  # found out once, before there are several processes
    try:
        grade_all(args, todo)
    except KeyboardInterrupt:
        print("interrupted: run the same command to continue", file=sys.stderr)
        return 130
    write_lines(args.csv, sorted(read_lines(args.csv)))
    return 0


def grade_all(args, names):
    """Grades the submissions, several at a time, and adds the line of each to the CSV."""
    names, running = names[::-1], {}
    tqdm.monitor_interval = 0  # no thread, so that processes can be forked
    # Line buffered, so that an interrupted run keeps what it has.
    file = open(args.csv, "a", newline="", encoding="utf-8", buffering=1)  # noqa: SIM115
    with file, tqdm(total=len(names), unit="submission") as bar:
        try:
            while names or running:
                while names and len(running) < max(args.jobs, 1):
                    reader, *rest = start(args, names.pop())
                    running[reader] = rest
                ready = connection.wait(list(running), timeout=1)
                ready += [r for r, (*_, until) in running.items() if time.monotonic() > until]
                for reader in set(ready):
                    name, process, _ = running.pop(reader)
                    place, report = result(args, name, reader, process)
                    write_reports(args, name, report)
                    csv.writer(file).writerow(line(name, place, report))
                    bar.update()
                    bar.write(f"{folder.printable(name)}: {runner.summary(report)}")
        finally:
            for _, process, _ in running.values():
                process.terminate()
            for _, process, _ in running.values():
                process.join()


def start(args, name):
    """A process that grades one submission, so that no submission can end all of this.

    Returns the end of a pipe where its answer comes, the name, the process, and its last moment.
    """
    reader, writer = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=work, args=(args, name, writer))
    process.start()
    writer.close()
    return reader, name, process, time.monotonic() + PATIENCE


def work(args, name, writer):
    die_with_parent()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        answer = grade_one(args, name)
    except KeyboardInterrupt:
        return  # the first process says so
    except Exception as error:  # a full disk, too many processes
        sentence = f"it could not be graded: the grader {describe(error)}"
        answer = "", runner.not_graded(name, sentence, args.seed)
    writer.send_bytes(json.dumps(answer).encode())


def grade_one(args, name):
    """The folder that was taken, relative to the submission's, and the report."""
    path = os.path.join(args.submissions, name)
    if os.path.islink(path):
        return "", runner.not_graded(path, "the folder is a link, which is not followed", args.seed)
    if not os.access(path, os.R_OK | os.X_OK):
        return "", runner.not_graded(path, "the folder cannot be read", args.seed)
    place = next(iter(folder.places(path)), path)
    return os.path.relpath(place, path), runner.grade(place, args.seed)


def result(args, name, reader, process):
    """The answer of `work`, whatever became of it."""
    try:
        if not reader.poll():
            raise EOFError
        answer = json.loads(reader.recv_bytes())
    except (EOFError, OSError):
        sentence = "the submission ended the process that graded it"
        answer = "", runner.not_graded(name, sentence, args.seed)
    reader.close()
    process.kill()
    process.join()
    return answer


def write_reports(args, name, report):
    if args.reports:
        path = os.path.join(args.reports, file_name(name))
        Path(f"{path}.txt").write_text("\n".join(runner.table(report)) + "\n", encoding="utf-8")
        runner.save_json(report, f"{path}.json")


def line(name, place, report):
    """The line of the CSV, a list of its cells."""
    cells = [
        folder.printable(name),
        "yes" if report["passed"] else "no",
        *(row["cell"] for row in report["rows"]),
        report["seconds"],
        sum(not row["passed"] for row in report["rows"]),
        folder.printable(place),
    ]
    return [in_cell(cell) for cell in cells]


def file_name(name):
    """A submission's name where it can be one of a file; else a part of it, and a digest."""
    text = folder.printable(name)
    if text == name and len(name.encode()) < 200:
        return name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    return f"{text.replace(os.sep, '_').encode()[:150].decode(errors='ignore')}-{digest}"


def in_cell(value):
    """Text that no spreadsheet takes for a formula."""
    return f"'{value}" if str(value).startswith(("=", "+", "-", "@", "\t", "\r")) else str(value)


def read_lines(path):
    """The lines of an earlier run. Raises a ValueError where the file is of another kind."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a file of grades: name another") from None
    rows = list(csv.reader(text.splitlines()))
    if rows and rows[0] != COLUMNS:
        raise ValueError(f"{path} has other columns: name another file")
    # A line that was cut off is graded again.
    whole = rows[1:] if text.endswith("\n") else rows[1:-1]
    return [row for row in whole if len(row) == len(COLUMNS)]


def write_lines(path, lines):
    """Replaces the file at once, or not at all."""
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *lines])
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
