"""From raw data to batches; what notebooks and commands use stands here, without TensorFlow."""

from utils.data.fer import prepare_fer as prepare_fer
from utils.data.ferplus import agreed as agreed
from utils.data.ferplus import load_votes as load_votes
from utils.data.own import prepare_own as prepare_own
from utils.data.prepared import audit as audit
from utils.data.prepared import copies_of_training as copies_of_training
from utils.data.prepared import fingerprint as fingerprint
from utils.data.prepared import likeness_to_training as likeness_to_training
from utils.data.prepared import load_prepared as load_prepared
from utils.data.prepared import load_split as load_split
from utils.data.prepared import rows_of as rows_of
from utils.data.utk import parse_name as parse_name
from utils.data.utk import prepare_utk as prepare_utk
from utils.preprocessing import EMOTIONS as EMOTIONS
from utils.preprocessing import FIVE_EMOTIONS as FIVE_EMOTIONS
from utils.preprocessing import GENDERS as GENDERS
from utils.preprocessing import crop_face as crop_face
from utils.preprocessing import face_input_for as face_input_for
from utils.preprocessing import prepare_face as prepare_face
