"""`report` and `card`: the report and the model card of a run."""

from keras_adaptive import report as reports
from keras_adaptive.cli.folder import read_report


def report(options):
    reports.write(options.run, read_report(options.run))
    for name in ("report.md", "report.html", "card.md"):
        print(options.run / name)


def card(options):
    print(reports.card(read_report(options.run)), end="")
