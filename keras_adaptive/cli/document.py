"""`report` and `card`: the report and the model card of a run."""

from keras_adaptive import report as reports
from keras_adaptive.cli.folder import WRITTEN, opened


def report(options):
    with opened(options.run) as run, run.change() as new:
        new.write_report(run.report(), measured=False)
    for name in WRITTEN[1:]:
        print(options.run / name)


def card(options):
    with opened(options.run, only_read=True) as run:
        print(reports.card(run.report()), end="")
