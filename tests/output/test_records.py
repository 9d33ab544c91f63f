"""Records of a run: whole or not there, found when damaged, and nothing else is touched."""

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prox24_export.errors import InputError
from prox24_export.output import records as records_module
from prox24_export.output.records import Records, find_journal
from prox24_export.passes.refine.state import RefineProgress


def put(records: Records, key: str, text: str) -> Path:
    records.put(key, "json", lambda file: file.write_text(text, "utf-8"))
    found = records.find(key)
    assert found is not None
    return found


def test_a_record_is_found_again_and_a_later_one_takes_its_place(tmp_path: Path) -> None:
    records = Records(tmp_path / "out.journal")
    assert records.find("one") is None
    assert records.list_files() == []
    assert put(records, "one", "a").read_text("utf-8") == "a"
    assert put(records, "one", "b").read_text("utf-8") == "b"
    put(records, "one-more", "c")
    assert [file.name.split(".")[0] for file in records.list_files()] == ["one-more", "one"]


def test_a_record_goes_to_the_disk_at_once_and_then_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, synced = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(records_module, "sync", lambda path: synced.append(path.name))
    records = Records(tmp_path / "out.journal")
    for number in range(4):
        put(records, f"layer-{number}", str(number))
        now[0] += 0.6
    folder = tmp_path.name, "out.journal"  # its name, and then the record and its name
    assert synced == [folder[0], "layer-0.partial", folder[1], "layer-2.partial", folder[1]]


def test_many_records_are_found_with_one_look_at_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(tmp_path / "out.journal")
    looks: list[Path] = []
    iterate = Path.iterdir

    def look(folder: Path) -> Iterator[Path]:
        looks.append(folder)
        return iterate(folder)

    monkeypatch.setattr(Path, "iterdir", look)
    for number in range(20):
        records.put(f"layer-{number}", "json", lambda file: file.write_text("{}", "utf-8"))
    found = Records(records.folder).find_each([f"layer-{number}" for number in range(30)])
    assert set(found) == {f"layer-{number}" for number in range(20)}
    assert len(looks) == 2  # the run's, before its first record, and the one that goes on


def test_a_damaged_record_is_not_found(tmp_path: Path) -> None:
    records = Records(tmp_path / "out.journal")
    for damage in (b"", b"{", b"[]", b"{}\0"):
        file = put(records, "one", "{}")
        file.write_bytes(damage)
        assert records.find("one") is None


def test_of_two_records_of_a_key_the_newest_whole_one_counts(tmp_path: Path) -> None:
    records = Records(tmp_path / "out.journal")
    older = put(records, "one", "a")
    content = older.read_bytes()
    newer = put(records, "one", "b")
    older.write_bytes(content)  # as after a kill between the two steps that replace it
    os.utime(older, ns=(0, 0))
    assert records.find("one") == newer
    newer.write_bytes(b"c")
    assert records.find("one") == older


def test_a_record_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    records = Records(tmp_path / "out.journal")
    file = put(records, "one", "a")

    def fail(partial: Path) -> None:
        partial.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        records.put("one", "json", fail)
    assert records.list_files() == [file]


def test_the_progress_of_a_refinement_that_is_cut_off_while_it_is_written_leaves_nothing_strange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def cut(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        seen.extend(file.name for file in records.list_files())  # which a process that is killed now would leave
        raise OSError(errno.ENOSPC, "No space left on device")

    records = Records(tmp_path / "out.journal")
    monkeypatch.setattr("torch.save", cut)
    with pytest.raises(OSError, match="No space left"):
        records.put("refinement-0", "pt", RefineProgress().save)
    assert seen == ["refinement-0.partial"]
    records.remove()
    assert not records.folder.exists()


def test_what_a_killed_run_was_writing_belongs_to_it(tmp_path: Path) -> None:
    records = Records(tmp_path / "out.journal")
    put(records, "one", "a")
    (records.folder / "one.partial").write_bytes(b"half")
    records.remove()
    assert list(tmp_path.iterdir()) == []
    records.remove()  # nothing is there, and nothing is wrong


@pytest.mark.parametrize("name", ["notes.txt", "ONE.json", "one.json", f"one.{'0' * 64}"])
def test_a_folder_with_anything_else_in_it_is_refused_and_stays(name: str, tmp_path: Path) -> None:
    records = Records(tmp_path / "out.journal")
    put(records, "one", "a")
    (records.folder / name).write_bytes(b"mine")
    for use in (records.list_files, records.remove):
        with pytest.raises(InputError, match=r"is no record of a run\. Move it away"):
            use()
    assert len(list(records.folder.iterdir())) == 2


def test_links_are_refused_since_a_record_would_be_written_through_them(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out.journal").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is no journal of this program"):
        Records(tmp_path / "out.journal").list_files()
    records = Records(tmp_path / "elsewhere")
    (records.folder / "one.partial").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="is no record of a run"):
        records.list_files()


def test_the_journal_lies_beside_the_folder_that_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "run")
    assert find_journal(tmp_path / "out") == tmp_path / "disk" / "run.journal"
