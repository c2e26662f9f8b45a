"""Persona files: the short form and the full one, bad ones named."""

import base64
import json
from pathlib import Path

import pytest

from protocol.rows import GenOpt, Persona
from server.persona_files import PersonaFile, file_for, files_in, read_one, write_file

PNG = b"\x89PNG\r\n\x1a\nabc"


def test_the_short_form_is_read(tmp_path: Path) -> None:
    content = {
        "id": "p1",
        "name": "小红",
        "prompt": "你是小红。",
        "avatar": base64.b64encode(PNG).decode(),
        "create_time": "2023-01-01",
    }
    (tmp_path / "p1.json").write_text(json.dumps(content))
    (read,) = map(read_one, files_in(tmp_path))
    assert read.persona is not None
    row = read.persona.row()
    assert (row.name, row.prompt, row.opt) == ("小红", "你是小红。", None)
    assert read.persona.picture() == PNG
    assert read.persona.created_ms() == 1_672_531_200_000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[]", "Expected `object`"),
        ('{"id": "a"}', "missing required field `name`"),
        ('{"id": "../a", "name": "a"}', "Expected `str` matching regex"),
        ('{"id": "a", "name": "\\u200b"}', "empty name"),
        ('{"id": "a", "name": "a", "temperature": 9}', "Expected `float` <= 2"),
        ('{"id": "a", "name": "a", "avatar": "!!"}', "avatar: not a picture in base64"),
        ('{"id": "a", "name": "a", "create_time": "soon"}', "create_time: expected a date"),
        ('{"id": "a", "name": "a", "promt": "x"}', "unknown field `promt`"),
    ],
)
def test_a_bad_file_is_named_and_the_others_are_read(
    tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "a.json").write_text(content)
    (tmp_path / "b.json").write_text('{"id": "b", "name": "B"}')
    bad, good = map(read_one, files_in(tmp_path))
    assert bad.persona is None
    assert said in bad.problem
    assert good.persona is not None


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    row = Persona(
        id=5,
        name="Captain",
        prompt="You command.",
        greeting="Aye?",
        tags=["sea"],
        opt=GenOpt(model="m", temperature=0.4, max_tokens=100),
        created=1_700_000_000_123,
    )
    path = write_file(tmp_path, file_for(row, "file:captain", PNG))
    assert path.name == "captain.json"
    (read,) = map(read_one, files_in(tmp_path))
    assert read.persona is not None
    again = read.persona.row()
    assert (again.name, again.prompt, again.greeting, again.tags) == (
        row.name,
        row.prompt,
        row.greeting,
        row.tags,
    )
    assert again.opt == row.opt
    assert (read.persona.picture(), read.persona.created_ms()) == (PNG, row.created)


def test_names_of_files_stay_within_the_folder(tmp_path: Path) -> None:
    path = write_file(tmp_path, PersonaFile(id="..", name="a"))
    assert path.parent == tmp_path
    assert not path.name.startswith(".")


def test_a_data_url_is_a_picture_too() -> None:
    text = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert PersonaFile(id="a", name="a", avatar=text).picture() == PNG
