"""`demo`: trains, evaluates, exports and runs a small network."""

import json

from keras_adaptive.cli.evaluate import evaluate
from keras_adaptive.cli.export import export
from keras_adaptive.cli.folder import say
from keras_adaptive.cli.train import train


def demo(options):
    train(options)
    options.run = options.out
    evaluate(options)
    export(options)
    say("report")
    report = json.loads((options.out / "report.json").read_text(encoding="utf-8"))
    print("\n" + (options.out / "report.md").read_text(encoding="utf-8"))
    print("files:")
    for path in sorted(options.out.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            print(f"  {path}  ({path.stat().st_size:,} bytes)")
    row, full = report["budgets"][-2], report["budgets"][-1]
    print(
        f"\n{row['accuracy']:.1%} accuracy with {row['share_of_full']:.0%} of the full network's "
        f"MACs; the full network: {full['accuracy']:.1%}."
    )
