"""Files are written whole or not at all, and one that cannot be written costs no other."""

import errno
import json
from pathlib import Path

import pytest

import lrjax
from lrjax.__main__ import main
from lrjax.training.files import write_file
from tests.test_commands import TASK


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def task(place):
    (place / "task.py").write_text(TASK)
    return "task.py"


def test_a_file_that_cannot_be_written_keeps_no_other_from_being_written(task, place, capsys, monkeypatch):
    write, full = Path.write_bytes, OSError(errno.ENOSPC, "No space left on device")

    def writing(path, content):
        write(path, content[:10])
        if path.name.startswith("page.html"):
            raise full
        write(path, content)

    monkeypatch.setattr(Path, "write_bytes", writing)
    (place / "page.html").write_text("the page of yesterday")
    outputs = ["--out", "page.html", "--json", "numbers.json", "--save", "run.pickle"]
    with pytest.raises(SystemExit) as ended:
        main(["train", task, "--steps", "20", *outputs])
    errors = capsys.readouterr().err
    assert ended.value.code == 2
    assert "could not write 'page.html': No space left on device." in errors
    assert json.loads((place / "numbers.json").read_text()) and lrjax.Run.load(place / "run.pickle").losses.size == 20
    assert (place / "page.html").read_text() == "the page of yesterday"
    assert sorted(path.name for path in place.iterdir() if "part" in path.name) == []


def test_what_is_no_regular_file_is_written_as_it_is(place):
    (place / "target").write_text("x")
    (place / "link").symlink_to("target")
    write_file("link", b"new")
    write_file("/dev/null", b"gone")
    assert (place / "link").is_symlink() and (place / "target").read_text() == "new"
    assert Path("/dev/null").is_char_device()
