"""Cascade: members that are asked one after another on Beam answer as a chain on one machine."""

import apache_beam as beam
import numpy as np
import pytest
import samples
from apache_beam.testing.util import assert_that

import keras_adaptive as ka
from anytime_tflite import BatchPredictor
from keras_adaptive.beam.cascade import Asked, Member

# each takes floats, and has three exits, of which its own policy chooses one
PATHS = [str(samples.FILES / f"{name}.tflite") for name in ("float32", "int8", "saturated")]


def inputs(count):
    return (samples.images(count).astype("float32") / 255 - 0.5) / 0.25


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def by_hand(paths, x, thresholds, temperatures, combine):
    """Returns what a chain answers, as rows: label, probability, exit, cost."""
    found = []
    for path in paths:
        with BatchPredictor(path, workers=1) as predictor:
            found.append(predictor.predict(x))
    rows = []
    for i in range(len(x)):
        cost = 0
        for k in range(len(paths)):
            cost += found[k].costs[i]
            p = [np.maximum(one.probabilities[i].astype("float64"), 1e-45) for one in found]
            z = {
                "last": np.log(p[k]),
                "mean_logits": np.mean([np.log(q) for q in p[: k + 1]], axis=0),
                "mean_probs": np.log(np.mean(p[: k + 1], axis=0)),
            }[combine]
            answer = softmax(z / temperatures[k])
            if k == len(paths) - 1 or answer.max() >= thresholds[k]:
                exit = 3 * k + found[k].exits[i]
                rows.append((int(answer.argmax()), answer.max(), exit, cost))
                break
    return rows


def check_equal(expected):
    def check(found):
        found = dict(found)
        assert sorted(found) == list(range(len(expected)))
        for key, (label, probability, exit, cost) in enumerate(expected):
            answer = found[key].inference
            assert (answer.label, answer.exit) == (label, exit)
            assert answer.probability == pytest.approx(probability, abs=1e-5)
            assert answer.cost == pytest.approx(cost, rel=1e-6)

    return check


def check(paths, combine, thresholds, temperatures, count=40, **how):
    x = inputs(count)
    expected = by_hand(paths, x, thresholds, temperatures, combine)
    assert len({row[2] // 3 for row in expected}) == len(paths)  # some leave at each member
    policy = ka.ExitPolicy(thresholds, temperatures=temperatures)
    cascade = ka.beam.Cascade(
        paths, policy, combine=combine, keyed=True, workers=1, max_batch_size=7, **how
    )
    with beam.Pipeline() as pipeline:
        answers = pipeline | beam.Create(list(enumerate(x))) | cascade
        assert_that(answers, check_equal(expected))


def test_the_answers_are_those_of_the_chain():
    check(PATHS[:2], "mean_logits", [0.6, -np.inf], [1.0, 0.5])


@pytest.mark.slow
@pytest.mark.parametrize("combine", ["mean_logits", "mean_probs", "last"])
def test_every_way_to_combine(combine):
    check(PATHS, combine, [0.6, 0.4, -np.inf], [1.0, 1.5, 0.7])


@pytest.mark.slow
def test_members_have_their_own_machines():
    hints = [{"min_ram": "1GB"}, {"min_ram": "2GB"}]
    check(PATHS[:2], "last", [0.6, -np.inf], [1.0, 1.0], hints=hints)
    pipeline = beam.Pipeline()
    cascade = ka.beam.Cascade(PATHS[:2], [0.6, -np.inf], hints=hints)
    pipeline | beam.Create([]) | "cascade" >> cascade
    found = set()

    class Visitor(beam.pipeline.PipelineVisitor):
        def visit_transform(self, node):
            for part, ram in (("member_0", b"1000000000"), ("member_1", b"2000000000")):
                if f"cascade/{part}/" in node.full_label and ram in node.resource_hints.values():
                    found.add(part)

    pipeline.visit(Visitor())
    assert found == {"member_0", "member_1"}


def test_a_member_says_which_samples_go_on():
    x = inputs(12)
    policy = ka.ExitPolicy([0.6, -np.inf])
    first, second = (
        Member(path, policy, k, "last", 3 * k, workers=1) for k, path in enumerate(PATHS[:2])
    )
    model = first.load_model()
    answered = list(first.run_inference([Asked(i, one) for i, one in enumerate(x)], model))
    model.close()
    leaving = [one.inference[0] for one in answered]
    assert 0 < sum(leaving) < 12
    for one in answered:
        leaves, value = one.inference
        assert (value.probability >= 0.6) if leaves else value.key == one.example.key
    waiting = [one.inference[1] for one in answered if not one.inference[0]]
    assert second.get_num_bytes(waiting) == len(waiting) * 8 * 8 * 4
    model = second.load_model()
    last = [one.inference for one in second.run_inference(waiting, model)]
    model.close()
    assert all(leaves and value.exit >= 3 for leaves, value in last)
    assert all(value.cost > asked.cost > 0 for (_, value), asked in zip(last, waiting, strict=True))


@pytest.mark.parametrize(
    ("paths", "policy", "how", "message"),
    [
        ([], [], {}, "`paths` must be a list of at least one file"),
        (PATHS[0], [-np.inf], {}, "`paths` must be a list"),
        (PATHS[:2], [-np.inf], {}, "a threshold for each member. Received: 1 thresholds, 2 files"),
        (PATHS[:2], ka.PatiencePolicy(2), {}, "`policy` must be an `ExitPolicy` without"),
        (PATHS[:1], ka.ExitPolicy([-np.inf], worst_case=3), {}, "without a worst case"),
        (PATHS[:1], [-np.inf], {"hints": [{}, {}]}, "`hints` must have a dictionary for each"),
        (PATHS[:1], [-np.inf], {"combine": "vote"}, "`combine` must be"),
        ([*PATHS[:1], "nowhere.tflite"], [0.5, -np.inf], {}, "nowhere.tflite"),
    ],
)
def test_impossible_arguments_are_refused(paths, policy, how, message):
    with pytest.raises(ValueError, match=message):
        ka.beam.Cascade(paths, policy, **how)


@pytest.mark.slow
@pytest.mark.parametrize("combine", ["mean_logits", "mean_probs", "last"])
def test_the_cascade_of_keras_exported_as_one_file(combine, tmp_path):
    import keras

    keras.utils.set_random_seed(0)
    tiny = {"blocks": 1, "channels": 4, "growth_rate": 2, "head_channels": 4}
    members = [ka.build_msdnet((8, 8, 1), 5, **tiny) for _ in range(2)]
    for member in members:  # sharper, so that thresholds tell samples apart
        member.layers[-1].set_weights([5 * w for w in member.layers[-1].get_weights()])
    x = inputs(60)
    policy = ka.ExitPolicy([0.5, -np.inf])
    cascade = ka.build_cascade(members, combine=combine)
    logits, _ = cascade.predict_with_costs(x, verbose=0)
    confidences = np.sort(policy.confidences(logits)[0])
    middle = np.diff(confidences[15:45]).argmax() + 15
    policy = ka.ExitPolicy([confidences[middle : middle + 2].mean(), -np.inf])
    ka.export_tflite(cascade, tmp_path / "chain.tflite", policy)
    for k, member in enumerate(members):
        ka.export_tflite(member, tmp_path / f"{k}.tflite", ka.ExitPolicy([-np.inf]))
    with BatchPredictor(tmp_path / "chain.tflite", workers=1) as predictor:
        one = predictor.predict(x)
    columns = one.labels, one.probabilities.max(axis=1), one.exits, one.costs
    expected = list(zip(*columns, strict=True))
    assert 0 < one.exits.sum() < 60
    paths = [str(tmp_path / f"{k}.tflite") for k in range(2)]
    with beam.Pipeline() as pipeline:
        answers = (
            pipeline
            | beam.Create(list(enumerate(x)))
            | ka.beam.Cascade(paths, policy, combine=combine, keyed=True, workers=1)
        )
        assert_that(answers, check_equal(expected))
