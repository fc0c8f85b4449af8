"""`score`: computes the answers of an exported file to all samples of files."""

import logging

from keras_adaptive import beam


def score(options):
    print("score: looks at the files", flush=True)
    logging.disable(logging.WARNING)  # Beam warns of what is not installed
    try:
        summary = beam.score(
            options.pattern,
            options.model,
            options.output,
            shard_size=options.shard_size,
            workers=options.workers,
            image_column=options.image_column,
            label_column=options.label_column,
            key_column=options.key_column,
            options=options.beam or None,
        )
    finally:
        logging.disable(logging.NOTSET)
    print(_line(options.output, summary))
    return summary


def _line(folder, summary):
    """Returns the summary as a sentence."""
    exits = ", ".join(f"exit {k}: {share:.1%}" for k, share in summary["exit_fractions"].items())
    parts = [f"{summary['samples']:,} samples"]
    if summary["errors"]:
        parts.append(f"{summary['errors']:,} could not be read (errors.jsonl)")
    if summary["accuracy"] is not None:
        parts.append(f"{summary['accuracy']:.2%} accuracy on {summary['labeled']:,} labeled")
    if summary["mean_cost"] is not None:
        parts.append(f"{summary['mean_cost']:,.0f} MACs on average")
    return f"{folder}: {'; '.join([*parts, exits] if exits else parts)}"
