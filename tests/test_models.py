import keras
import numpy as np
import pytest

from utils import config
from utils.models import BUILDERS, count_parameters

TRIAL_2 = {"dense_units": [512, 256, 64]}
TRIAL_3 = {"dense_units": [256, 128, 64], "dense_dropout": [0.3, 0.3, 0.2]}
GREY, RGB, LARGE = (48, 48, 1), (48, 48, 3), (224, 224, 3)


@pytest.mark.parametrize(
    "name, input_shape, num_classes, arguments, trainable, non_trainable",
    [
        ("six_conv", GREY, 7, {}, 2_785_863, 1_152),
        ("six_conv", RGB, 2, {}, 2_788_418, 1_152),
        ("final", GREY, 7, {}, 19_663_239, 3_968),
        # A normalisation layer has as many trained numbers as others.
        ("final", GREY, 7, {"batch_normalization": False}, 19_663_239 - 3_968, 0),
        ("final", RGB, 2, TRIAL_2, 9_715_202, 2_048),
        ("final", RGB, 2, TRIAL_3, 4_888_962, 1_280),
        ("mobilenet", LARGE, 7, {"weights": None}, 2_401_799, 834_240),
        ("mobilenet", LARGE, 2, {"weights": None}, 2_396_674, 834_240),
    ],
)
def test_parameter_counts_of_the_report(
    name, input_shape, num_classes, arguments, trainable, non_trainable
):
    model = BUILDERS[name](input_shape, num_classes, **arguments)
    assert count_parameters(model) == (trainable, non_trainable)


def test_five_conv_has_five_convolutions_and_the_counted_parameters():
    model = BUILDERS["five_conv"](GREY, 5)
    assert sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers) == 5
    convolutions = (25 + 1) * 64 + (25 * 64 + 1) * 64 + (9 * 64 + 1) * 128 + (9 * 128 + 1) * 128
    convolutions += (9 * 128 + 1) * 256
    dense = (6 * 6 * 256 + 1) * 128 + (128 + 1) * 5
    norms = 64 + 128 + 256 + 128
    assert count_parameters(model) == (convolutions + dense + 2 * norms, 2 * norms)


def test_vgg_has_its_convolutions_between_poolings_and_the_counted_parameters():
    model = BUILDERS["vgg"](GREY, 7, widths=[4, 8], convolutions=[1, 2])
    kinds = (keras.layers.Conv2D, keras.layers.MaxPooling2D)
    order = [type(layer).__name__ for layer in model.layers if isinstance(layer, kinds)]
    assert order == ["Conv2D", "MaxPooling2D", "Conv2D", "Conv2D", "MaxPooling2D"]
    convolutions, norms = 9 * 4 + 9 * 4 * 8 + 9 * 8 * 8, 4 + 8 + 8
    assert count_parameters(model) == (convolutions + 2 * norms + (8 + 1) * 7, 2 * norms)
    with pytest.raises(ValueError, match="widths has 2 entries and convolutions 3"):
        BUILDERS["vgg"](GREY, 7, widths=[4, 8])


def test_compact_is_compact():
    assert sum(count_parameters(BUILDERS["compact"](GREY, 7))) <= 1_500_000


@pytest.mark.parametrize("name", BUILDERS)
def test_every_builder_gives_probabilities_and_is_uncompiled(name):
    arguments = {"weights": None} if name == "mobilenet" else {}
    model = BUILDERS[name](RGB, 4, **arguments)
    images = np.random.default_rng(0).integers(0, 256, (3, *RGB)).astype(np.float32)
    probabilities = model(images).numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert probabilities.shape == (3, 4) and not model.compiled


@pytest.fixture
def source_of_weights():
    keras.utils.set_random_seed(7)
    return keras.applications.MobileNet(include_top=False, pooling="avg", weights=None)


def check_weights(model, source):
    for layer in (layer for layer in source.layers if layer.weights):
        for expected, got in zip(layer.get_weights(), model.get_layer(layer.name).get_weights()):
            same = np.array_equal(expected, got)
            assert same == (layer.name != "conv_pw_13"), layer.name


def test_mobilenet_reads_a_file_of_imagenet_weights(source_of_weights, workspace, capsys):
    arrays = {
        # Older Keras called a depthwise kernel depthwise_kernel.
        f"{layer.name}__{'depthwise_' * ('conv_dw' in layer.name)}{weight.name}": weight.numpy()
        for layer in source_of_weights.layers
        for weight in layer.weights
        if layer.name != "conv_pw_13"
    }
    np.savez(config.imagenet_path(), **arrays)
    keras.utils.set_random_seed(1)
    # What is not in the file starts at random, wanted or not.
    check_weights(BUILDERS["mobilenet"](RGB, 7, random_layers=["conv_pw_13"]), source_of_weights)
    assert capsys.readouterr().out == ""
    check_weights(BUILDERS["mobilenet"](RGB, 7), source_of_weights)
    assert "no weights for conv_pw_13: they start at random" in capsys.readouterr().out


def test_mobilenet_takes_downloaded_weights(source_of_weights, workspace, monkeypatch):
    build = keras.applications.MobileNet

    def downloaded(**arguments):
        return source_of_weights if arguments["weights"] == "imagenet" else build(**arguments)

    monkeypatch.setattr(keras.applications, "MobileNet", downloaded)
    keras.utils.set_random_seed(1)
    model = BUILDERS["mobilenet"](RGB, 7, random_layers=["conv_pw_13"])
    check_weights(model, source_of_weights)


@pytest.mark.parametrize(
    "arguments", [{"weights": "Imagenet"}, {"random_layers": ("conv_pw_33",), "weights": None}]
)
def test_mobilenet_refuses_what_it_does_not_know(arguments):
    with pytest.raises(ValueError, match="Imagenet|conv_pw_33"):
        BUILDERS["mobilenet"](LARGE, 7, **arguments)


def test_mobilenet_without_network_says_what_to_do(workspace, monkeypatch):
    build = keras.applications.MobileNet

    def no_network(**arguments):
        if arguments["weights"] is None:
            return build(**arguments)
        raise Exception("URL fetch failure on https://example.org: None -- unreachable")

    monkeypatch.setattr(keras.applications, "MobileNet", no_network)
    with pytest.raises(ConnectionError, match="weights=None"):
        BUILDERS["mobilenet"](LARGE, 7)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("final", {}, (0, 1)),
        ("six_conv", {}, (0, 1)),
        ("compact", {}, (0, 1)),
        ("mobilenet", {"weights": None}, (-1, 1)),
        ("mobilenet", {"weights": None, "scaled_to": [0, 1]}, (0, 1)),
    ],
)
def test_scaling_is_inside_the_models(name, arguments, expected):
    model = BUILDERS[name](RGB, 7, **arguments)
    rescaling = next(x for x in model.layers if isinstance(x, keras.layers.Rescaling))
    black_and_white = rescaling(np.array([[0.0], [255.0]], dtype=np.float32)).numpy()
    np.testing.assert_allclose(black_and_white.ravel(), expected, atol=1e-6)


def test_light_and_contrast_hardly_matter_to_the_compact_network():
    keras.utils.set_random_seed(0)
    model = BUILDERS["compact"](GREY, 7, widths=[8, 16])
    images = np.random.default_rng(0).integers(40, 120, (3, *GREY)).astype(np.float32)
    brighter = 1.5 * images + 30
    np.testing.assert_allclose(model(images).numpy(), model(brighter).numpy(), atol=0.01)


def test_parts_of_the_compact_network_can_be_left_out():
    def kinds(**arguments):
        model = BUILDERS["compact"](GREY, 7, widths=[8, 16], **arguments)
        return [type(layer).__name__ for layer in model.layers]

    assert "Add" in kinds() and "Add" not in kinds(residual=False)
    assert "Multiply" in kinds() and "Multiply" not in kinds(squeeze=False)
    assert "LayerNormalization" in kinds()
    assert "LayerNormalization" not in kinds(normalize_images=False)


def test_anti_aliasing_hides_what_is_too_fine_for_half_the_pixels():
    rows, columns = np.indices((48, 48))
    grey = np.full((1, *GREY), 100, np.float32)
    board = grey + 50 * (-1.0) ** (rows + columns)[None, ..., None]

    def difference(**arguments):
        model = BUILDERS["compact"](GREY, 7, [8, 16], normalize_images=False, **arguments)
        halving = next(x for x in model.layers if isinstance(x, keras.layers.Conv2D))
        halved = keras.Model(model.input, halving.output)
        at_the_edge = 2  # there, a mean of two has one pixel
        inside = np.s_[:, :-at_the_edge, :-at_the_edge]
        return np.abs(halved(grey).numpy() - halved(board).numpy())[inside].max(), model

    (plain, aliased), (blurred, smooth) = difference(), difference(anti_aliased=True)
    assert plain > 0.01 and blurred < 1e-5
    assert count_parameters(aliased) == count_parameters(smooth)
    assert sum(isinstance(x, keras.layers.AveragePooling2D) for x in smooth.layers) == 2 * 2


def test_early_dropout_stands_before_the_first_pooling_or_is_not_there():
    def kinds(**arguments):
        model = BUILDERS["final"](GREY, 7, (8,), (0.5,), **arguments)
        return [type(layer).__name__ for layer in model.layers]

    first = ["InputLayer", "Rescaling", "Conv2D", "Conv2D"]
    rest = kinds()[4:]
    assert rest[:2] == ["BatchNormalization", "MaxPooling2D"] and rest.count("Dropout") == 2
    assert kinds(early_dropout=0.2) == [*first, "Dropout", *rest]


def test_a_stem_adds_its_convolution_only():
    def count(**arguments):
        return sum(count_parameters(BUILDERS["compact"](GREY, 7, widths=[8], **arguments)))

    convolution, batch_normalization = 3 * 3 * 1 * 4, 4 * 4
    wider_input_of_the_next = 3 * 3 * (4 - 1) * 8
    added = convolution + batch_normalization + wider_input_of_the_next
    assert count(stem_width=4) - count() == added
    model = BUILDERS["compact"](GREY, 7, widths=[8], stem_width=4)
    stem, halves = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)][:2]
    assert stem.output.shape == (None, 48, 48, 4) and halves.output.shape == (None, 24, 24, 8)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="2 entries and dense_dropout 3"):
        BUILDERS["final"](GREY, 7, dense_units=(8, 8))
