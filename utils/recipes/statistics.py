"""Batch normalisation's statistics, measured anew at the end of a training."""

import keras


class RenewStatistics(keras.callbacks.Callback):
    """Measures anew, after the last epoch, what batch normalisation takes for mean and variance.

    In training these are moving averages over changed images, and over weights that go on
    changing; those of images that are flipped at most fit better what the network will see.

    Parameters
    ----------
    batches : utils.data.batches.Batches
        Of the training split.
    """

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def on_train_end(self, logs=None):
        """Replace means and variances by averages over all batches, without dropout."""
        layers = [x for x in self.model.layers if isinstance(x, keras.layers.BatchNormalization)]
        dropouts = [x for x in self.model.layers if isinstance(x, keras.layers.Dropout)]
        momenta, rates = [x.momentum for x in layers], [x.rate for x in dropouts]
        for dropout in dropouts:
            dropout.rate = 0
        for number, (images, _) in enumerate(self.batches.dataset()):
            for layer in layers:
                layer.momentum = number / (number + 1)  # makes the moving average a plain one
            self.model(images, training=True)
        for layer, momentum in zip(layers, momenta):
            layer.momentum = momentum
        for dropout, rate in zip(dropouts, rates):
            dropout.rate = rate
