"""The loss of networks that learn when to stop: the expected cost minus the reward."""

import inspect

import keras
import numpy as np
from keras import ops

from keras_adaptive._checks import check_choice, did_you_mean, finite, integer, numbers

ESTIMATORS = ("sampled", "expected")
REWARDS = ("sampled_label", "best_label", "log_likelihood")
CHARGES = ("before", "including")
NORMALIZED = {"first": 0, "last": -1, None: None}  # the exit by whose cost costs are divided


@keras.saving.register_keras_serializable(package="keras_adaptive")
class StoppingLoss:
    """The negative of a sample's expected reward less the cost of the exits it visits.

    With `s_k` the probability of stopping at exit `k` (1 at the last) and `C_k` the exit's
    class probabilities, a sample leaves at `k` with `Pi_k = s_k * prod_{j<k} (1 - s_j)`. It
    earns `R = reward - cost_weight * cost_k`, and the loss is `-E[R]`, mean over the batch.
    Its gradient reaches the policies and, unless they are frozen, the classifiers.

    - `"sampled"` is the paper's estimator (REINFORCE). Exit `k` and label `l` are drawn, and
      with the baseline `b` the gradient is that of
      `(R - b) * (sum_{j<k} log(1 - s_j) + log s_k + log C_k(l))`.
      `b` makes it vary least in the mini-batch: `b = sum_i R_i w_i / sum_i w_i` with `w_i` the
      squared norm of the gradient with respect to all logits involved. Each sample's own
      part is left out of its `b`, so that the estimate stays unbiased.
    - `"expected"` sums over the exits, and over the label, instead of drawing: the same
      gradient in the mean, without noise. Validation always computes this one.

    The cost is cumulative over the exits visited, their policies included, as a multiple
    of what the first exit costs, or as `normalize` says. Where the gates of a network make it
    differ from sample to sample, the most is charged. Nothing here decides: see `LearnedPolicy`.

    Try `calibrate` first. On CIFAR-10 no learned policy, with frozen members or trained
    together with them, was better than calibrated thresholds on the same members at the same
    cost, some were worse, and about half sent all images to one exit
    (benchmarks/results/stopping.md).

    Args:
        cost_weight: Number of at least 0, alpha of the paper (1e-4 to 1e-2).
        estimator: `"sampled"` or `"expected"`.
        reward: `"sampled_label"`: 1 if a label drawn from `C_k` is the true one, the paper's;
            `"best_label"`: 1 if the most probable one is, which is what counts in the end
            but teaches the policies alone; `"log_likelihood"`: `log C_k(true label)`.
        top_k: Integer: so many labels are drawn independently, or taken from the most
            probable, and one of them must be the true one. Without a meaning for
            `"log_likelihood"`.
        charge: `"before"`: equation 1 of the paper, `sum_{j<k} F_j`, the exit that answers
            being free; `"including"`: the paper's text, and what is really spent,
            `sum_{j<=k} F_j`.
        baseline: Boolean, whether `b` is subtracted.
        costs: Sequence of one number per exit, cumulative, in place of the network's MACs:
            energy or milliseconds, for example. `None`: MACs.
        normalize: What costs are divided by, which the paper does not say: `"first"`: the cost
            of the first exit; `"last"`: of the whole; `None`: nothing.

    Raises:
        ValueError: If an argument is impossible.

    Example:

    >>> StoppingLoss(cost_weight=0.001).reward
    'sampled_label'

    Reference:
        [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368).
    """

    def __init__(
        self,
        cost_weight=0.0,
        estimator="sampled",
        reward="sampled_label",
        top_k=1,
        charge="before",
        baseline=True,
        costs=None,
        normalize="first",
    ):
        self.cost_weight = finite(cost_weight, "cost_weight")
        if self.cost_weight < 0:
            raise ValueError(
                f"`cost_weight` must be at least 0. Received: cost_weight={cost_weight}"
            )
        check_choice(ESTIMATORS, estimator=estimator)
        check_choice(REWARDS, reward=reward)
        check_choice(CHARGES, charge=charge)
        check_choice(tuple(NORMALIZED), normalize=normalize)
        if costs is not None:
            try:
                found = numbers(costs, "costs")
            except ValueError:
                found = np.zeros(1)
            if not found[0] > 0 or not np.isfinite(found).all() or (np.diff(found) < 0).any():
                raise ValueError(
                    "`costs` must be positive numbers, one per exit, that do not fall. "
                    f"Received: costs={costs}"
                )
            costs = found.tolist()
        check_choice((True, False), baseline=baseline)
        self.estimator = estimator
        self.reward = reward
        self.top_k = integer("top_k", top_k, 1)
        self.charge = charge
        self.baseline = bool(baseline)
        self.costs = costs
        self.normalize = normalize

    def charges(self, costs):
        """Returns what leaving at each exit is charged, normalized.

        Args:
            costs: Sequence of one number per exit, cumulative, of the network with its
                policies.
        """
        costs = np.asarray(costs if self.costs is None else self.costs, "float64")
        if self.normalize is not None:
            costs = costs / costs[NORMALIZED[self.normalize]]
        return np.append(0.0, costs[:-1]) if self.charge == "before" else costs

    def losses(self, logits, labels, decisions, charges, seed=None):
        """Returns each sample's part of the loss, `(batch,)`.

        Args:
            logits: List of the exits' logits `(batch, classes)`.
            labels: Integers `(batch,)`.
            decisions: List of the logarithms of stopping and going on, `(batch, 2)`, of
                every exit but the last.
            charges: As the method gives them.
            seed: `keras.random.SeedGenerator`, to draw with. `None`: the expectation.
        """
        answers = [ops.log_softmax(ops.cast(z, "float32"), axis=-1) for z in logits]
        charges = ops.convert_to_tensor(self.cost_weight * np.asarray(charges), "float32")
        if seed is None:
            worth = ops.stack([self._expected_reward(a, labels) for a in answers], axis=1)
            return -ops.sum(ops.exp(leaving(decisions)) * (worth - charges), axis=1)
        return self._sampled(answers, labels, decisions, charges, seed)

    def _expected_reward(self, answer, labels):
        right = _at(answer, labels)
        if self.reward == "log_likelihood":
            return right
        if self.reward == "best_label":
            return _among_best(answer, labels, self.top_k)
        return 1 - (1 - ops.exp(right)) ** self.top_k

    def _sampled(self, answers, labels, decisions, charges, seed):
        log_leaving = leaving(decisions)
        exits = keras.random.categorical(ops.stop_gradient(log_leaving), 1, seed=seed)[:, 0]
        answer = ops.stack(answers, axis=1)
        answer = ops.take_along_axis(answer, exits[:, None, None], axis=1)[:, 0]
        log_drawn = _at(log_leaving, exits)
        weight = _at(_squared_gradients(decisions), exits)
        if self.reward == "sampled_label":
            drawn = keras.random.categorical(ops.stop_gradient(answer), self.top_k, seed=seed)
            reward = ops.any(ops.equal(drawn, ops.cast(labels, drawn.dtype)[:, None]), axis=1)
            reward = ops.cast(reward, "float32")
            log_drawn = log_drawn + ops.sum(ops.take_along_axis(answer, drawn, axis=1), axis=1)
            counts = ops.sum(ops.one_hot(drawn, answer.shape[-1]), axis=1)
            weight = weight + ops.sum((counts - self.top_k * ops.exp(answer)) ** 2, axis=1)
        else:
            reward = self._expected_reward(answer, labels)
        earned = reward - ops.take(charges, exits)
        advantage = ops.stop_gradient(earned)
        if self.baseline:
            advantage = advantage - _leave_one_out(advantage, ops.stop_gradient(weight))
        # the value is what was earned; the gradient is the estimate
        return -(earned + advantage * (log_drawn - ops.stop_gradient(log_drawn)))

    def get_config(self):
        return {
            "cost_weight": self.cost_weight,
            "estimator": self.estimator,
            "reward": self.reward,
            "top_k": self.top_k,
            "charge": self.charge,
            "baseline": self.baseline,
            "costs": self.costs,
            "normalize": self.normalize,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def leaving(decisions):
    """Returns the logarithm of the probability of leaving at each exit, `(batch, exits)`.

    Args:
        decisions: List of the logarithms of stopping and going on, `(batch, 2)`, of every
            exit but the last.
    """
    gone_on, columns = 0.0, []
    for decision in decisions:
        columns.append(gone_on + decision[:, 0])
        gone_on = gone_on + decision[:, 1]
    return ops.stack([*columns, gone_on], axis=1)


def _squared_gradients(decisions):
    """Returns |d log Pi_k / d scores|^2 for every exit, `(batch, exits)`."""
    gone_on, columns = 0.0, []
    for decision in decisions:
        stop, go = ops.exp(decision[:, 0]), ops.exp(decision[:, 1])
        columns.append(gone_on + 2 * go**2)
        gone_on = gone_on + 2 * stop**2
    return ops.stack([*columns, gone_on], axis=1)


def _leave_one_out(values, weights):
    """Returns, for each sample, the weighted mean of the others' values; 0 without others."""
    products = values * weights
    others = ops.sum(weights) - weights
    mean = (ops.sum(products) - products) / ops.maximum(others, 1e-12)
    return ops.where(others > 1e-12, mean, 0.0)


def _at(rows, columns):
    """Returns one entry of each row."""
    return ops.take_along_axis(rows, ops.cast(columns, "int32")[:, None], axis=1)[:, 0]


def _among_best(answer, labels, top_k):
    """Returns 1 where fewer than `top_k` classes are more probable than the true one."""
    above = ops.cast(answer > _at(answer, labels)[:, None], "int32")
    return ops.stop_gradient(ops.cast(ops.sum(above, axis=1) < top_k, "float32"))


def check_names(kwargs, function, own):
    """Raises a TypeError unless all arguments are those of a `StoppingLoss`.

    Args:
        kwargs: Dictionary.
        function, own: Strings, who takes them, and the names of its own arguments.
    """
    known = tuple(inspect.signature(StoppingLoss).parameters)
    for name in kwargs:
        if name not in known:
            raise TypeError(
                f"Arguments of `{function}` must be its own or those of StoppingLoss, {known}. "
                f"Received: {name}={kwargs[name]!r}{did_you_mean(name, known + own)}"
            )
