"""From a camera, a video or pictures to labelled faces."""
