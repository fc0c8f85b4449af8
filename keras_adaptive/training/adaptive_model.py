"""`AdaptiveModel`: a Keras model with several exits that share one label."""

import functools
import hashlib
import inspect
import json
import types
import warnings

import keras
import numpy as np

from keras_adaptive import _checks, _graph, costs
from keras_adaptive._checks import check_labels_of, integer, integer_sequence, numbers
from keras_adaptive.calibration.calibrate import calibrate, check_how
from keras_adaptive.costs.gated_costs import gated_costs
from keras_adaptive.policy.policy import Policy, policy_of
from keras_adaptive.training._inputs import Inputs, batches_of
from keras_adaptive.training._on_logits import (
    check_metrics,
    fresh,
    loss_on_logits,
    metric_on_logits,
)
from keras_adaptive.training._saving import save_whole
from keras_adaptive.training._summaries import Directions, in_order
from keras_adaptive.training.distillation import Distillation
from keras_adaptive.training.gate_loss import GateLoss
from keras_adaptive.training.preset import from_preset, save_to_preset

KEPT = ("policy", "class_names", "pixels", "preprocessing")  # what a file holds beside the network
RECIPE = {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}


def default_optimizer():
    """Returns the MSDNet paper's optimizer: SGD, Nesterov momentum 0.9, rate 0.1.

    The paper adds `1e-4 * weight` to the gradient. Keras's `weight_decay` takes it
    off the weight directly, outside the momentum, which multiplies what goes through
    it by `1 / (1 - 0.9)`; so `1e-3` here is the paper's `1e-4`.
    """
    return keras.optimizers.SGD(**RECIPE)


@keras.saving.register_keras_serializable(package="keras_adaptive")
class AdaptiveModel(_graph.ListModel):
    """A network with several exits, each of which answers at a known cost.

    A functional `keras.Model` whose outputs are the list of the exits' logits, from
    the first exit to the last. One `y` serves all of them: the loss is
    `sum_i weight_i * loss(y, logits_i)`. Everything of `keras.Model` works: `fit`,
    `evaluate`, callbacks, saving.

    Calling it, or `predict`, computes every exit; nothing stops early there.
    `AdaptivePredictor` and the exported file do.

    Args:
        inputs: Symbolic input, or a list of them. A batch size that they fix is dropped.
        outputs: List of symbolic logits `(batch, classes)`, one per exit, in the
            order in which they are computed.
        name: String.

    Example:

    >>> image = keras.Input((8, 8, 1))
    >>> x = keras.layers.Flatten()(image)
    >>> first = keras.layers.Dense(10, name="exit_0")(x)
    >>> x = keras.layers.Dense(32, activation="relu")(x)
    >>> last = keras.layers.Dense(10, name="exit_1")(x)
    >>> model = AdaptiveModel(image, [first, last])
    >>> model.exit_costs().tolist()
    [640.0, 3008.0]
    >>> [len(stage.layers) for stage in model.stages()]
    [3, 3]

    Reference:
        [BranchyNet (Teerapittayanon et al., 2016)](https://arxiv.org/abs/1709.01686).
    """

    def __init__(self, inputs, outputs, name=None, **kwargs):
        if not isinstance(outputs, (list, tuple)) or not outputs:
            raise ValueError(
                "`outputs` must be a list of the exits' logits, one tensor per exit. "
                f"Received: outputs={outputs}"
            )
        tensors, outputs = _graph.any_batch(keras.tree.flatten(inputs), list(outputs))
        if tensors:
            inputs = keras.tree.pack_sequence_as(inputs, tensors)
        super().__init__(inputs, outputs, name=name, **kwargs)
        classes = {tensor.shape[-1] for tensor in self.outputs} - {None}
        if len(classes) > 1:
            raise ValueError(
                "`outputs` must be logits of the same classes at every exit. Received: outputs of "
                f"shape {', '.join(str(tuple(tensor.shape)) for tensor in self.outputs)}"
            )
        _graph.check_channels_last(self.inputs, self.outputs)
        _graph.freeze_inside(self)
        names = []  # of the exits, by which metrics are told apart; one layer may give several
        for name in self.output_names:
            names.append(_graph.free_name(name, names))
        self.output_names = names
        # not as attributes of their own, since Keras would track what is inside
        self._kept = types.SimpleNamespace(**dict.fromkeys(KEPT))
        self.exit_weights = None
        self.distillation = None
        self.gate_loss = None
        self.optimizer_is_given = False
        self._given = types.SimpleNamespace()  # to `compile`; not tracked by Keras either
        self._watched = self._seen = self._loss_of_gates = None

    @classmethod
    def from_config(cls, config, custom_objects=None):
        if cls is AdaptiveModel and "stopping" in config:  # files of before StoppingModel
            from keras_adaptive.training.stopping_model import StoppingModel

            return StoppingModel.from_config(config, custom_objects)
        config = dict(config)
        kept = {name: config.pop(name, None) for name in KEPT}
        model = super().from_config(config, custom_objects)
        if kept["policy"] is not None:
            kept["policy"] = policy_of(kept["policy"])
        # as it was saved; exports check it
        model._kept.preprocessing = kept.pop("preprocessing")
        for name, value in kept.items():
            setattr(model, name, value)
        return model

    def get_config(self):
        kept = dict(vars(self._kept))
        if self.policy is not None:
            kept["policy"] = self.policy.content()
        return {**super().get_config(), **{k: v for k, v in kept.items() if v is not None}}

    @property
    def num_exits(self):
        """The number of exits."""
        return len(self.outputs)

    exits = num_exits

    @property
    def policy(self):
        """The policy that `calibrate` chose last, or that was set; `None` before.

        It is saved with the model, and is what `AdaptivePredictor`, `evaluate` and
        `export_tflite` use unless they are given another.
        """
        return self._kept.policy

    @policy.setter
    def policy(self, policy):
        if policy is not None:
            self.exits_of(policy)
        self._kept.policy = policy

    @property
    def class_names(self):
        """The names of the classes, a list of strings, or `None`. Saved with the model."""
        return self._kept.class_names

    @class_names.setter
    def class_names(self, names):
        if names is not None:
            names = _checks.class_names(names, self.outputs[0].shape[-1])
        self._kept.class_names = names

    @property
    def pixels(self):
        """The rule of `anytime_tflite.pixels` by which pictures become the network's pixels.

        A dictionary, or `None`. Saved with the model.
        """
        return self._kept.pixels

    @pixels.setter
    def pixels(self, pixels):
        self._kept.pixels = _plain("pixels", pixels)

    @property
    def preprocessing(self):
        """How pixels become inputs: `mean` and `std` of each channel, as in `export_tflite`.

        Both are of pixels divided by 255: `(pixel / 255 - mean) / std`.

        A dictionary, or `None`. Saved with the model.
        """
        return self._kept.preprocessing

    @preprocessing.setter
    def preprocessing(self, preprocessing):
        if preprocessing is not None:
            preprocessing = _checks.preprocessing(preprocessing)
        self._kept.preprocessing = preprocessing

    @property
    def network(self):
        """What tells this network from others: its name, and a digest of its operations.

        The digest is the same after saving and loading, and for the same network built anew;
        weights do not count.
        """
        nodes = _graph.nodes_between(self.inputs, self.outputs)
        operations = sorted(
            f"{type(node.operation).__name__} {[tuple(t.shape) for t in node.outputs]}"
            for node in nodes
        )
        digest = hashlib.sha256("\n".join(operations).encode()).hexdigest()
        return {"name": self.name, "digest": digest[:16]}

    def exits_of(self, policy):
        """Returns the indices of the exits that a policy uses in this network, ascending.

        Raises:
            TypeError: If it is no policy.
            ValueError: If it is `None`, belongs to another network, or is for another number of
                exits.
        """
        if policy is None:
            raise ValueError(
                "`policy` must be given where `model.policy` is None: make one by hand, or "
                "`model.calibrate` chooses one. Received: policy=None"
            )
        if not isinstance(policy, Policy):
            raise TypeError(
                "`policy` must be an ExitPolicy, a LearnedPolicy, a PatiencePolicy or an "
                f"AgreementPolicy. Received: policy={policy!r}"
            )
        if policy.network is not None and policy.network["digest"] != self.network["digest"]:
            raise ValueError(
                "`policy` must belong to the network that it is used with. Received: a policy of "
                f"{policy.network['name']!r}, and the network {self.name!r}"
            )
        return policy.exits_of(self.num_exits)

    def compile(
        self,
        optimizer=None,
        loss="sparse_categorical_crossentropy",
        metrics=("accuracy",),
        exit_weights=None,
        distillation=None,
        gate_loss=None,
        weighted_metrics=None,
        **kwargs,
    ):
        """Configures training. One loss and one list of metrics serve every exit.

        `fit` and `evaluate` show the loss and, of each metric, the first exit's, the mean and
        the last exit's value: `first_accuracy`, `mean_accuracy`, `last_accuracy`; `accuracy` is
        the last exit's too. Callbacks monitor any of them, with `val_` in front those of the
        validation: `EarlyStopping("val_accuracy")`.

        Args:
            optimizer: As in Keras. `None`: the MSDNet paper's (see `default_optimizer`), in
                place of which `training.fit` uses that of its recipe.
            loss: A loss on logits. The names of Keras's cross-entropies are taken
                with `from_logits=True`, since exits give logits.
            metrics: List of metrics on logits. Keras's cross-entropies are taken with
                `from_logits=True`.
            exit_weights: Sequence of one number per exit, the weights of the sum.
                `None`: 1 each.
            distillation: A `training.Distillation`, or `None`.
            gate_loss: A `training.GateLoss` for a network with gates, or `None`.
            weighted_metrics: List of metrics that count by `sample_weight`.
            **kwargs: Passed to `keras.Model.compile`.

        Raises:
            ValueError: If a loss or a metric expects probabilities, or the number of weights is
                not the number of exits.
        """
        if "loss_weights" in kwargs:
            raise ValueError(
                "Weights of exits must be given as `exit_weights`. "
                f"Received: loss_weights={kwargs['loss_weights']}"
            )
        on_logits = {}
        for name, given in (("metrics", metrics), ("weighted_metrics", weighted_metrics)):
            check_metrics(name, given)
            on_logits[name] = given and [metric_on_logits(name, metric) for metric in given]
        exit_weights = self.check_losses(exit_weights, distillation, gate_loss)
        of_exits = loss_on_logits(loss)
        watched, self._loss_of_gates = [], None
        if gate_loss is not None:
            watched, self._loss_of_gates = gate_loss.of_network(self.inputs, self.outputs)
        self._watch(watched)
        self.gate_loss = gate_loss
        self.distillation = distillation
        self.exit_weights = exit_weights
        self.optimizer_is_given = optimizer is not None
        scaling = {k: v for k, v in kwargs.items() if k == "auto_scale_loss"}
        self._given = types.SimpleNamespace(
            loss=loss, metrics=metrics, weighted_metrics=weighted_metrics, **scaling
        )
        weights = self._exit_weights()
        if distillation is not None:
            kept = 1 - distillation.weight
            weights = [*(kept * w for w in weights[:-1]), weights[-1]]
        super().compile(
            optimizer=self._default_optimizer() if optimizer is None else optimizer,
            loss=[of_exits] * self.num_exits,
            loss_weights=weights,
            **{name: self._for_each_exit(given) for name, given in on_logits.items()},
            **kwargs,
        )

    def _for_each_exit(self, metrics):
        return metrics and [list(map(fresh, metrics)) for _ in range(self.num_exits)]

    def check_losses(self, exit_weights, distillation, gate_loss):
        """Returns the weights of the exits as a list, or `None`, if `compile` may have all this.

        Args:
            exit_weights, distillation, gate_loss: As in `compile`.

        Raises:
            TypeError, ValueError: If one is impossible for this network.
        """
        if exit_weights is not None:
            weights = numbers(exit_weights, "exit_weights").tolist()
            if len(weights) != self.num_exits or not 0 <= min(weights) <= max(weights) < np.inf:
                raise ValueError(
                    f"`exit_weights` must be {self.num_exits} numbers of at least 0, one "
                    f"per exit. Received: exit_weights={exit_weights}"
                )
            exit_weights = weights
        if distillation is not None and not isinstance(distillation, Distillation):
            raise TypeError(
                f"`distillation` must be a Distillation. Received: distillation={distillation!r}"
            )
        if distillation is not None:
            distillation.check(self.inputs, self.outputs)
        if gate_loss is not None:
            if not isinstance(gate_loss, GateLoss):
                raise TypeError(
                    f"`gate_loss` must be a GateLoss. Received: gate_loss={gate_loss!r}"
                )
            gate_loss.of_network(self.inputs, self.outputs)
        return exit_weights

    def compiled_with(self):
        """Returns what `compile` would be given for the model as it is; empty if it is not."""
        if not self.compiled:
            return {"run_eagerly": True} if self.run_eagerly else {}
        kept = ("optimizer", "exit_weights", "distillation", "gate_loss")
        kept += ("run_eagerly", "jit_compile", "steps_per_execution")
        return {**vars(self._given), **{name: getattr(self, name) for name in kept}}

    def _exit_weights(self):
        return [1.0] * self.num_exits if self.exit_weights is None else list(self.exit_weights)

    def _default_optimizer(self):
        return default_optimizer()

    def _watch(self, tensors):
        """Lets `call` keep, while training, what these inner tensors are, for the loss."""
        watched = _graph.ListModel(self.inputs, [*self.outputs, *tensors]) if tensors else None
        self._watched = watched and watched.call  # a method: its layers are this model's already
        self._seen = None

    def call(self, inputs, training=None, mask=None):
        if not training or self._watched is None:
            return super().call(inputs, training=training, mask=mask)
        outputs = self._watched(inputs, training=training, mask=mask)
        self._seen = tuple(outputs[self.num_exits :])
        return outputs[: self.num_exits]

    def get_compile_config(self):
        config = super().get_compile_config()
        if not config:
            return config
        if self.optimizer is not None and not self.optimizer.built:
            # loading builds it, and wants to find in the file as many variables as it then has
            self.optimizer.build(self.trainable_variables)
        del config["loss_weights"]
        kept = self.distillation
        if kept is not None and kept.teacher != "last":
            kept = None  # the teacher is a network of its own
        return {
            **config,
            "loss": config["loss"][0],
            "metrics": (config["metrics"] or [None])[0],
            "weighted_metrics": (config["weighted_metrics"] or [None])[0],
            "optimizer_is_given": self.optimizer_is_given,
            "exit_weights": self.exit_weights and list(self.exit_weights),
            "distillation": keras.saving.serialize_keras_object(kept),
            "gate_loss": keras.saving.serialize_keras_object(self.gate_loss),
        }

    def compile_from_config(self, config):
        config = keras.saving.deserialize_keras_object(config)
        if config.get("stopping_loss", self) is None:  # files of before StoppingModel hold it
            del config["stopping_loss"]
        is_given = config.pop("optimizer_is_given", True)
        try:
            self.compile(**config)
        except ValueError as error:  # files of before losses on probabilities were refused
            warnings.warn(f"Compiled with the usual loss and metrics: {error}", stacklevel=2)
            for name in ("loss", "metrics", "weighted_metrics"):
                config.pop(name, None)
            self.compile(**config)
        self.optimizer_is_given = is_given
        self.optimizer.build(self.trainable_variables)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        y, sample_weight = self._each(y, "y"), self._each(sample_weight, "sample_weight")
        loss = super().compute_loss(x, y, y_pred, sample_weight, training=training)
        if self.distillation is not None:
            teacher = self.distillation.teacher_logits(x, y_pred)
            loss = loss + self.distillation.loss(teacher, y_pred, self._exit_weights())
        seen, self._seen = self._seen, None
        if training and self._watched is not None and seen is None:
            raise ValueError(
                "`compute_loss` of a network whose gates learn must follow a call with "
                "`training=True`. Received: none since the last loss"
            )
        if training and self._loss_of_gates is not None:
            loss = loss + self._loss_of_gates(seen)
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        y, sample_weight = self._each(y, "y"), self._each(sample_weight, "sample_weight")
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def _each(self, value, name):
        return None if value is None else self.per_exit(value, f"`{name}`")

    def per_exit(self, value, name="`y`"):
        """Returns labels or weights as a list, one of each exit; one alone serves all.

        Args:
            value: Tensor or array; or a list of one per exit, or a dictionary of them by the
                exits' names.
            name: String, what an error calls it.

        Raises:
            ValueError: If the list or the dictionary does not fit the exits.
        """
        if isinstance(value, dict) and sorted(value) == sorted(self.output_names):
            return [value[name] for name in self.output_names]
        if isinstance(value, (list, tuple)) and len(value) == self.num_exits:
            return list(value)
        if isinstance(value, (list, tuple, dict)):
            found = sorted(value) if isinstance(value, dict) else f"a list of {len(value)}"
            raise ValueError(
                f"{name} must be one for all exits, a list of {self.num_exits}, or a dictionary "
                f"with the keys {self.output_names}. Received: {found}"
            )
        return [value] * self.num_exits

    def exit_metrics(self):
        """Returns the metrics of every exit as they stand: name to a list of values."""
        results = super().get_metrics_result()
        if self.num_exits == 1:
            return {name: [value] for name, value in results.items() if name != "loss"}
        first, prefix = self.output_names[0], len(self.output_names[0]) + 1
        names = [key[prefix:] for key in results if key.startswith(f"{first}_")]
        keys = {name: [f"{exit}_{name}" for exit in self.output_names] for name in names}
        return {
            name: [results[key] for key in each]
            for name, each in keys.items()
            if name != "loss" and all(key in results for key in each)
        }

    def get_metrics_result(self):
        summary = {"loss": super().get_metrics_result()["loss"]}
        for metric, values in self.exit_metrics().items():
            summary[f"first_{metric}"] = values[0]
            summary[f"mean_{metric}"] = sum(values) / len(values)
            summary[f"last_{metric}"] = values[-1]
            summary[metric] = values[-1]
        return summary

    def fit(self, *args, callbacks=None, **kwargs):
        """As in Keras; the history is in the order of `evaluate`."""
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.tree.flatten(callbacks or [])
            callbacks = [Directions(callbacks), *callbacks]
        if self._traces_twice(self.train_function) and self.optimizer is not None:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
            self._build_metrics(super().fit, *args, **kwargs)
        history = super().fit(*args, callbacks=callbacks, **kwargs)
        if history is not None and history.history:
            history.history = in_order(history.history, self)
        return history

    def _traces_twice(self, function):
        """Whether Keras would trace the next step twice: most of the time of a short training.

        TensorFlow may make variables only while it traces a function for the first time, so it
        traces once more without. Where the optimizer, the loss and the metrics have theirs
        before, it does not. Keras takes care of that on other backends and for several replicas.

        Args:
            function: `train_function` or `test_function`, `None` until it is traced.
        """
        return (
            keras.backend.backend() == "tensorflow"
            and self.compiled
            and not self.run_eagerly
            and function is None
            and self.distribute_strategy.num_replicas_in_sync == 1
        )

    def _build_metrics(self, method, *args, **kwargs):
        """Makes what the loss and the metrics keep, from the form of the labels.

        Args:
            method: `fit` or `evaluate`.
            *args, **kwargs: What it is called with.
        """
        given = inspect.signature(method).bind(*args, **kwargs).arguments
        y = _labels_like(given.get("x"), given.get("y"))
        shapes = [(1, *tensor.shape[1:]) for tensor in self.outputs]
        if y is None or any(None in shape for shape in shapes):
            return
        logits = [
            keras.ops.zeros(shape, tensor.dtype)
            for shape, tensor in zip(shapes, self.outputs, strict=True)
        ]
        with self.distribute_strategy.scope():
            # the loss alone: those that layers add are tensors of a graph, if there was one
            self._compile_loss(self.per_exit(y), logits)
            super().compute_metrics(None, self.per_exit(y), logits)
            self.reset_metrics()

    def evaluate(self, *args, return_dict=False, **kwargs):
        """As in Keras: the loss, then of each metric the first exit's, the mean, the last's.

        Returns:
            List of numbers: the loss, `first_accuracy`, `mean_accuracy`, `last_accuracy`,
            `accuracy`, and so on for other metrics. With `return_dict=True` a dictionary, in
            the same order.
        """
        if self._traces_twice(self.train_function or self.test_function):
            self._build_metrics(super().evaluate, *args, **kwargs)
        logs = super().evaluate(*args, return_dict=True, **kwargs)
        return self._in_order_of_metrics(logs, return_dict)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """As in Keras; what it returns is in the order of `evaluate`."""
        logs = super().train_on_batch(x, y, sample_weight, class_weight, return_dict=True)
        return self._in_order_of_metrics(logs, return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """As in Keras; what it returns is in the order of `evaluate`."""
        logs = super().test_on_batch(x, y, sample_weight, return_dict=True)
        return self._in_order_of_metrics(logs, return_dict)

    def _in_order_of_metrics(self, logs, return_dict):
        logs = in_order(logs, self)
        if return_dict:
            return logs
        return list(logs.values()) if len(logs) > 1 else next(iter(logs.values()))

    def save(self, filepath, overwrite=True, zipped=None, **kwargs):
        """As in Keras, in the format `.keras`; the file is replaced only by a whole one.

        Raises:
            ValueError: If the format is HDF5, which cannot hold these models.
        """
        if str(filepath).lower().endswith((".h5", ".hdf5")):
            raise ValueError(
                "`filepath` must end in `.keras`: models with several exits cannot be loaded from "
                f"HDF5; `save_weights` writes `.weights.h5`. Received: filepath={filepath}"
            )
        save = functools.partial(super().save, zipped=zipped, **kwargs)
        save_whole(save, filepath, overwrite, None if zipped is False else ".keras")

    def save_weights(self, filepath, overwrite=True, max_shard_size=None):
        """As in Keras; the file is replaced only by a whole one, unless there are several."""
        save = functools.partial(super().save_weights, max_shard_size=max_shard_size)
        save_whole(save, filepath, overwrite, ".weights.h5" if max_shard_size is None else None)

    def save_to_preset(self, preset_dir):
        """Writes the network as a folder that people can look into: config, weights, policy, card.

        `config.json` holds what `.keras` files hold (policy, class names and pixel rule too),
        `model.weights.h5` the weights, `README.md` a card to be completed. How the model was
        compiled is not kept; `save` keeps it.

        Args:
            preset_dir: Path of a new or empty folder, which appears when it is whole.

        Raises:
            ValueError: If there is something in the folder.
        """
        save_to_preset(self, preset_dir)

    @classmethod
    def from_preset(cls, preset, load_weights=True):
        """Returns the network of a folder that `save_to_preset` wrote, or one of the library's.

        Args:
            preset: Path of the folder, or the name of a network that comes with the library:
                `"cifar10_resnet9"`, `"cifar10"` or `"cifar10_tiny"`.
            load_weights: Boolean, `False` for the same network with fresh weights.

        Returns:
            The network, compiled as those of the builders are.

        Raises:
            ValueError: If there is no such folder or name, or it holds something else.

        Example:

        >>> model = AdaptiveModel.from_preset("cifar10_tiny")
        >>> model.num_exits, model.class_names[:2]
        (3, ['airplane', 'automobile'])
        >>> len(model.policy.thresholds)
        3
        """
        return from_preset(cls, preset, load_weights)

    def predict(self, x, **kwargs):
        """Returns the logits of every exit: a list of arrays `(samples, classes)`."""
        return super().predict(x, **kwargs)

    def exit_costs(self, unit="macs", lazy=True, exits=None, input_shape=None):
        """Returns the cost of leaving at each exit, earlier heads included.

        Args:
            unit: `"macs"`, `"reference_flops"`, `"params"`, `"energy"` or an `EnergyModel`;
                see `costs.exit_costs`.
            lazy: Boolean, whether only what an exit needs is computed before it.
            exits: Indices of the exits in use, ascending. `None`: all. The heads of
                others cost nothing.
            input_shape: Tuple of integers, the shape of one input, where sizes are open, as in
                `Input((None, None, 3))`; see `costs.exit_costs`.

        Returns:
            Float array `(exits,)`, for one sample; of a network with gates, the most that
            one can cost.
        """
        input_shape = _graph.in_order(self, input_shape)
        return costs.exit_costs(self.inputs, self._used(exits), unit, lazy, input_shape)

    def stages(self, exits=None):
        """Returns the network as a list of models to be called one after the other.

        The first one's input is the image; each one's outputs are `[logits, *features]`;
        the features are the inputs of the next. A stage holds only what its exit needs
        and no earlier exit has computed. Weights are shared with this model.

        Args:
            exits: Indices of the exits wanted, ascending. `None`: all. Stages whose
                exit is left out are merged into the next, without their head.
        """
        return _graph.stage_models(self.inputs, self._used(exits))

    def _used(self, exits):
        if exits is None:
            return self.outputs
        must = f"ascending indices below {self.num_exits}"
        found = list(integer_sequence("exits", exits, 0, must))
        if not found or sorted(set(found)) != found or found[-1] >= self.num_exits:
            raise ValueError(f"`exits` must be {must}. Received: exits={exits}")
        return [self.outputs[i] for i in found]

    def predict_with_costs(self, x, unit="macs", expected=False, **kwargs):
        """Computes the logits of every exit for every sample, and what leaving there costs.

        Without gates every sample costs the same. With gates, what they leave out costs
        nothing, and they themselves are counted.

        Args:
            x: Input, as for `predict`.
            unit: Unit of cost, as in `exit_costs`.
            expected: Boolean, of a network with gates. False: the cost of what the gates
                decided. True: the expected cost, by their probabilities.
            **kwargs: Passed to `predict`, for example `batch_size`.

        Returns:
            Tuple of two arrays: logits `(exits, samples, classes)` and costs
            `(exits, samples)`.
        """
        if kwargs.get("batch_size") is not None:
            integer("batch_size", kwargs["batch_size"], 1)
        gated = None if unit == "params" else gated_costs(self.inputs, self.outputs, unit)
        model = self
        if gated is not None:
            model = _graph.model_of(self.inputs, [*self.outputs, *gated.tensors])
        with Inputs(self, adapts=True).for_predict(x) as (x, seen):
            values = model.predict(x, **kwargs)
        logits = np.stack(values[: self.num_exits])
        if gated is None:
            return logits, self._costs_of(seen, logits.shape[1], unit)
        return logits, gated.per_sample(values[self.num_exits :], expected)

    def _costs_of(self, seen, samples, unit):
        """Returns costs `(exits, samples)` of batches; only open sizes let them differ.

        Args:
            seen: List of `(shapes, samples)` of every batch, maybe of some beyond the last.
            samples: Integer, how many there are.
            unit: Unit of cost.
        """
        shapes, counts = zip(*seen, strict=True)
        if not any(None in tensor.shape[1:] for tensor in self.inputs):
            shapes = (None,) * len(counts)
        known = {each: self.exit_costs(unit, input_shape=each) for each in set(shapes)}
        if len(known) == 1:
            counts, shapes = (samples,), shapes[:1]
        costs = np.stack([known[each] for each in shapes], axis=1)
        return np.repeat(costs, counts, axis=1)[:, :samples]

    def predict_gates(self, x, **kwargs):
        """Returns how much of every gated block is computed for each sample.

        Args:
            x: Input, as for `predict`.
            **kwargs: Passed to `predict`, for example `batch_size`.

        Returns:
            Float array `(blocks, samples)`, in the order of the network: 0 where a block is
            skipped, else the share of its channels that are open; 1 without channel gates.

        Raises:
            ValueError: If the network has no gates.
        """
        gated = gated_costs(self.inputs, self.outputs)
        if gated is None:
            raise ValueError("The network must have gates. Received: one without")
        with Inputs(self, adapts=True).for_predict(x) as (x, _):
            values = _graph.model_of(self.inputs, gated.tensors).predict(x, **kwargs)
        return gated.open_shares(values)

    def calibrate(self, x, y=None, *, batch_size=None, verbose="auto", unit="macs", **kwargs):
        """Chooses an exit policy on held-out data, and keeps it as `policy`.

        Runs the network on `x` and calls `keras_adaptive.calibrate`. Networks are
        overconfident on the images they were trained on, so use others. Arguments and labels
        are checked before the network runs.

        Args:
            x: Input, as for `predict`. A data set may hold the labels too, as for `fit`.
            y: Labels `(samples,)`, as `fit` takes them: integers or one-hot.
            batch_size: Of `predict`.
            verbose: Of `predict`.
            unit: Unit of cost, as in `exit_costs`.
            **kwargs: Passed to `keras_adaptive.calibrate`: `budget=` and others.

        Returns:
            An `ExitPolicy`, which says its unit and that it belongs to this network.
        """
        kwargs["unit"] = unit if isinstance(unit, str) else "energy"
        inspect.signature(calibrate).bind(x, y, None, **kwargs)
        arrays = Inputs(self, adapts=True).arrays(x)
        sizes = [n for tensor in (*self.inputs, *self.outputs) for n in tensor.shape[1:]]
        same = None
        if None not in sizes and gated_costs(self.inputs, self.outputs) is None:
            same = self.exit_costs(unit)
        check_how(**kwargs, costs=same, labels_given=y is not None or arrays is None)
        y = self._same_for_all(y)
        if arrays is not None and y is not None and None not in sizes:
            shape = (1, len(arrays[0]), *self.outputs[0].shape[1:])
            y = check_labels_of(y, shape)
        labels = []
        if arrays is None and y is None:
            x = self._without_labels(x, labels)
        logits, costs = self.predict_with_costs(x, unit, batch_size=batch_size, verbose=verbose)
        policy = calibrate(logits, np.concatenate(labels) if labels else y, costs, **kwargs)
        if policy.worst_case is not None:
            most = costs[-1].max() if None in sizes else self.exit_costs(unit)[-1]
            if policy.worst_case >= most:
                policy.worst_case = None  # no sample can cost more
        policy.network = self.network
        self.policy = policy
        return policy

    def _same_for_all(self, y):
        """Returns labels as one array where they are given for each exit, as `fit` takes them."""
        several = isinstance(y, (list, tuple)) and len(y) == self.num_exits
        if not isinstance(y, dict) and not (several and all(hasattr(z, "shape") for z in y)):
            return y
        first, *others = map(np.asarray, self.per_exit(y))
        if first.ndim == 0:  # a list of labels
            return y
        if not all(np.array_equal(first, other) for other in others):
            raise ValueError(
                "`y` must be the same for every exit, where one policy is chosen for all. "
                "Received: labels that differ from exit to exit"
            )
        return first

    def _without_labels(self, batches, labels):
        """Yields the inputs of a data set, and collects the labels beside them."""
        for batch in batches_of(batches):
            inside = isinstance(batch, (tuple, list))
            if inside and len(batch) > 1:
                found = np.asarray(self._same_for_all(batch[1]))
                if found.ndim:  # else the inputs are refused: they are of one sample too
                    labels.append(found)
            yield (batch[0] if inside else batch,)


def check_logits_of(model, logits):
    """Returns checked logits `(exits, samples, classes)` of a network's own exits and classes."""
    logits, classes = _checks.check_logits(logits), model.outputs[-1].shape[-1]
    if logits.ndim != 3 or len(logits) != model.num_exits or logits.shape[-1] != classes:
        raise ValueError(
            f"`logits` must be of shape ({model.num_exits}, samples, classes), of the network's "
            f"{classes} classes. Received: shape {logits.shape}"
        )
    return logits


def keeping(new, models, names=KEPT[1:]):
    """Returns a network with the class names and pixel rules on which those it is made of agree.

    Args:
        new: An `AdaptiveModel`.
        models: List of models of the same classes.
        names: Of `KEPT`, those that fit the inputs of the new one.
    """
    for name in names:
        each = [getattr(m, name) if isinstance(m, AdaptiveModel) else None for m in models]
        if all(one == each[0] for one in each):
            setattr(new, name, each[0])
    return new


def check_model(model):
    """Raises an error for another thing than an `AdaptiveModel`."""
    if not isinstance(model, AdaptiveModel):
        raise TypeError(f"`model` must be an AdaptiveModel. Received: model={model!r}")


def _plain(name, value):
    """Returns a dictionary as JSON keeps it, or `None`."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` must be a dictionary or None. Received: {name}={value!r}")
    return json.loads(json.dumps(value, default=lambda array: np.asarray(array).tolist()))


def _labels_like(x, y):
    """Returns zeros in the form of one sample's labels, or `None` where that is not known.

    Args:
        x, y: As `fit` takes them.
    """
    if y is None:
        spec = getattr(x, "element_spec", None)  # of a `tf.data.Dataset`
        if not isinstance(spec, tuple) or len(spec) < 2:
            return None
        y = spec[1]
    parts = keras.tree.flatten(y)
    known = all(getattr(part, "shape", None) is not None for part in parts)
    shapes = [tuple(part.shape) for part in parts] if known else []
    if not shapes or any(not shape or None in shape[1:] for shape in shapes):
        return None
    zeros = [
        keras.ops.zeros((1, *shape[1:]), keras.backend.standardize_dtype(part.dtype))
        for part, shape in zip(parts, shapes, strict=True)
    ]
    return keras.tree.pack_sequence_as(y, zeros)


def class_labels(y, classes):
    """Returns labels as integers `(batch,)`, from one-hot ones too."""
    y = keras.ops.convert_to_tensor(y)
    if len(y.shape) == 2 and y.shape[-1] == classes and classes > 1:
        return keras.ops.argmax(y, axis=-1)
    return keras.ops.cast(keras.ops.reshape(y, (-1,)), "int32")
