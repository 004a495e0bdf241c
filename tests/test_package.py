"""What `utils` settles before anything else is imported, tried in processes of its own."""

import os
import signal
import subprocess
import sys

import pytest
from scenes import heed_signals

from utils import config


def python(code, *arguments, **environment):
    """Run code in a new process: exit code, stdout, stderr."""
    environment = os.environ | {"PYTHONPATH": str(config.ROOT)} | environment
    answer = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, env=environment
    )
    return answer.returncode, answer.stdout.decode().strip(), answer.stderr.decode()


def test_settings_of_other_projects_do_not_reach_keras(tmp_path):
    old = '{"backend": "theano", "image_data_format": "channels_first", "floatx": "float16"}'
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text(old)
    settings = "keras.config.backend(), keras.config.image_data_format(), keras.config.floatx()"
    code = f"import utils, keras; print({settings})"
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "KERAS_BACKEND": "torch"}
    assert python(code, **home)[1] == "tensorflow channels_last float32"


KERAS = """
import sys, types
config = types.SimpleNamespace(
    backend=lambda: "{backend}",
    set_image_data_format=lambda name: print(name),
    set_floatx=lambda name: print(name),
)
sys.modules["keras"] = types.SimpleNamespace(config=config)
import utils
"""


def test_a_keras_that_is_there_already_is_settled_or_refused():
    assert python(KERAS.format(backend="tensorflow"))[1].split() == ["channels_last", "float32"]
    code, _, message = python(KERAS.format(backend="jax"))
    assert code == 1 and "Keras runs on jax" in message and "remove KERAS_BACKEND" in message


def test_names_that_the_code_page_lacks_are_printed_all_the_same():
    code, printed, _ = python("import utils; print('日本 a')", PYTHONIOENCODING="cp1252")
    assert (code, printed) == (0, "?? a")


@pytest.mark.skipif(os.name == "nt", reason="Windows closes them by itself")
def test_closed_streams_do_not_end_a_command(tmp_path):
    file = tmp_path / "file"
    code = "import os, sys, utils; print(9); os.close(os.dup(2)); "
    code += f"open({str(file)!r}, 'w').write(str(sys.stderr.write('')))"
    command = f'{sys.executable} -c "{code}" <&- >&- 2>&-'
    environment = os.environ | {"PYTHONPATH": str(config.ROOT)}
    assert subprocess.run(command, shell=True, env=environment).returncode == 0
    assert file.read_text() == "0"


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no signal to a single process")
def test_ctrl_c_is_answered_with_a_word():
    code = "import utils, time; print('ready', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code]
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": heed_signals}
    with subprocess.Popen(command, text=True, cwd=config.ROOT, **settings) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "interrupted\n"
    assert process.returncode == 130
    code, _, message = python("import utils; print(1 / 0)")
    assert code == 1 and "ZeroDivisionError" in message


LOOP = """
import sys
from commands.run import main
code = main(["--no-display", "--detector", "haar", "--output", sys.argv[1]])
heavy = "tensorflow keras matplotlib pandas scipy sklearn skimage IPython jupyterlab"
print("there:", code, *(name for name in heavy.split() if name in sys.modules))
"""


def test_the_loop_labels_a_clip_without_the_packages_of_training(tmp_path):
    video = tmp_path / "clip.webm"
    code, printed, message = python(LOOP, video)
    assert code == 0, message
    assert printed.splitlines()[-1] == "there: 0"
    assert "60 frames" in printed and "a face in 60" in printed and video.stat().st_size > 100_000
