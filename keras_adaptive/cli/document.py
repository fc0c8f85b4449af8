"""`report` and `card`: the report and the model card of a run."""

from anytime_tflite.file import read_info
from keras_adaptive import report as reports
from keras_adaptive.cli.folder import WRITTEN, opened


def report(options):
    with opened(options.run) as run:
        found, command = run.report(), None
        if options.measurement:
            found["measurements"] = _measured(options)
            command = options.command
        with run.change() as new:
            new.write_report(found, command, measured=False)
    for name in WRITTEN[1:]:
        print(options.run / name)


def _measured(options):
    file = options.run / "model.tflite"
    if not file.is_file():
        raise ValueError(
            "The folder must hold model.tflite, on which was measured: run "
            f"`export {options.run}` first. Received: {options.run}"
        )
    return reports.read_measurements(options.measurement, read_info(file), file)


def card(options):
    with opened(options.run, only_read=True) as run:
        text = reports.card(run.report())
    print(text, end="")
    return {"card": text}
