"""Writes the numbers of the README and of two pages of docs, each read from a result that is kept.

    python -m benchmarks.readme          (or: make readme)

What stands between `<!-- measured: name -->` and `<!-- end -->` is written by the function of
that name; everything else is left as it is.
"""

import configparser
import functools
import json
import re
import textwrap

from benchmarks import common
from benchmarks._rows import read
from benchmarks.stopping_ways import counts
from keras_adaptive.training.collapse import COLLAPSED

ROOT = common.ROOT.parent
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", DOCS / "measured.md", DOCS / "guides" / "which_technique.md")
TRAINED = "keras_adaptive/models/weights"
BEST, MSDNET = "cifar10_resnet9", "cifar10"  # the latter is what files and host are measured on
BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


@functools.cache
def home():
    """Returns the address of the project, of which setup.cfg knows."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return setup["metadata"]["url"]


def place(path):
    """Returns the address of a file of the project: pages are read elsewhere, too."""
    return f"{home()}/blob/main/{path}"


def link(name):
    return f"[{name}.md]({place(f'benchmarks/results/{name}.md')})"


def card(title="card.md", name=MSDNET):
    return f"[{title}]({place(f'{TRAINED}/{name}/card.md')})"


def report(name=MSDNET):
    """Returns the report of a network of the library, and what half of its cost gives."""
    found = json.loads((ROOT / TRAINED / name / "report.json").read_text())
    return found, found["result"]


def percent(share, digits=1):
    return f"{100 * share:.{digits}f} %"


def trained():
    """The network that comes with the library: early exits against the whole."""
    found, half = report(BEST)
    text = (
        f"A ResNet-9 with four exits added, which comes with the library, on held-out "
        f"{found['run']['data']} test images: {percent(half['accuracy'], 2)} accuracy with "
        f"{percent(half['share_of_full'])} of the full network's MACs; the full network has "
        f"{percent(found['budgets'][-1]['accuracy'], 2)}. {card('Model card', BEST)}."
    )
    return textwrap.wrap(text, 98, break_on_hyphens=False, break_long_words=False)


def results():
    """One line per claim, also where a technique does not help."""
    return table(("what", "measured", "where"), [row for part in PARTS for row in part()])


def pays():
    """What half of the MACs are in time, and what does not pay."""
    points = {
        point["batch"]: point["over_full"]
        for row in read("inference")["rows"]
        if row["net"] == "five exits" and row["share"] == 0.5
        for point in row["points"]
    }
    times = read("device")["times"]
    single, classify = (max(row[way] for row in times) for way in ("single", "classify"))
    gated = next(r for r in read("gates")["time"] if (r["way"], r["batch"]) == ("layer", 1))
    cascade, stopping = cascade_times(), stopping_counts()
    rows = [
        ("exits on a CPU, one image at a time", f"{points[1]:.2f} of the time: pays"),
        ("the same, 64 and 256 images", f"{points[64]:.2f} and {points[256]:.2f}: pays"),
        ("exits in a .tflite file, one call", f"at most {single:.2f} of a file cut there: pays"),
        ("the same with a deadline", f"at most {classify:.2f}: pays unless exits are tiny"),
        ("gates that skip blocks, one image", f"{gated['time_of_plain']:.2f}, less accurate"),
        (
            "cascades of tiny networks",
            f"{cascade['saving']:.2f} times fewer MACs, {cascade['time']:.2f} times less time: no",
        ),
        (
            "learned stopping",
            f"better than thresholds in {stopping['better']} of {stopping['all']} cases: no",
        ),
        ("large batches on a GPU", "not measured"),
    ]
    return table(("half of the MACs by", "measured"), rows)


def techniques():
    """What each technique saved, what it cost, and what time came of it."""
    shipped, half = report()
    lost = shipped["budgets"][-1]["accuracy"] - half["accuracy"]
    times = {
        row["net"]: next(point["over_full"] for point in row["points"] if point["batch"] == 1)
        for row in read("inference")["rows"]
        if row["share"] == 0.5
    }
    found = read("gates")
    plain, gated = found["rows"]["plain"], found["rows"]["layer"]
    gate_time = next(r for r in found["time"] if (r["way"], r["batch"]) == ("layer", 1))
    cascade, stopping = cascade_times(), stopping_counts()
    alone = {row["cascade"]: row for row in read("cascades")["singles"]}
    twice = [(row, alone[row["cascade"].split()[0]]) for row in read("cascades")["self_cascades"]]
    better = sum(
        row["accuracy"] >= one["accuracy"] and row["mean_macs"] < one["mean_macs"]
        for row, one in twice
    )
    first = read("device")["times"][0]
    together = counts(read("stopping_ways"))["weighted (ZTW)"]
    rows = [
        (
            "exits on an MSDNet",
            percent(half["share_of_full"]),
            f"{100 * lost:.2f}",
            f"{times['five exits']:.2f}",
            f"{card()}, {link('inference')}",
        ),
        ("exits on a MobileNetV2", "50 %", "-", f"{times['MobileNetV2']:.2f}", link("inference")),
        ("exits on a ViT", "50 %", "-", f"{times['ViT']:.2f}", link("inference")),
        (
            "gates that skip blocks, ResNet-38",
            percent(gated["macs"][-1] / plain["macs"][-1]),
            f"{100 * (plain['accuracy'][-1] - gated['accuracy'][-1]):.1f}",
            f"{gate_time['time_of_plain']:.2f}",
            link("gates"),
        ),
        (
            "the best cascade of small networks",
            percent(1 / cascade["saving"]),
            f"{-cascade['gain']:.2f}",
            f"{1 / cascade['time']:.2f}",
            link("cascades"),
        ),
        (
            "one network at two sizes",
            "-",
            f"as good for fewer MACs in {better} of {len(twice)} cases",
            "-",
            link("cascades"),
        ),
        (
            "learned stopping",
            "as thresholds",
            f"better than thresholds in {stopping['better']} of {stopping['all']} cases",
            "-",
            link("stopping"),
        ),
        (
            "exits that answer together, Zero Time Waste",
            "as thresholds",
            f"better than thresholds in {together['better']} of {together['all']} cases, worse in "
            f"{together['worse']}; {together['gain_points']:+.2f} points in the mean",
            "-",
            link("stopping_ways"),
        ),
        (
            f"a first exit that takes {first['static (ms)']:.2f} ms, by `classify`",
            "-",
            "-",
            f"{first['classify']:.2f} of a network cut there",
            link("device"),
        ),
    ]
    return table(("technique", "MACs left", "points lost", "time left", "where"), rows)


def table(titles, rows):
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def guarantees():
    risks = {
        row["thresholds"]: row
        for row in read("calibration")["risks"]
        if row["guarantee"] == "accuracy_drop <= 1% (betting)"
    }
    one, shared = risks["one per exit"], risks["one shared"]
    methods = read("calibration")["methods"]
    gains = [row["gain_points"] for row in methods if row["method"] == "optimal"]
    yield (
        "a guarantee: at most 1 point lost, with probability 95 %",
        f"{percent(one['cost_share'])} of the MACs; with one shared threshold, as elsewhere, "
        f"{percent(shared['cost_share'])}",
        link("calibration"),
    )
    yield (
        "exact search for a budget against the published rule",
        f"{min(gains):+.2f} to {max(gains):+.2f} points on new images; adds accuracy targets, "
        "worst-case limits and guarantees",
        link("calibration"),
    )


def host_by_time(rows):
    """Of results measured before rows had a share of the cost."""
    for row in rows:
        if row["batch_size"] != 256:
            continue
        points = {point["cost"]: point["over_full"] for point in row["points"]}
        slower = [cost for cost in points if points[cost] > 1]
        exits = {5: "five", 7: "seven"}[len(row["stage_ms"])]
        yield (
            f"time on the host ({row['date']}), {exits} exits, batches of 256, MACs "
            "cut to about 30 / 50 / 80 %",
            " / ".join(f"{points[cost]:.2f}" for cost in ("30%", "50%", "80%"))
            + " of the full network's time"
            + (f": no gain at {', '.join(slower)}" if slower else ""),
            link("inference"),
        )


def host():
    rows = read("inference")["rows"]
    if "share" not in rows[0]:
        yield from host_by_time(rows)
        return
    rows = [row for row in rows if row["net"] == "five exits"]
    for batch in (1, 64, 256):
        points = [point for row in rows for point in row["points"] if point["batch"] == batch]

        def ratios(key, points=points):
            return " / ".join(f"{point[key]:.2f}" for point in points)

        yield (
            f"CPU time on the host ({rows[0]['date']}), five exits, batches of {batch}, MACs cut "
            "to about 30 / 50 / 80 %",
            f"{ratios('over_full')} of all exits computed by LiteRT, {ratios('over_full_tf')} by "
            f"TensorFlow; {ratios('over_ideal')} of the ideal"
            + (f"; {ratios('over_before')} of 0.1.0" if "over_before" in points[0] else ""),
            link("inference"),
        )


def training():
    lines = [line for line in read("training")["rows"] if "gain" in line]
    gains = [pair for line in lines for pair in zip(line["gain"], line["error"], strict=True)]
    better = sum(gain >= 2 * error for gain, error in gains)
    worse = sum(gain <= -2 * error for gain, error in gains)
    best = max(lines, key=lambda line: sum(line["gain"]))
    yield (
        "ways of training against plain joint training, eight epochs in all",
        f"{len(lines)} ways at {len(best['gain'])} exits: {better} better, {worse} worse, "
        f"{len(gains) - better - worse} ties; most in all, {best['way']}: "
        + " / ".join(f"{gain:+.1f}" for gain in best["gain"])
        + " points",
        link("training"),
    )


def device():
    found = read("device")

    def most(way, first=False):
        """The largest multiple of each kind, at the first exit or at the others."""
        ratios = {}
        for row in found["times"]:
            if first == (row["exit"] == 0) or way == "staged":
                ratios[row["kind"]] = max(row[way], ratios.get(row["kind"], 0))
        return " / ".join(f"{ratio:.2f}" for ratio in ratios.values())

    single, nested = (max(row[way] for row in found["times"]) for way in ("single", "tf.cond"))
    drop = max(
        a - b for a, b in zip(found["accuracy"]["keras"], found["accuracy"]["int8"], strict=True)
    )
    yield (
        "`classify` on the device against a .tflite cut at the exit, in float32 / dynamic / int8",
        f"{most('classify', first=True)} times its time at the first exit, which takes "
        f"{found['times'][0]['static (ms)']:.2f} ms, and at most {most('classify')} times at the "
        f"others; the stages alone, without checks, rule and clock, at most {most('staged')} times",
        link("device"),
    )
    yield (
        "one call with the exits inside, likewise",
        f"at most {single:.2f} times its time; nested conditionals of TensorFlow's, at most "
        f"{nested:.2f} times",
        link("device"),
    )
    shipped = report(BEST)[0]["device"]
    yield (
        "the same exit in the exported file and in the predictor on the host",
        f"{shipped['same_exit']:,} of {shipped['images']:,} images",
        card(name=BEST),
    )
    yield (
        "int8 against Keras, 5,000 images",
        f"at most {100 * max(drop, 0):.2f} points lost at any exit",
        link("device"),
    )


def damage():
    *_, whole = read("fuzz")["counts"]
    yield (
        "crashes and hangs with damaged and forged files",
        f"{whole['crash'] + whole['hang']} in {whole['tries']:,} tries",
        link("fuzz"),
    )


def cascade_times():
    """Of the best cascade, by how much MACs and time are less.

    It is compared with networks of which none of the others is better and cheaper.
    """
    found = read("cascades")
    alone = {row["cascade"]: row for row in found["singles"]}
    worth = {
        name
        for name, row in alone.items()
        if not any(
            other["accuracy"] > row["accuracy"] and other["mean_macs"] < row["mean_macs"]
            for other in alone.values()
        )
    }
    rows = [r for r in found["cascades"] if r["aim"] == "same accuracy" and r["single"] in worth]
    best = max(rows, key=lambda row: row["saving"])
    time = next(row for row in found["times"] if row["single"] == best["single"])
    return {"saving": best["saving"], "gain": best["gain_points"], "time": time["time_ratio"]}


def cascades():
    best = cascade_times()
    yield (
        "best cascade out of a pool of small networks",
        f"{best['saving']:.2f} times fewer MACs at equal accuracy, but only "
        f"{best['time']:.2f} times less time with the predictor of 0.1, because per-call overhead "
        "dominates",
        link("cascades"),
    )


def stopping_counts():
    """How many learned policies are better and worse than thresholds."""
    rows = [row for rows in read("stopping")["rows"].values() for row in rows]
    spread = [row for row in rows if max(row["fractions"]) < COLLAPSED]
    return {
        "all": len(rows),
        "better": sum(row["gain"] > 2 * row["error"] for row in spread),
        "worse": sum(row["gain"] < -2 * row["error"] for row in spread),
        "collapsed": len(rows) - len(spread),
    }


def stopping():
    found = stopping_counts()
    ties = found["all"] - found["better"] - found["worse"] - found["collapsed"]
    yield (
        "learned stopping against calibrated thresholds, same networks, same cost",
        f"of {found['all']} policies {found['better']} better, {found['worse']} worse, "
        f"{ties} ties; {found['collapsed']} send all to one exit",
        link("stopping"),
    )


def stopping_ways():
    found = counts(read("stopping_ways"))
    yield (
        "other ways of stopping against exact thresholds, same cost, four networks",
        "better / worse: "
        + "; ".join(
            f"{way} {c['better']} / {c['worse']} of {c['all']}" for way, c in found.items()
        ),
        link("stopping_ways"),
    )


def streams():
    found = read("streams")
    rows = {
        (kind, row["speed"], row["chosen"]): row
        for kind in ("photos", "digits")
        for row in found[kind]["rows"]
    }
    for speed, words in (
        ("slow", "24 frames a scene"),
        ("every frame another scene", "every frame another scene"),
    ):
        photos, digits = (rows[kind, speed, "1.0% lost"] for kind in ("photos", "digits"))
        yield (
            f"`stream_frames` against each frame alone, `tau` for one point of loss, {words}: "
            "panned photos / moving digits",
            f"{percent(photos['macs_of_alone'])} / {percent(digits['macs_of_alone'])} of the MACs; "
            f"{photos['against_alone']['mean']:+.1f} / {digits['against_alone']['mean']:+.1f} "
            f"points; {photos['against_cheaper']['mean']:+.1f} / "
            f"{digits['against_cheaper']['mean']:+.1f} against cheaper thresholds for as many MACs",
            link("streams"),
        )


def gates():
    found = read("gates")
    plain, layer = found["rows"]["plain"], found["rows"]["layer"]
    times = {row["batch"]: row["time_of_plain"] for row in found["time"] if row["way"] == "layer"}
    yield (
        "layer gates on ResNet-38, six epochs in all",
        f"{percent(layer['macs'][-1] / plain['macs'][-1])} of the MACs, "
        f"{times[256]:.2f} of the time at batch 256 and {times[1]:.2f} at batch 1 with the "
        f"predictor of 0.1, for "
        f"{100 * (plain['accuracy'][-1] - layer['accuracy'][-1]):.1f} points of accuracy",
        link("gates"),
    )


def throughput():
    rows = read("throughput")["rows"]
    yield (
        "training, images per second, against a plain Keras `fit` of the same network",
        f"{rows['fit']['ratio_to_plain']:.2f} times as many in float32, "
        f"{rows['fit, bfloat16']['ratio_to_plain']:.2f} times in bfloat16",
        link("throughput"),
    )


def compression():
    found = read("compression")
    rows = {row["way"]: row for row in found["rows"]}
    dense, sparse = rows["as trained"]["float32"], rows["50 % zeros"]["float32"]
    worst = min(found["gain"]["50 % zeros"][0])
    yield (
        "half of the weights zero, fine-tuned",
        f"{'at most' if worst < 0 else 'at least'} {abs(worst):.2f} points "
        f"{'lost' if worst < 0 else 'won'} at any exit; "
        f"{percent(sparse['gzip'] / dense['gzip'], 0)} of the gzipped size",
        link("compression"),
    )


def search():
    found = read("search")
    (gain,), (error,) = (
        [values[kind][0] for values in found["gains"].values()] for kind in ("gain", "error")
    )
    verdict = "a tie with" if abs(gain) < 2 * error else "better than" if gain > 0 else "worse than"
    yield (
        "best of a KerasTuner search, trained again",
        f"{gain:+.2f} ± {error:.2f} points within the budget: {verdict} the default preset",
        link("search"),
    )


PARTS = (
    guarantees,
    host,
    device,
    damage,
    cascades,
    stopping,
    stopping_ways,
    streams,
    gates,
    training,
    throughput,
    compression,
    search,
)
BLOCKS = {"trained": trained, "pays": pays, "techniques": techniques, "results": results}


def filled(text):
    """Returns a page with its numbers written anew."""

    def write(match):
        begin, name, _, end = match.groups()
        return begin + "\n".join(BLOCKS[name]()) + "\n" + end

    return BLOCK.sub(write, text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text()))
