import keras
import numpy as np
import pytest
from keras import layers

from utils.explain import grad_cam
from utils.models import BUILDERS


@pytest.fixture
def bright_spot_model():
    """Class 1 for what is bright on average, class 0 for the opposite; no training needed."""
    inputs = keras.Input((12, 12, 1))
    x = layers.Conv2D(1, 1, kernel_initializer="ones")(inputs)
    x = layers.AveragePooling2D(2)(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(2, kernel_initializer=keras.initializers.Constant([[-1.0, 1.0]]))(x)
    return keras.Model(inputs, layers.Activation("softmax", name="probabilities")(x))


def test_the_bright_corner_speaks_for_bright(bright_spot_model):
    image = np.zeros((12, 12, 1), np.uint8)
    image[:4, :4] = 200
    heat = grad_cam(bright_spot_model, image)
    assert heat.shape == (12, 12) and heat.max() == pytest.approx(1)
    assert heat[:3, :3].min() > 0.9 and heat[8:, 8:].max() < 0.01
    against = grad_cam(bright_spot_model, image, class_index=0)
    assert against.max() == 0, "nothing speaks for dark"


def test_a_network_without_a_softmax_layer_is_refused():
    inputs = keras.Input((12, 12, 1))
    x = layers.Flatten()(layers.Conv2D(2, 3)(inputs))
    with pytest.raises(ValueError, match="ends in a Dense, expected a softmax as a layer"):
        grad_cam(keras.Model(inputs, layers.Dense(2, "softmax")(x)), np.zeros((12, 12, 1)))


@pytest.mark.parametrize("name", ["compact", "final"])
def test_every_place_of_our_networks_has_a_heat(name):
    keras.utils.set_random_seed(0)
    model = BUILDERS[name]((48, 48, 1), 7)
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 1)).astype(np.uint8)
    heats = [grad_cam(model, image, index) for index in range(7)]
    assert all(heat.shape == (48, 48) and 0 <= heat.min() <= heat.max() <= 1 for heat in heats)
    assert any(heat.max() == pytest.approx(1) for heat in heats)
