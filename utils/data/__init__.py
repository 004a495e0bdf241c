"""From raw data to batches; what notebooks and commands use stands here, without TensorFlow."""

from utils.data.fer import prepare_fer
from utils.data.ferplus import agreed, load_votes
from utils.data.own import prepare_own
from utils.data.prepared import (
    audit,
    copies_of_training,
    fingerprint,
    likeness_to_training,
    load_prepared,
    load_split,
    rows_of,
)
from utils.data.utk import parse_name, prepare_utk
from utils.preprocessing import (
    EMOTIONS,
    FIVE_EMOTIONS,
    GENDERS,
    crop_face,
    face_input_for,
    prepare_face,
)
