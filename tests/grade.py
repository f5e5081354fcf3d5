"""Grade a folder of submissions, one line of CSV for each.

python tests/grade.py SUBMISSIONS grades.csv

Every sub-folder of SUBMISSIONS is a submission; modules.py and mlp_numpy.py may stand in it or
deeper, as archives unpack. The line has the verdict on each row of the table: passed, remark or
failed. With --reports FOLDER the table of each submission is written there too, as text and JSON.

It runs the code of strangers: read the warning in tests/README.md.
"""

import argparse
import csv
import sys
from pathlib import Path

from grading import runner
from grading.checks import ROWS


def find_modules(folder):
    """The folder with modules.py, the least deep one; the given folder if there is none."""
    found = [path for path in folder.rglob("modules.py") if "__MACOSX" not in path.parts]
    return min(found, key=lambda path: (len(path.parts), path)).parent if found else folder


def line(name, report):
    """One line of the CSV, a dict."""
    failed = [row["row"] for row in report["rows"] if not row["passed"]]
    return {
        "submission": name,
        "passed": "yes" if report["passed"] else "no",
        "failed rows": len(failed),
        **{row["row"]: runner.verdict(row) for row in report["rows"]},
        "seconds": report["seconds"],
    }


def main(argv=None):
    """Returns the exit status: 0 when every submission was graded, whatever the grades; 2 when
    there are none."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("submissions", type=Path, help="folder with one sub-folder for each")
    parser.add_argument("csv", type=Path, help="file to write")
    parser.add_argument("--reports", type=Path, metavar="FOLDER", help="write each table there")
    args = parser.parse_args(argv)
    try:
        folders = sorted(path for path in args.submissions.iterdir() if path.is_dir())
        if args.reports:
            args.reports.mkdir(parents=True, exist_ok=True)
        # Line buffered, so that an interrupted run keeps what it has.
        file = open(args.csv, "w", newline="", encoding="utf-8", buffering=1)  # noqa: SIM115
    except OSError as error:
        parser.error(str(error))
    if not folders:
        parser.error(f"{args.submissions} has no sub-folders")
    with file:
        names = ["submission", "passed", "failed rows", *(row.name for row in ROWS), "seconds"]
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for folder in folders:
            report = runner.grade(find_modules(folder))
            writer.writerow(line(folder.name, report))
            table = runner.table(report)
            print(f"{folder.name}: {table[-1].strip()}", flush=True)
            if args.reports:
                text = "\n".join(table) + "\n"
                (args.reports / f"{folder.name}.txt").write_text(text, encoding="utf-8")
                runner.save_json(report, args.reports / f"{folder.name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
