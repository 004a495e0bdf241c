"""Pictures of your own become a data set, as FER-2013 and UTKFace are: counted and split.

python tasks.py prepare FOLDER
python tasks.py prepare FOLDER --name masks --cut
"""

import argparse
import sys

import cv2

from commands.texts import path_of
from utils.data.own import prepare_own
from utils.realtime.detection import open_detector


def main(arguments=None):
    """Prepare a folder from the command line."""
    parser = argparse.ArgumentParser(
        prog="python tasks.py prepare",
        description="Makes a data set of your own pictures: FOLDER holds a folder for each class. "
        "Your pictures are only read.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=path_of)
    parser.add_argument("--name", default="mine", help="of the data set; default: mine")
    parser.add_argument(
        "--cut", action="store_true", help="cut out the face in each picture, as the loop does"
    )
    options = parser.parse_args(arguments)
    try:
        detector = open_detector("yunet") if options.cut else None
        prepared = prepare_own(options.folder.resolve(), options.name, detector)
    except (ValueError, OSError, cv2.error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    used, left_out = len(prepared.labels), prepared.left_out
    print(f"{prepared.found:,} files found, {used:,} used, {len(left_out):,} left out")
    for reason, count in left_out["reason"].value_counts().items():
        print(f"  {count:,}: {reason}")
    if len(left_out):
        print(f"  which: {prepared.folder / 'left_out.csv'}")
    for note in prepared.notes:
        print(note)
    print(prepared.counts.to_string())
    print(f'{prepared.folder}: load_batches("{options.name}", "train", face_input) reads it')
    return 0


if __name__ == "__main__":
    sys.exit(main())
