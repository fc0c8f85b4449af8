"""Training without graphs: to make them is most of what a short training costs."""

import keras


def eagerly(monkeypatch):
    """Has every model compiled with `run_eagerly=True`, unless the test says otherwise."""
    compile = keras.Model.compile

    def without_graph(model, *args, **how):
        return compile(model, *args, **{"run_eagerly": True, **how})

    monkeypatch.setattr(keras.Model, "compile", without_graph)
