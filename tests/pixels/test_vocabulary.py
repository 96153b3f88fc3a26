"""Closed vocabularies."""

import pytest

from scoutview.pixels import vocabulary


@pytest.mark.parametrize(
    ("look_up", "text", "word"),
    [
        (vocabulary.modality, "ct", "CT"),
        (vocabulary.modality, "PET", "PT"),
        (vocabulary.modality, "OT", "other"),
        (vocabulary.modality, "", "unknown"),
        (vocabulary.body_part, "THORAX", "chest"),
        (vocabulary.body_part, "C-SPINE", "cervical_spine"),
        (vocabulary.body_part, "Mr. Smith", "other"),
        (vocabulary.body_part, "胸部", "other"),
        (vocabulary.projection, "pa", "PA"),
        (vocabulary.projection, "LL", "lateral"),
        (vocabulary.projection, "R-CC", "other"),
        (vocabulary.projection, "MLO", "MLO"),
        (vocabulary.laterality, "L", "left"),
        (vocabulary.laterality, "  ", "unknown"),
    ],
)
def test_vocabulary__maps_to_its_own_words(look_up, text, word):
    assert look_up(text) == word


def test_vocabulary__every_word_is_its_own_synonym():
    pairs = [
        (vocabulary.modality, vocabulary.MODALITIES),
        (vocabulary.body_part, vocabulary.BODY_PARTS),
        (vocabulary.projection, vocabulary.PROJECTIONS),
        (vocabulary.laterality, vocabulary.LATERALITIES),
    ]
    for look_up, words in pairs:
        assert [look_up(word) for word in words] == list(words)


def test_vocabulary__synonyms_lead_into_the_vocabulary():
    for table, words in (
        (vocabulary._MODALITY, vocabulary.MODALITIES),
        (vocabulary._BODY_PART, vocabulary.BODY_PARTS),
        (vocabulary._PROJECTION, vocabulary.PROJECTIONS),
        (vocabulary._LATERALITY, vocabulary.LATERALITIES),
    ):
        assert set(table.values()) <= {*words, vocabulary.OTHER}
