"""Every set of the catalogue is described, and read by what its entry says."""

import pytest

from dmf.data.catalogue import entries, reader_of, subjects_of
from dmf.settings import ArchiveSource, FolderSource, Table
from dmf.study import PAPER_DATASETS


def test_every_entry_is_whole() -> None:
    assert set(PAPER_DATASETS) < set(entries())
    for name, entry in entries().items():
        assert ArchiveSource(kind=name).kind == name
        assert entry.images > 0, name
        assert entry.citation, name
        assert entry.licence, name
        assert entry.page.startswith("https://"), name
        assert all(str(p).startswith(("https://", "Kaggle ")) for p in entry.places), name


def test_only_the_paper_s_sets_need_code() -> None:
    for name in entries():
        reader = reader_of(ArchiveSource(kind=name, mask_threshold=99))
        assert isinstance(reader, FolderSource) == (name not in PAPER_DATASETS)
        assert reader.mask_threshold == 99


def test_what_the_settings_say_goes_before_the_catalogue() -> None:
    table = Table(file="mine.csv", lesion="class")
    told = subjects_of(ArchiveSource(kind="bus_uclm", table=table))
    assert told.table == table
    assert told.patient_pattern == r"^(\w{4})_"
    own = FolderSource(kind="folder", archive="x", patient_pattern="(a)")
    assert subjects_of(own).patient_pattern == "(a)"
    assert subjects_of(ArchiveSource(kind="udiat")).table is None


@pytest.mark.parametrize("name", ["bus_bra", "bus_uclm"])
def test_sets_with_a_table_name_its_columns(name: str) -> None:
    table = subjects_of(ArchiveSource(kind=name)).table
    assert table is not None
    assert table.lesion
