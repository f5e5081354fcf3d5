"""Grade what a learning platform delivers, one line of CSV for each submission.

python tests/grade.py SUBMISSIONS grades.csv

SUBMISSIONS is a folder or a zip. Every folder or archive in it is a submission, and so are loose
files with a common prefix. The line has the points and the verdict on each row of the table. With
--reports FOLDER the table of each submission is written there too, as text that can be handed back
and as JSON. Started again, it continues with the submissions that have no line yet.

It runs the code of strangers: read the warning in tests/README.md.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import multiprocessing
import os
import secrets
import signal
import sys
from multiprocessing import connection
from pathlib import Path

from grading import feedback, folder, runner
from grading.checks import FAILED, ROWS
from grading.delivery import submissions
from grading.launch import MEMORY, die_with_parent
from grading.worker import describe
from tqdm import tqdm

HEAD, TAIL = ["submission", "passed", "points", "out of"], ["seconds", "seed", "failed rows"]
COLUMNS = [*HEAD, *(row.name for row in ROWS), *TAIL, "folder"]
PATIENCE = 660  # seconds for one submission, whose own limits end it before


def main(argv=None):
    """Returns the exit status: 0 when every submission was graded, whatever the grades; 2 when
    there are none or a file cannot be used; 130 after Ctrl-C, 143 after SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("submissions", type=Path, help="folder or zip with all of them")
    parser.add_argument("csv", type=Path, help="file to write, or to continue")
    parser.add_argument("--reports", type=Path, metavar="FOLDER", help="write each table there")
    parser.add_argument(
        "--gradescope", type=Path, metavar="FOLDER", help="write a results.json for each there"
    )
    parser.add_argument("--weights", metavar="FILE", help="points of the rows: a CSV row,points")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many at a time")
    parser.add_argument("--seed", type=int, help="of the random sizes and numbers")
    parser.add_argument(
        "--regrade", action="append", default=[], metavar="NAME", help="grade this one again"
    )
    parser.add_argument("--no-sandbox", action="store_true", help="run strangers' code without one")
    args = parser.parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")  # standard error has it already
    with noted_signals() as signals:
        try:
            names = prepare(args)
        except (OSError, ValueError) as error:
            parser.error(folder.printable(str(error)))
        try:
            grade_all(args, names, signals)
            write_lines(args.csv, sorted(read_lines(args.csv)))
        except OSError as error:
            print(f"the grades stop here: {folder.printable(str(error))}", file=sys.stderr)
            return 1
        if signals:
            print("interrupted: run the same command to continue", file=sys.stderr)
            return 128 + signals[0]
    return 0


@contextlib.contextmanager
def noted_signals():
    """The numbers of Ctrl-C and SIGTERM in a list, which grows as they come.

    An exception would be lost where it is raised in a hook of another library, as at a fork.
    """
    noted, before = [], {}
    for kind in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(kind) != signal.SIG_IGN:
            before[kind] = signal.signal(kind, lambda number, frame: noted.append(number))
    try:
        yield noted
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def prepare(args):
    """Checks all that was asked for, and begins the CSV. Returns the names to be graded, and
    raises OSError or ValueError with a sentence."""
    if os.name != "posix":
        raise OSError("grading needs Linux or macOS")
    args.sandbox = not args.no_sandbox
    if args.sandbox and not runner.sandbox_starts():
        raise OSError(
            "there is no sandbox, because bubblewrap (bwrap) does not start here, and submissions "
            "could do whatever you can: install it, or add --no-sandbox"
        )
    if (args.seed or 0) < 0:
        raise ValueError("--seed must be 0 or more")
    if args.reports and args.gradescope and args.reports.resolve() == args.gradescope.resolve():
        raise ValueError("--reports and --gradescope need two folders")
    args.weights = feedback.read_weights(args.weights) if args.weights else {}
    found, strays = submissions(args.submissions)
    if strays:
        names = ", ".join(map(folder.printable, strays))
        print(f"belongs to no submission: {names}", file=sys.stderr)
    lines = read_lines(args.csv)
    done = {line[0]: line for line in lines}
    again = {in_cell(folder.printable(name)) for name in args.regrade}
    names = {in_cell(folder.printable(name)): name for name in sorted(found)}
    if unknown := again - set(names):
        raise ValueError(f"--regrade {min(unknown)}: there is no such submission")
    for path in (args.reports, args.gradescope):
        if path:
            path.mkdir(parents=True, exist_ok=True)
    if args.seed is None:  # that of the lines, so that all are graded with the same numbers
        seeds = {line[COLUMNS.index("seed")] for line in lines}
        args.seed = int(min(seeds)) if seeds else secrets.randbelow(1 << 32)
    write_lines(args.csv, [line for name, line in done.items() if name not in again])
    if kept := done.keys() & names.keys() - again:
        says = f"{len(kept)} of {len(names)} submissions keep their lines in {args.csv}"
        print(f"{folder.printable(says)}; --regrade NAME grades one again", file=sys.stderr)
    return [name for cell, name in names.items() if cell in again or cell not in done]


def grade_all(args, names, signals):
    """Grades the submissions, several at a time, and adds the line of each to the CSV."""
    names, running = names[::-1], {}  # by a pipe: the name, and the process that answers there
    tqdm.monitor_interval = 0  # no thread, so that processes can be forked
    # Line buffered, so that an interrupted run keeps what it has.
    with (
        open(args.csv, "a", newline="", encoding="utf-8", buffering=1) as file,
        tqdm(total=len(names), unit="submission") as bar,
    ):
        try:
            while (names or running) and not signals:
                while names and len(running) < max(args.jobs, 1):
                    start(args, names.pop(), running)
                for reader in connection.wait(running, timeout=0.2):
                    name, process = running.pop(reader)
                    report = result(args, name, reader, process)
                    write_reports(args, name, report)
                    csv.writer(file).writerow(line(name, report))
                    bar.update()
                    bar.write(f"{folder.printable(name)}: {runner.summary(report)}")
                    if report["note"].startswith("taken"):
                        bar.write(f"    {report['note']}")
        finally:
            processes = [process for _, process in running.values()]
            for _ in range(20):  # again, for a process that still starts loses the signal
                for process in filter(multiprocessing.Process.is_alive, processes):
                    process.terminate()
                    process.join(0.5)
            for process in processes:
                process.kill()
                process.join()


def start(args, name, running):
    """Starts a process that grades one submission, so that no submission can end all of this."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=work, args=(args, name, writer))
    process.start()
    writer.close()
    running[reader] = name, process


def work(args, name, writer):
    import resource  # here, for only Unix has it

    die_with_parent()
    with contextlib.suppress(ValueError, OSError):  # where the system does not have it
        resource.setrlimit(resource.RLIMIT_AS, (2 * MEMORY, 2 * MEMORY))  # an archive may be a bomb
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.alarm(PATIENCE)
    try:
        found, _ = submissions(args.submissions)  # anew: in a zip, processes would share a place
        answer = runner.grade(folder.printable(name), args.seed, args.sandbox, found[name])
    except KeyboardInterrupt:
        return
    except Exception as error:  # too many processes, say
        answer = f"it could not be graded: the grader {describe(error)}"
    writer.send_bytes(json.dumps(answer).encode())


def result(args, name, reader, process):
    """The report of `work`, or on what became of it instead, with points and without paths."""
    answer = "the submission ended the process that graded it"
    with contextlib.suppress(EOFError, OSError), reader:
        answer = json.loads(reader.recv_bytes())
    process.kill()
    process.join()
    if process.exitcode == -signal.SIGALRM:
        answer = f"it is not done after {PATIENCE // 60} minutes: the machine is too slow"
    if isinstance(answer, str):
        answer = runner.not_graded(folder.printable(name), answer, args.seed)
    return feedback.with_points(feedback.without_paths(answer), args.weights)


def write_reports(args, name, report):
    if args.reports:
        path = os.path.join(args.reports, file_name(name))
        Path(f"{path}.txt").write_text("\n".join(runner.table(report)) + "\n", encoding="utf-8")
        runner.save_json(report, f"{path}.json")
    if args.gradescope:
        runner.save_gradescope(report, args.gradescope / f"{file_name(name)}.json")


def line(name, report):
    """The line of the CSV, a list of its cells."""
    cells = [
        folder.printable(name),
        "yes" if report["passed"] else "no",
        f"{report['points']:g}",
        f"{report['out of']:g}",
        *(row["cell"] for row in report["rows"]),
        report["seconds"],
        report["seed"],
        sum(row["cell"] == FAILED for row in report["rows"]),
        folder.printable(report["folder"]),
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
        rows = list(csv.reader(text.splitlines()))
    except FileNotFoundError:
        return []
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(f"{path} is not a file of grades: name another") from None
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
