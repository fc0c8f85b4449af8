import digits_network
import numpy as np
import pytest


def accuracies(model, digits):
    x, y = digits.arrays("test")
    return np.mean(np.stack(model.predict(x, verbose=0)).argmax(axis=-1) == y, axis=1)


def test_the_weights_in_tests_data_are_of_a_network_that_knows_the_digits(trained, digits):
    assert (accuracies(trained, digits) > 0.95).all()


@pytest.mark.slow
def test_training_again_gives_as_good_a_network(trained, digits):
    again = accuracies(digits_network.train(digits), digits)
    np.testing.assert_allclose(again, accuracies(trained, digits), atol=0.03)
