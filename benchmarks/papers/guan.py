"""Energy-efficient Amortized Inference with Cascaded Deep Classifiers: its table 2 and figures.

    python -m benchmarks.papers.guan --table cifar10 --scale short|published [--data PATH] [--plan]

Table 2 is three: cifar10, cifar100, imagenet32: every classifier alone, the cascade trained
together, and its simplified version, with fixed classifiers. Figure 2: over the weight of the cost;
figures 3 and 4, pictures: which images stop at each classifier, and what is thought of them on the
way; figure 5: the accuracy of each classifier on the images of each.
"""

import dataclasses
import functools

import numpy as np
from scipy.special import softmax

import keras_adaptive as ka
from benchmarks.papers._tables import CIFAR10, CIFAR100, IMAGENET32, Row, Table, exits, main
from keras_adaptive import plotting
from keras_adaptive.models.stopping_cascade import PRESETS
from keras_adaptive.training import RECIPES, StoppingLoss, fit_policy

HELD_OUT = 1_000  # images: the paper trains on all of them, but something must choose
DATA = {"cifar10": CIFAR10, "cifar100": CIFAR100, "imagenet32": IMAGENET32}
RESNET = RECIPES["resnet_cifar"]
# the classifiers as ResNet's paper has it; the policies alone, a tenth; both, as long again
TOGETHER = dataclasses.replace(RESNET, iterations=(64_000, 6_400, 64_000))
POLICY_EPOCHS, POLICY_IMAGES, BATCH = 20, 50_000, 500  # of the simplified version
ALPHAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
SHOWN = 10  # images of a row of figure 3
PRINTED = {  # error, relative FLOPs
    "cifar10": {
        "ResNet-8": (12.33, 5.82),
        "ResNet-20": (9.00, 16.90),
        "ResNet-32": (8.40, 27.98),
        "ResNet-56": (7.70, 50.14),
        "ResNet-110": (7.38, 100.0),
        "ours": (7.20, 19.20),
    },
    "cifar100": {
        "ResNet-8": (39.98, 5.82),
        "ResNet-20": (33.13, 16.90),
        "ResNet-32": (31.56, 27.98),
        "ResNet-56": (30.38, 50.14),
        "ResNet-110": (28.63, 100.0),
        "ours": (27.86, 49.33),
    },
    "imagenet32": {
        "ResNet40-1": (39.72, 6.27),
        "ResNet40-1.5": (32.76, 14.09),
        "ResNet40-2": (29.64, 25.03),
        "ResNet40-3": (24.67, 56.27),
        "ResNet40-4": (22.22, 100.0),
        "ours": (22.21, 66.22),
    },
}


def largest(preset, input_shape):
    """The cost of the last classifier alone, without its dense layer, as the paper counts."""
    arguments = PRESETS[preset]
    how = {"depth": arguments["depths"][-1], "width": arguments["widths"][-1], "style": "pre"}
    return convolutions(ka.build_resnet(input_shape, arguments["classes"], **how))


def convolutions(model):
    logits = model.outputs[-1]._keras_history.operation.logits
    return model.exit_costs()[-1] - np.prod(logits.kernel.shape)


def alone(preset, model, answers, row):
    """Measures a classifier alone: its error and its cost relative to the last one's."""
    top_k = PRESETS[preset].get("top_k", 1)
    found = exits(model, answers, row, top_k)
    share = 100 * convolutions(model) / largest(preset, model.input_shape[1:])
    return {"error": 100 - found["E-1"], "relative FLOPs": share, **found}


def cascade(preset, model, answers, row):
    """Measures a cascade under its policies, each at its most probable."""
    top_k = PRESETS[preset].get("top_k", 1)
    logits, labels = answers.of("test")
    policy, costs = model.learned_policy(), model.stopping_costs()
    result = ka.evaluate(policy, logits, labels, costs, top_k=top_k)
    thresholds = at_the_same_cost(policy, answers, model, top_k)
    leave = policy.decide(logits)
    matrix = ka.evaluation.accuracy_matrix(leave, logits, labels, top_k=top_k)
    most, _ = ka.evaluation.most_and_least_confident(leave, policy.leaving(logits), SHOWN)
    right = logits.argmax(-1) == labels
    of_class = softmax(logits, axis=-1)[:, np.arange(len(labels)), labels]
    return {
        "error": 100 - 100 * result.accuracy,
        "relative FLOPs": 100 * result.mean_cost / largest(preset, model.input_shape[1:]),
        "error of thresholds at this cost": thresholds,
        "leave at each": (100 * result.exit_fractions).tolist(),
        "matrix": [[None if np.isnan(v) else 100 * v for v in line] for line in matrix],
        "MMACs": (costs / 1e6).tolist(),
        "most confident": [images.tolist() for images in most],
        "right of them": [100 * right[k, i].mean() if len(i) else None for k, i in enumerate(most)],
        "first of them": [
            (100 * of_class[: k + 1, i[0]]).tolist() for k, i in enumerate(most) if len(i)
        ],
    }


def at_the_same_cost(policy, answers, model, top_k):
    """The error of calibrated thresholds that cost the same on held-out data, or `None`."""
    held_out, labels = answers.of("calibrate")
    costs = model.exit_costs()
    budget = ka.evaluate(policy, held_out, labels, model.stopping_costs()).mean_cost
    if budget < costs[0]:
        return None
    thresholds = ka.calibrate(held_out, labels, costs, budget=budget, top_k=top_k)
    return 100 - 100 * ka.evaluate(thresholds, *answers.of("test"), costs, top_k=top_k).accuracy


def policies_alone(model, data):
    """The simplified version: policies learn on the answers of fixed classifiers."""
    batches = data.batches("train", BATCH).take(POLICY_IMAGES // BATCH).as_numpy_iterator()
    parts = [(np.stack(model.predict_on_batch(x)), y) for x, y in batches]
    answers, labels = zip(*parts, strict=True)
    logits, labels = np.concatenate(answers, axis=1), np.concatenate(labels)
    fit_policy(model, logits, labels, epochs=POLICY_EPOCHS, verbose=0)


def rows(preset):
    printed, arguments = PRINTED[preset], PRESETS[preset]
    data = DATA[preset].held_out(HELD_OUT)
    sizes = zip(printed, arguments["depths"], arguments["widths"], strict=False)
    names = ("error", "relative FLOPs")
    static = [
        Row(
            name,
            functools.partial(ka.build_resnet, depth=depth, width=width, style="pre"),
            data,
            recipe="resnet_cifar",
            paper=dict(zip(names, printed[name], strict=True)),
            measure=functools.partial(alone, preset),
        )
        for name, depth, width in sizes
    ]
    ours = dict(zip(names, printed["ours"], strict=True))
    return (*static, together(preset, paper=ours), simplified(preset))


def build(preset):
    own = {k: v for k, v in PRESETS[preset].items() if k != "classes"}
    return functools.partial(ka.build_stopping_cascade, **own)


def loss(preset, alpha):
    return StoppingLoss(alpha, top_k=PRESETS[preset].get("top_k", 1))


def together(preset, alpha=None, paper=None):
    own = PRESETS[preset]["cost_weight"]
    alpha = own if alpha is None else alpha
    return Row(
        f"ours, alpha {alpha:g}",
        build(preset),
        DATA[preset].held_out(HELD_OUT),
        {"regime": "stopping", "stopping_loss": loss(preset, alpha)},
        TOGETHER,
        paper if alpha == own and paper else {},
        measure=functools.partial(cascade, preset),
    )


def simplified(preset):
    return Row(
        f"ours, simplified, alpha {PRESETS[preset]['cost_weight']:g}",
        build(preset),
        DATA[preset].held_out(HELD_OUT),
        {},
        "resnet_cifar",
        after=policies_alone,
        measure=functools.partial(cascade, preset),
    )


def as_good_and_cheaper(results):
    *static, ours = [r for n, r in results.items() if "simplified" not in n]
    best = min(r.values["error"] for r in static)
    return ours.values["error"] <= best and ours.values["relative FLOPs"] < 100


def better_than_fixed(results):
    ours = [r.values for n, r in results.items() if n.startswith("ours")]
    return ours[0]["error"] < ours[1]["error"]


CLAIMS = (
    ("the cascade's error is no higher than the best classifier's, for less", as_good_and_cheaper),
    ("it is lower than with fixed classifiers", better_than_fixed),
)


def with_thresholds(results):
    """Every value of the table, and thresholds on the same classifiers at the same cost."""
    lines = []
    for name, result in results.items():
        for value in ("error", "relative FLOPs", "error of thresholds at this cost"):
            if result.values.get(value) is not None:
                printed = result.row.paper.get(value)
                lines.append((name, value, result.values[value], printed))
    return lines


def by_classifier(results):
    """Figure 5: where images leave, and who is right on those."""
    lines = []
    for name, result in results.items():
        for k, share in enumerate(result.values["leave at each"]):
            lines.append((name, f"leave at {k + 1}", share, None))
        for i, line in enumerate(result.values["matrix"]):
            for j, accuracy in enumerate(line):
                if accuracy is not None:
                    lines.append((name, f"accuracy of {i + 1} on those of {j + 1}", accuracy, None))
    return lines


def of_the_most_confident(results):
    """Figure 3: how many of the images that stop with the highest probability are right."""
    return [
        (name, f"right of the {SHOWN} most confident to stop at {k + 1}", share, None)
        for name, result in results.items()
        for k, share in enumerate(result.values["right of them"])
        if share is not None
    ]


def on_the_way(results):
    """Figure 4: what each classifier that an image visits thinks of its class."""
    return [
        (name, f"image that stops at {len(line)}: probability of its class, {k + 1}", value, None)
        for name, result in results.items()
        for line in result.values["first of them"]
        for k, value in enumerate(line)
    ]


def images_of(data):
    """Returns the test images, and the names of their classes."""
    images, labels = data.images("test", data.size("test"))
    return images, [data.class_names[label] for label in labels]


def most_confident(result, data):
    """Draws figure 3."""
    images, names = images_of(data)
    rows = [np.array(row, int) for row in result.values["most confident"]]
    return plotting.examples(images, rows, names)


def probabilities(result, data):
    """Draws figure 4."""
    chosen = [row[0] for row in result.values["most confident"] if row]
    leave = [k for k, row in enumerate(result.values["most confident"]) if row]
    logits, _ = result.answers.of("test")
    images, _ = images_of(data)
    return plotting.probability_strips(images[chosen], logits[:, chosen], leave, data.class_names)


TABLES = {
    **{
        f"table {preset}": Table(
            f"table 2, {preset}",
            rows(preset),
            with_thresholds,
            CLAIMS,
            "Relative FLOPs of the cascade hold all classifiers asked, their policies and dense "
            f"layers. {HELD_OUT:,} images are held out, of which the paper has none.",
        )
        for preset in PRESETS
    },
    "figure 2": Table(
        "over the weight of the cost, CIFAR-10",
        (*rows("cifar10")[:5], *(together("cifar10", alpha) for alpha in ALPHAS)),
        with_thresholds,
        note="The paper prints no values of this figure.",
    ),
    "figure 3": Table(
        "the images most confident to stop at each classifier, CIFAR-10",
        (together("cifar10"),),
        of_the_most_confident,
        note="In the paper images get harder from row to row; it prints no values.",
        picture=most_confident,
    ),
    "figure 4": Table(
        "what the classifiers think on the way, CIFAR-10",
        (together("cifar10"),),
        on_the_way,
        note="One image of each classifier, the most confident to stop there; percent.",
        picture=probabilities,
    ),
    "figure 5": Table(
        "who is right on the images of whom, CIFAR-10", (together("cifar10"),), by_classifier
    ),
}

if __name__ == "__main__":
    main("guan", __doc__, TABLES)
