"""From a picture to what a network takes, and the classes it knows: in training and in realtime.

The loop needs no more of the data sets than this: it imports neither pandas nor TensorFlow.
"""

from dataclasses import dataclass, replace

import cv2

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FIVE_EMOTIONS = ("angry", "happy", "sad", "surprise", "neutral")
GENDERS = ("female", "male")  # sorted, as class folders are; index 0 is female
YEARS = tuple(range(101))  # classes of an output for age; who is older counts as 100
CLASSES = {"fer2013": EMOTIONS, "utkface": GENDERS}

# Measured on validation images against the one Haar box found in them: see data/README.md.
CROPS = {
    "fer2013": {"crop_scale": 1.03, "crop_shift_down": 0.0, "detail": 48},
    "utkface": {"crop_scale": 0.97, "crop_shift_down": 0.09, "detail": 200},
}


@dataclass(frozen=True)
class FaceInput:
    """What a network wants to see; it is saved beside the weights.

    Pixels stay in 0..255: every network of this project scales them in its first layer, so that
    nobody can feed the wrong range.

    Parameters
    ----------
    height, width : int
        Input size in pixels.
    colour : {"grey", "rgb", "grey_as_rgb"}
        The last has the grey picture in all three channels.
    crop_scale : float
        Side of the training crops in units of the Haar box around the same face.
    crop_shift_down : float
        How far below the centre of the Haar box the crops are centred, in units of their side.
    detail : int
        Side in pixels of the pictures of the data set. Faces are brought to this size before they
        are enlarged to the input, so that no network sees more detail than it learned from.
    """

    height: int
    width: int
    colour: str
    crop_scale: float = 1.0
    crop_shift_down: float = 0.0
    detail: int = 0

    def __post_init__(self):
        if self.colour not in ("grey", "rgb", "grey_as_rgb"):
            raise ValueError(f"colour is {self.colour!r}, expected 'grey', 'rgb' or 'grey_as_rgb'")

    @property
    def shape(self):
        """Shape of one input: (height, width, channels)."""
        return (self.height, self.width, 1 if self.colour == "grey" else 3)

    @property
    def stored(self):
        """The same at the size in which images are kept in memory: no larger than `detail`."""
        limit = self.detail or max(self.height, self.width)
        return replace(self, height=min(self.height, limit), width=min(self.width, limit))


def face_input_for(dataset, height, width, colour):
    """The `FaceInput` of a network trained on `dataset`: colour, crop and detail are its own.

    Pictures of one's own are cut as those of FER-2013, and may have any detail.
    """
    if dataset == "fer2013" and colour == "rgb":
        colour = "grey_as_rgb"
    crop = CROPS.get(dataset) or CROPS["fer2013"] | {"detail": 0}
    return FaceInput(height, width, colour, **crop)


def crop_face(image, box, face_input):
    """Cut the square around a detected face that looks like the training crops.

    What lies outside the picture repeats its border, so a face at the border keeps its place.

    Parameters
    ----------
    image : numpy.ndarray, uint8, (height, width, 3) BGR
    box : tuple of int
        Left, top, width, height of the Haar box in pixels; it may reach over the border.
    face_input : FaceInput

    Returns
    -------
    numpy.ndarray, uint8, (side, side, 3) BGR

    Raises
    ------
    ValueError
        If there is no picture.
    """
    if image is None:  # OpenCV ends the process
        raise ValueError(
            "there is no picture to cut a face from: image is None, which OpenCV gives where it "
            "could read nothing. Look at the file's name, or stop after a film's last frame"
        )
    left, top, width, height = box
    side = max(1, round(max(width, height) * face_input.crop_scale))
    centre_x = left + width / 2
    centre_y = top + height / 2 + side * face_input.crop_shift_down
    left, top = round(centre_x - side / 2), round(centre_y - side / 2)
    # Whole pixels, so nothing is interpolated; beyond the border, its pixels are repeated.
    return cv2.getRectSubPix(image, (side, side), (left + (side - 1) / 2, top + (side - 1) / 2))


def prepare_face(face, face_input):
    """Bring a face to the size and colour of a network's input.

    Parameters
    ----------
    face : numpy.ndarray, uint8, (height, width, 3) BGR or (height, width) grey
    face_input : FaceInput

    Returns
    -------
    numpy.ndarray, uint8, 0..255, `face_input.shape`
        Grey or RGB.
    """
    is_grey = face.ndim == 2
    if face_input.colour == "rgb":
        face = cv2.cvtColor(face, cv2.COLOR_GRAY2RGB if is_grey else cv2.COLOR_BGR2RGB)
    elif not is_grey:
        face = cv2.cvtColor(face, cv2.COLOR_BGR2GRAY)
    for each in (face_input.stored, face_input):
        face = _resize(face, (each.width, each.height))
    if face_input.colour == "grey_as_rgb":
        face = cv2.cvtColor(face, cv2.COLOR_GRAY2RGB)
    return face.reshape(face_input.shape)


def average_mirrored(answer, images):
    """The mean answer to faces and to their mirror images, which changes less when a box moves.

    Parameters
    ----------
    answer : callable
        From images to an array, (n, num_outputs).
    images : numpy.ndarray, (n, height, width, channels)
    """
    return (answer(images) + answer(images[:, :, ::-1])) / 2


def rescale(image, scale):
    """Bring a picture, uint8, to another size: reduced by averaging areas, or enlarged."""
    return _resize(image, tuple(max(1, round(side * scale)) for side in image.shape[1::-1]))


def _resize(picture, size):
    if picture.shape[1::-1] == size:
        return picture
    # Averaging over areas avoids aliasing where pictures shrink; enlarging needs interpolation.
    shrinks = picture.shape[0] > size[1]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
